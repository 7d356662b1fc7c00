"""What a scenario hands back: figures with their rounds, peers and targets, and series for the charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self


@dataclass(frozen=True)
class Target:
    """What a figure has to reach, and what it aims at: of its ratio if it has a peer, else of itself."""

    limit: float
    is_least: bool
    aim: float | None = None

    def is_met_by(self, value: float) -> bool:
        return value >= self.limit if self.is_least else value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        aim = f", aim {self.aim:g}" if self.aim is not None else ""
        return f"{sign} {self.limit:g}{aim}"


def at_least(limit: float, aim: float | None = None) -> Target:
    """Return the target of a figure that should be high."""
    return Target(limit, is_least=True, aim=aim)


def at_most(limit: float, aim: float | None = None) -> Target:
    """Return the target of a figure that should be low."""
    return Target(limit, is_least=False, aim=aim)


@dataclass(frozen=True)
class Figure:
    """One line of the table. *ours* has a value for each round, and so has *theirs*, which the *peer* gave in the
    same rounds, in turn with ours. *is_better_high* tells the guard which way is slower. *note* goes beside it, such
    as the CPU time of the servers per request. *name* stays the same from run to run."""

    name: str
    what: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    target: Target | None = None
    is_better_high: bool = True
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours over the peer's, round by round; empty without a peer."""
        return [mine / other for mine, other in zip(self.ours, self.theirs, strict=bool(self.theirs))]

    @property
    def measured(self) -> list[float]:
        """What the target and the guard look at: the ratios, or else our own values."""
        return self.ratios or list(self.ours)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached by the median; None without a target."""
        return self.target.is_met_by(median(self.measured)) if self.target else None

    def as_json(self) -> dict[str, Any]:
        """Return the figure as results/*.json keeps it."""
        told = {"ratios": self.ratios, "median": median(self.measured), "is_met": self.is_met}
        return asdict(self) | told

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the figure that `as_json` wrote."""
        fields = {name: document[name] for name in cls.__dataclass_fields__}
        target = fields["target"]
        return cls(**fields | {"target": Target(**target) if target else None})


@dataclass(frozen=True)
class Series:
    """Points of a line in one of the charts, as (x, y)."""

    chart: str
    name: str
    points: Sequence[tuple[float, float]] = field(default_factory=list)


Outcome = Figure | Series
