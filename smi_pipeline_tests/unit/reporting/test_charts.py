"""Charts are right in proportion, well-formed, and no label of theirs meets another."""

import base64
import random
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from smi_pipeline.formatting import duration, money
from smi_pipeline.reporting import charts
from smi_pipeline.reporting.charts import Bar, Range
from smi_pipeline.reporting.presentation import tick

SVG = "{http://www.w3.org/2000/svg}"
DAYS = [f"{day} Nov" for day in range(17, 31)]


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def boxes(svg: str) -> list[tuple[str, float, float, float, float]]:
    """Each text with the box it covers, at the width of a wide font."""
    found = []
    for text in drawn(svg).iter(f"{SVG}text"):
        words = text.text or ""
        width = len(words) * 6.6
        x, y = float(text.get("x", 0)), float(text.get("y", 0))
        left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
        found.append((words, left, y - 10, left + width, y + 2))
    return found


def collisions(svg: str) -> list[tuple[str, str]]:
    return [
        (one[0], two[0])
        for one, two in combinations(boxes(svg), 2)
        if one[1] < two[3] and two[1] < one[3] and one[2] < two[4] and two[2] < one[4]
    ]


def waterfall(cents: int) -> str:
    return charts.bars(
        "money",
        [
            Bar("revenue", cents, money(cents, "usd")),
            Bar("refunds", -cents // 2, money(-cents // 2, "usd"), start=cents),
            Bar("net margin", -cents // 3, money(-cents // 3, "usd")),
        ],
    )


def columns(highest: int) -> str:
    values = [random.Random(n).uniform(0, highest) for n in range(14)]
    return charts.columns(
        "jobs",
        DAYS,
        [("delivered", charts.GAIN, values), ("refunded", charts.LOSS, values)],
        newest="100.0%",
        limit=("budget 1,000,000", highest / 3),
    )


def few_columns(count: int) -> str:
    values = [1.0] * count
    return charts.columns("jobs", DAYS[:count], [("a", "red", values)], newest="100.0%")


def ranges(first: float) -> str:
    rows = [
        Range(name, [("median", first * n), ("95%", first * n * 4)], f"{duration(first * n)} · 95%: {duration(first)}")
        for n, name in enumerate(["paid → submitted", "submitted → result ready", "paid → closing mail"], 1)
    ]
    return charts.ranges("times", rows, ("promise: 15 min", 900), tick)


@pytest.mark.parametrize("size", [0.002, 0.5, 3, 80, 7_000, 400_000])
def test_no_label_meets_another_and_none_leaves_the_picture(size):
    for svg in (waterfall(int(size * 1000) + 1), columns(int(size) + 1), ranges(size)):
        height = float(drawn(svg).get("viewBox", "").split()[3])
        assert collisions(svg) == []
        assert all(box[1] >= -3 and box[3] <= charts.WIDTH + 3 and box[4] <= height + 1 for box in boxes(svg))


@pytest.mark.parametrize("count", range(1, 15))
def test_labels_of_few_periods_do_not_meet_either(count):
    svg = few_columns(count)
    assert collisions(svg) == []
    assert all(box[1] >= -3 and box[3] <= charts.WIDTH + 3 for box in boxes(svg))


def lines(svg: str) -> list[tuple[float, float, float]]:
    """Vertical lines as (x, top, bottom)."""
    paths = (re.fullmatch(r"M([\d.]+) ([\d.]+)V([\d.]+)", path.get("d", "")) for path in drawn(svg).iter(f"{SVG}path"))
    return [(float(found[1]), float(found[2]), float(found[3])) for found in paths if found]


@pytest.mark.parametrize("size", [0.002, 0.5, 3, 80, 7_000])
def test_no_line_passes_through_words(size):
    """Neither that of the promise, nor the scale's, nor the zero of a loss."""
    for svg in (ranges(size), waterfall(int(size * 1000) + 1)):
        assert lines(svg)
        crossed = [
            (words, x)
            for words, left, top, right, bottom in boxes(svg)
            for x, start, end in lines(svg)
            if left < x < right and start < bottom and top < end
        ]
        assert crossed == []


def test_nothing_has_no_bar_and_nothing_at_all_no_chart():
    svg = drawn(charts.bars("x", [Bar("a", 10, "10"), Bar("b", 0, "0", colour="red")]))
    assert not [bar for bar in svg.iter(f"{SVG}rect") if bar.get("fill") == "red"]
    assert charts.columns("x", ["1"], [("a", "red", [0.0])]) == ""


def test_bars_are_as_long_as_their_values():
    svg = drawn(charts.bars("x", [Bar("a", 10, "10"), Bar("b", 5, "5"), Bar("c", -5, "-5", start=10)]))
    widths = [float(bar.get("width", 0)) for bar in svg.iter(f"{SVG}rect") if bar.get("fill") == charts.TOTAL]
    assert widths == pytest.approx([398, 199, 199], abs=0.2)


def test_columns_are_as_high_as_their_values_and_stand_on_each_other():
    svg = drawn(charts.columns("x", ["1", "2"], [("a", "red", [4, 2]), ("b", "blue", [0, 2])]))
    found = [(bar.get("fill"), float(bar.get("height", 0)), float(bar.get("y", 0))) for bar in svg.iter(f"{SVG}rect")]
    assert found[:3] == [("red", 140.0, 20.0), ("red", 70.0, 90.0), ("blue", 70.0, 20.0)]


def test_words_that_look_like_markup_stay_words():
    svg = charts.bars("<x>", [Bar("<script>&", 1, '"1"')])
    assert [text.text for text in drawn(svg).iter(f"{SVG}text")] == ["<script>&", '"1"']


@pytest.mark.parametrize("values", [[], [None] * 14, [0.0] * 14, [-1.5, None, 3.0] * 5, [123_456.789] * 14])
def test_the_small_chart_is_an_image_that_the_ui_shows_without_a_click(values):
    url = charts.tiny(values, ("30 Sep", "30 Nov"))
    assert len(url) < 900
    svg = drawn(base64.b64decode(url.partition("base64,")[2]).decode())
    assert svg.tag == f"{SVG}svg"
    paths = "".join(path.get("d", "") for path in svg.iter(f"{SVG}path"))
    assert paths.count("M") == sum(value is not None for value in values[-14:])
