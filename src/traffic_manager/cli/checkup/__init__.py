"""What `traffic-manager doctor` looks at: a module for each thing, each of which yields findings."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad a finding is. Only a problem is one: advice is for when there is time."""

    GOOD = "good"
    ADVICE = "advice"
    PROBLEM = "problem"
    UNUSED = "not used"


class Finding(NamedTuple):
    """*what* was found by a *check*, and the *fix*, empty where nothing is to be done."""

    check: str
    level: Level
    what: str
    fix: str = ""


Findings = Iterator[Finding]


def good(check: str, what: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.GOOD, what)


def advice(check: str, what: str, fix: str) -> Finding:
    """Return what could be better."""
    return Finding(check, Level.ADVICE, what, fix)


def problem(check: str, what: str, fix: str) -> Finding:
    """Return what has to be mended."""
    return Finding(check, Level.PROBLEM, what, fix)


def unused(check: str, what: str) -> Finding:
    """Return that there is nothing to look at."""
    return Finding(check, Level.UNUSED, what)
