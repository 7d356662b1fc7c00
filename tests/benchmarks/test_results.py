"""The guard says what is slower than the committed run; a run is kept and read back whole."""

from __future__ import annotations

from benchmarks.figures import Figure, Series, at_least, at_most
from benchmarks.report import growth, readme, table
from benchmarks.results import Results, joined, read, slower


def a_run(*figures: Figure, date: str = "2026-01-01") -> Results:
    return Results(date, "bench", {"cores": "2"}, list(figures))


def a_rate(name: str = "resolve", ours: tuple[float, ...] = (100.0,), theirs: float = 200.0) -> Figure:
    return Figure(name, "resolve", "/s", ours, "nginx", [theirs] * len(ours), at_least(0.5, aim=0.8))


def a_wait(*ours_ms: float) -> Figure:
    return Figure("alone", "p50 of a PUT", "ms", ours_ms, target=at_most(3), is_better_high=False)


def test_a_rate_that_fell_against_its_peer_is_named() -> None:
    (line,) = slower(a_run(a_rate(ours=(80.0,))), a_run(a_rate(ours=(100.0,))))

    assert line == "resolve: 0.4, was 0.5 (resolve)"


def test_a_rate_that_fell_together_with_its_peer_is_not_slower() -> None:
    assert slower(a_run(a_rate(ours=(50.0,), theirs=100.0)), a_run(a_rate(ours=(100.0,)))) == []


def test_a_faster_run_is_not_slower() -> None:
    assert slower(a_run(a_rate(ours=(150.0,)), a_wait(1.0)), a_run(a_rate(), a_wait(3.0))) == []


def test_a_longer_wait_is_slower() -> None:
    assert slower(a_run(a_wait(3.0)), a_run(a_wait(2.0))) == ["alone: 3 ms, was 2 ms (p50 of a PUT)"]


def test_what_lies_within_the_spread_of_the_rounds_is_not_slower() -> None:
    assert slower(a_run(a_wait(2.0, 2.6, 3.2)), a_run(a_wait(1.9, 2.1, 2.2))) == []


def test_a_figure_that_was_not_measured_before_is_not_slower() -> None:
    assert slower(a_run(a_wait(9.0)), a_run(a_rate())) == []


def test_a_run_reads_back_as_it_was_written() -> None:
    line = Series("latency", "ours", [(50.0, 0.4), (99.0, 2.5)])
    run = Results("2026-01-01", "full", {"cores": "2"}, [a_rate(), a_wait(2.0, 3.0)], [line])

    again = read(run.as_text())

    assert (again.as_text(), again.series) == (run.as_text(), run.series)


def test_a_second_run_of_the_day_replaces_what_it_measured_again_and_keeps_the_rest() -> None:
    kept = joined(a_run(a_rate(), a_wait(9.0)), a_run(a_wait(2.0)))

    assert [(figure.name, list(figure.ours)) for figure in kept.figures] == [
        ("resolve", [100.0]),
        ("alone", [2.0]),
    ]


def test_a_second_run_of_the_day_keeps_the_points_that_it_did_not_measure_again() -> None:
    first = Results(
        "2026-01-01", "full", {}, [], [Series("memory", "1 worker", [(10.0, 90.0), (1000.0, 300.0)])]
    )
    second = Results("2026-01-01", "bench", {}, [], [Series("memory", "1 worker", [(10.0, 95.0)])])

    points = [point for line in joined(first, second).series for point in line.points]

    assert sorted(points) == [(10.0, 95.0), (1000.0, 300.0)]


def test_a_target_is_held_against_the_median_of_the_ratios_or_of_our_own_values() -> None:
    figures = [a_rate(ours=(90.0, 110.0, 900.0)), a_rate(ours=(90.0,)), a_wait(2.0, 2.9, 9.0), a_wait(3.1)]

    assert [figure.is_met for figure in figures] == [True, False, True, False]


def test_the_table_tells_ratio_spread_target_and_verdict() -> None:
    row = table([a_rate(ours=(80.0, 90.0, 120.0))]).splitlines()[-1]

    assert row == "| resolve | 90/s | nginx: 200/s | 0.45 (0.40–0.60) | ≥ 0.5, aim 0.8 | **no** |  |"


def test_the_page_counts_the_targets_that_are_met() -> None:
    assert "1 of 2 targets are met." in readme(a_run(a_rate(), a_wait(4.0)), "", [])


def test_what_was_measured_at_several_sizes_is_one_row_with_a_column_each() -> None:
    sizes = [
        Figure(f"size.memory.{n}", f"memory, {n:,} routes", "MB", [90.0 + n / 1000]) for n in (1000, 20_000)
    ]

    assert growth(sizes).splitlines() == [
        "| what | 1,000 routes | 20,000 routes |",
        "| --- | --- | --- |",
        "| memory | 91 MB | 110 MB |",
    ]
