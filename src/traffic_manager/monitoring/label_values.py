"""What the labels of metrics may say: the reasons, states and outcomes that others count by."""

from __future__ import annotations

from enum import StrEnum


class CacheRejection(StrEnum):
    """Why a value from Redis was not used."""

    MALFORMED = "malformed"  # not something that we wrote
    SCHEMA = "schema"  # of another version of this program
    KEY = "key"  # of another route
    SIGNATURE = "signature"  # not signed with our pepper


class AccessRefusal(StrEnum):
    """Why a request was refused for who asked."""

    UNAUTHENTICATED = "unauthenticated"  # no good credential
    FORBIDDEN = "forbidden"  # a good one that does not permit it


class StreamEnd(StrEnum):
    """Why a stream ended."""

    DRAINING = "draining"
    HISTORY_CHANGED = "history-changed"
    HISTORY_GONE = "history-gone"
    LIFE_OVER = "life-over"
    TOO_SLOW = "too-slow"
    UNAVAILABLE = "source-unavailable"
    CREDENTIAL_OVER = "credential-over"
    DISCONNECTED = "disconnected"


class Freshness(StrEnum):
    """How a worker's answers from memory are."""

    FRESH = "fresh"  # the database was at most a second ahead
    LAGGING = "lagging"  # flagged, though the database answers
    STALE = "stale"  # flagged: the database is away


class Load(StrEnum):
    """What is refused under too much of it: the first of these first."""

    LISTS = "lists"  # lists, histories, pages of changes, batches of changes, new streams
    WRITES = "writes"
    MISSES = "misses"  # resolves that the lane cannot answer
    RESOLVES = "resolves"


class HandshakeFailure(StrEnum):
    """Why a connection with TLS was not made."""

    TOO_SLOW = "too-slow"
    TOO_MANY = "too-many"
    REFUSED = "refused"  # by either side, or the client has gone


class Limited(StrEnum):
    """What was refused because somebody asked for more than they may."""

    RESOLVES = "resolves"
    WRITES = "writes"
    LISTS = "lists"


class Outcome(StrEnum):
    """How something ended that is tried again and again."""

    OK = "ok"
    FAILED = "failed"


class RetellingReason(StrEnum):
    """Why all routes are told to Kafka again."""

    NEW_EPOCH = "new-epoch"
    OTHER_TOPIC = "other-topic"
    OTHER_PARTITIONS = "other-partitions"
    COMPACTED = "compacted"
    ASKED_FOR = "asked-for"
