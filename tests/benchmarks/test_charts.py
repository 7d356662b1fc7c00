"""Charts are well-formed pictures that hold every point, whatever the values are."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from benchmarks.charts import bars, lines
from benchmarks.figures import Series
from benchmarks.report import draw

SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 our own picture


def test_bars_are_as_long_as_their_values_and_the_longest_comes_first() -> None:
    picture = drawn(bars("Rates", [Series("c", "ours", [(0, 50)]), Series("c", "nginx", [(0, 100)])]))

    names = [text.text for text in picture.iter(f"{SVG}text")]
    widths = [float(bar.attrib["width"]) for bar in list(picture.iter(f"{SVG}rect"))[1:]]
    assert names == ["Rates", "nginx", "100", "ours", "50"]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)


@pytest.mark.parametrize("is_log", [True, False])
@pytest.mark.parametrize(
    "values", [(0.4, 2.5, 31.0), (7.0, 7.0, 7.0), (10_000, 350_000, 1_000_000), (1, 10, 100)]
)
def test_every_point_lies_inside_the_picture(values: tuple[float, ...], is_log: bool) -> None:
    line = Series("c", "ours <&> theirs", list(zip((50.0, 99.0, 99.9), values, strict=True)))

    picture = drawn(lines("Latency", "percentile", "ms", [line], is_log=is_log))

    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter(f"{SVG}circle")]
    assert len(places) == len(values)
    assert all(0 < x < 760 and 55 < y < 325 for x, y in places)


def test_points_that_were_measured_one_by_one_are_one_line() -> None:
    points = [Series("memory", "1 worker", [(count, 90.0)]) for count in (1000, 10)]

    picture = drawn(draw(points)["memory"])

    (line,) = picture.iter(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 2
