"""The breaks that are kept, and what has to notice each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATCHES = Path(__file__).parent


@dataclass(frozen=True)
class Break:
    """The patch *name*, what is chosen of *module* (a path below `tests`) by *words* to catch it, and which of the
    bugs B1 to B14 of other systems it is, if one."""

    name: str
    module: str
    words: str
    bug: str = ""

    @property
    def patch(self) -> Path:
        """Where the patch is."""
        return PATCHES / f"{self.name}.patch"

    @property
    def meaning(self) -> str:
        """What the break does, in a sentence."""
        return self.patch.read_text().partition("\n")[0]


_MIRROR = ("routing/test_bounded_mirror.py", "no_answer_of_a_mirror_that_grows_and_shrinks")
_ONE_ORDER = ("promises/test_one_order.py", "four_processes")

BREAKS = [
    Break("revisions_from_a_sequence", *_ONE_ORDER, "B1"),
    Break("no_revision_lock", *_ONE_ORDER, "B1"),
    Break("changes_in_the_order_of_their_times", "db/test_feed.py", "whatever_the_clock_said", "B2"),
    Break("no_memory_of_what_was_shown", "routing/test_resolver.py", "later_reads_do_not_go_behind_it", "B3"),
    Break("what_was_shown_is_not_asked", *_MIRROR, "B3"),
    Break("what_was_shown_overtakes_changes", *_MIRROR, "B3"),
    Break("cached_values_are_not_checked", "promises/test_sessions.py", "under_load or forgets", "B4"),
    Break("late_look_ups_are_not_checked", *_MIRROR, "B4"),
    Break("failed_look_ups_are_remembered", *_MIRROR, "B5"),
    Break(
        "not_found_when_the_database_fails", "promises/test_knowledge.py", "without_mirror_and_database", "B5"
    ),
    Break("cached_entries_of_other_keys_are_taken", "cache/test_route_cache.py", "hostile_entry", "B6"),
    Break("signatures_are_not_checked", "cache/test_route_cache.py", "another_url_is_a_miss", "B6"),
    Break("another_epoch_is_believed", *_MIRROR, "B6"),
    Break("tenants_share_cached_entries", "cache/test_route_cache.py", "other_keys_stay_apart", "B7"),
    Break("tenants_share_look_ups", "routing/test_resolver.py", "those_of_others_do_not", "B7"),
    Break("callers_share_idempotency_keys", "routing/test_once.py", "each_principal", "B7"),
    Break("checkpoint_before_acknowledgement", "events/test_shift.py", "what_is_not_acknowledged", "B8"),
    Break("two_events_of_a_key_in_flight", "events/test_waves.py", "order_of_each_key", "B9"),
    Break("answer_before_commit", "promises/test_durability.py", "no_answer_comes_before_the_commit", "B10"),
    Break("lock_and_head_in_one_statement", *_ONE_ORDER, "B11"),
    Break("boundary_in_a_transaction_of_its_own", "db/test_retention.py", "half_way", "B12"),
    Break("digests_are_not_compared", "routing/test_follower.py", "even_if_more_were_made", "B13"),
    Break("readiness_follows_redis", "monitoring/test_health.py", "broken_cache", "B14"),
    Break("late_callers_join_a_question", "routing/test_look_ups.py", "read_before_he_asked"),
    Break("token_ignored", "api/test_sessions.py", "another_history_is_412"),
    Break("strong_reads_from_memory", "promises/test_sessions.py", "a_strong_read_sees"),
    Break("no_flag", "routing/test_resolver.py", "says_how_old_it_is"),
    Break("dead_connections_stay_in_the_pool", "db/test_errors.py", "server_closed_is_not_lent"),
    Break("one_revision_for_all_that_was_shown", "routing/test_resolver.py", "no_other_keys_value_refused"),
    Break("own_writes_by_a_side_door", "routing/test_resolver.py", "seen_late"),
    Break("not_found_after_a_drop", *_MIRROR),
    Break("complete_without_a_load", "routing/test_follower.py", "shrunk_well_below_the_limit"),
    Break("held_routes_are_not_followed", *_MIRROR),
    Break("left_history_comes_back", *_MIRROR),
    Break("signed_without_a_look", "audit/test_tampering.py", "nothing_is_signed"),
    Break("addresses_are_not_in_the_digest", "audit/test_tampering.py", "a_hundred_tamperings"),
]
