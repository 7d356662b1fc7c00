"""The figures of a load: for people, and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from traffic_manager.cli import output
from traffic_manager.cli.load.histogram import Histogram
from traffic_manager.cli.load.ledger import ANSWERED, CHANGE, RESOLVE, SEEN, SLICES, WATCH, Ledger
from traffic_manager.cli.load.plan import Load

_PERCENTS = (50, 90, 99, 99.9)
_KINDS = (RESOLVE, CHANGE, SEEN, WATCH)
_BAR_WIDTH = 40
# Above this part of the requests, waiting for a connection is worth a word.
_MANY_WAITED = 0.01

Json = dict[str, Any]  # Any: JSON values


class Report:
    """What *ledger* says of *load*."""

    def __init__(self, load: Load, processes: int, ledger: Ledger) -> None:
        self._load = load
        self._processes = processes
        self._ledger = ledger
        self._asked = (load.resolves + load.changes) * ledger.duration_s
        self.kept_up = ledger.kept_up(self._asked)

    def show(self) -> None:
        """Write a table and charts, and on stderr what has to be known about them."""
        percents = tuple(f"p{percent:g} ms#" for percent in _PERCENTS)
        output.table(("request", "status", "count#", "per s#", *percents, "max ms#"), self._cells())
        for text in self._charts():
            output.line(text)
        for text in self._remarks():
            output.note(text)

    def document(self, *, was_interrupted: bool) -> Json:
        """Return all figures."""
        load, ledger = self._load, self._ledger
        return {
            "asked": {
                "resolves_per_s": load.resolves,
                "changes_per_s": load.changes,
                "routes": load.routes,
                "watchers": load.watchers,
                "connections": load.connections,
                "processes": self._processes,
                "seconds": load.duration_s,
            },
            "measured_seconds": round(ledger.duration_s, 3),
            "was_interrupted": was_interrupted,
            "requests": [self._row(*key) for key in self._rows()],
            "over_time": list(self._over_time()),
            "unseen": ledger.unseen,
            "generator": {
                "kept_up": self.kept_up,
                "due": round(self._asked),
                "begun": ledger.lateness.count,
                "waited_for_a_connection": ledger.waited,
                "late_ms": _latencies(ledger.lateness),
                "busy": [round(part, 3) for part in ledger.busy],
            },
        }

    @property
    def lateness(self) -> str:
        """How late the generator itself was, in words."""
        ledger = self._ledger
        late_ms = _ms(ledger.lateness.percentile_us(99) or 0)
        busy = ", ".join(f"{part:.0%}" for part in ledger.busy)
        return (
            f"it began {ledger.lateness.count:,} of {self._asked:,.0f} requests, one in a hundred of them {late_ms} "
            f"ms late or later; busy for {busy or '-'} of a core"
        )

    def _rows(self) -> list[tuple[str, str]]:
        return sorted(self._ledger.outcomes, key=lambda key: (_KINDS.index(key[0]), key[1]))

    def _row(self, kind: str, outcome: str) -> Json:
        histogram = self._ledger.outcomes[kind, outcome]
        return {
            "request": kind,
            "status": outcome,
            "count": histogram.count,
            "per_s": round(self._rate(histogram), 3),
            "ms": _latencies(histogram),
        }

    def _cells(self) -> Iterator[Sequence[str]]:
        for kind, outcome in self._rows():
            histogram = self._ledger.outcomes[kind, outcome]
            times = [_ms(histogram.percentile_us(percent) or 0) for percent in _PERCENTS]
            rate = f"{self._rate(histogram):,.1f}"
            yield kind, outcome, f"{histogram.count:,}", rate, *times, _ms(histogram.longest_us)

    def _rate(self, histogram: Histogram) -> float:
        return histogram.count / self._ledger.duration_s if self._ledger.duration_s else 0.0

    def _over_time(self) -> Iterator[Json]:
        for number, histogram in sorted(self._ledger.resolves.items()):
            begins = round(number * self._ledger.slice_s, 3)
            yield {"from_s": begins, "resolves": histogram.count, "ms": _latencies(histogram)}

    def _charts(self) -> Iterator[str]:
        resolves = self._ledger.resolves
        if not resolves:
            return
        yield f"\nresolves over time, {self._ledger.slice_s:.2g} s each"
        for percent in (50, 99):
            line = [
                resolves[number].percentile_us(percent) or 0 if number in resolves else 0
                for number in range(SLICES)
            ]
            yield f"  p{percent}  {output.chart(line)}  at most {_ms(max(line))} ms"
        yield from self._distribution()

    def _distribution(self) -> Iterator[str]:
        """Yield a bar for each doubling of the time."""
        answered = self._ledger.outcomes.get((RESOLVE, ANSWERED))
        if answered is None:
            return
        doublings: dict[int, int] = {}
        for upper_us, counted in answered.counts():
            doubling = upper_us.bit_length()
            doublings[doubling] = doublings.get(doubling, 0) + counted
        most = max(doublings.values())
        yield "\nresolves answered, by time"
        for doubling in range(min(doublings), max(doublings) + 1):
            counted = doublings.get(doubling, 0)
            bar = "█" * round(_BAR_WIDTH * counted / most)
            yield f"  below {_ms(1 << doubling):>9} ms  {counted / answered.count:>7.2%}  {bar}".rstrip()

    def _remarks(self) -> Iterator[str]:
        ledger = self._ledger
        if ledger.unseen:
            yield f"changes reached watchers {ledger.unseen:,} times less often than they were acknowledged"
        if ledger.waited > _MANY_WAITED * ledger.lateness.count:
            yield (
                f"{ledger.waited:,} requests waited for one of the {self._load.connections} connections: the server "
                "answers too slowly for this rate, or --connections is too low"
            )
        if self.kept_up:
            yield f"the generator kept up: {self.lateness}"


def _latencies(histogram: Histogram) -> Json:
    """Return percentiles in milliseconds; null of nothing."""
    found = {f"p{percent:g}": histogram.percentile_us(percent) for percent in _PERCENTS}
    found["max"] = histogram.longest_us if histogram.count else None
    return {name: None if value is None else value / 1000 for name, value in found.items()}


def _ms(duration_us: int) -> str:
    return f"{duration_us / 1000:,.2f}"
