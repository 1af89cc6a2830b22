import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.bench import charts
from lifelong.bench.axes import Axis, spread
from lifelong.bench.charts import Dot, Line

CSS = Path(charts.__file__).with_name("templates").joinpath("report.css").read_text("utf-8")
HOSTILE = "</title><script>alert('x')</script>\"&"


def parse(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox")
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert not [one for one in root.iter() if one.tag.endswith("script")]
    return root


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in parse(svg).iter() if one.tag.endswith("text")]


def test_a_line_chart_labels_each_line_and_tells_its_values() -> None:
    lines = [
        Line("EWC", [(1, 1.0), (2, 0.5)], charts.series_color(0), band=[(0.9, 1.1), (0.4, 0.6)]),
        Line(HOSTILE, [(1, 0.3), (2, 0.3)], charts.series_color(1), dashed=True),
        Line("empty", [], charts.series_color(2)),
    ]
    svg = charts.line_chart(lines, Axis.steps(["A", HOSTILE], "after"), title=HOSTILE)
    assert {"EWC", HOSTILE, "empty"} <= set(texts(svg))
    assert "EWC, after A: 100.0" in svg
    assert "nan" not in svg


def test_a_chart_of_one_task_and_one_of_none() -> None:
    one = charts.line_chart([Line("a", [(1, 0.5)], "red")], Axis.steps(["A"], "x"), title="t")
    none = charts.line_chart([], Axis.steps(["A"], "x"), title="t")
    assert "circle" in one
    assert "circle" not in none
    parse(one)
    parse(none)


def test_a_scatter_shows_intervals_and_keeps_labels_apart() -> None:
    dots = [Dot(f"strategy {k}", 10.0 + k / 10, 0.9, "red", 0.8, 1.2) for k in range(4)]
    svg = charts.scatter([*dots, Dot(HOSTILE, 0, 0, "red")], Axis.linear([11], "s"), title="t")
    marks = [one for one in parse(svg).iter() if one.get("font-weight") == "600"]
    places = [(float(one.get("x", 0)), float(one.get("y", 0))) for one in marks]
    assert len(places) == 5
    assert all(abs(a[0] - b[0]) > 20 or abs(a[1] - b[1]) > 8 for a, b in combinations(places, 2))


def test_a_heat_map_shows_every_value_and_marks_what_is_not_learned() -> None:
    matrix = [[0.91, 0.12], [0.345, 0.88]]
    svg = charts.heat_map(matrix, title="R", tasks=["A", "B"])
    assert {"91", "12", "34", "88"} <= set(texts(svg))
    assert svg.count('class="later"') == 1
    assert "A after B: 34.5" in svg


def test_long_task_names_give_way_to_numbers_but_stay_in_the_tips() -> None:
    svg = charts.heat_map([[0.5, 0.5]], title="R", tasks=["a rather long name", HOSTILE])
    assert {"1", "2", "all"} <= set(texts(svg))
    assert "a rather long name after all" in svg


@given(st.integers(1, 40))
def test_a_ramp_is_a_color_for_every_task(count: int) -> None:
    ramp = [charts.ramp_color(k, count) for k in range(count)]
    assert len(set(ramp)) == count
    assert all(color.startswith(("var(--r", "color-mix(in oklab")) for color in ramp)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_spread_places_keep_their_distance(places: list[float]) -> None:
    moved = sorted(spread(places, gap=10, low=0, high=100))
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 100 + 1e-9


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=6), st.booleans())
def test_values_lie_on_their_axis(values: list[float], tight: bool) -> None:
    values = [round(value, 3) for value in values]
    for axis in (Axis.linear(values, "x", tight=tight), Axis.logarithmic(values, "x")):
        assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
        assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in axis.ticks)
        assert 1 <= len(axis.ticks) <= 10


def test_ticks_that_do_not_fit_are_thinned() -> None:
    axis = Axis.steps([f"{k}" for k in range(1, 41)], "x")
    fitted = axis.fitting(300, lambda text: 7.0 * len(text))
    assert 2 <= len(fitted) < 25


def variables(css: str) -> dict[str, str]:
    return dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-f]{6})", css))


LIGHT = variables(CSS[: CSS.index("@media")])
DARK = LIGHT | variables(CSS[CSS.index("@media") : CSS.index("* {")])


def luminance(color: str) -> float:
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_contrast_meets_wcag_aa(theme: dict[str, str]) -> None:
    series = [f"--s{k}" for k in range(8)] + [f"--r{k}" for k in range(6)]
    for name in (*series, "--ink", "--muted", "--link"):
        assert contrast(theme[name], theme["--paper"]) >= 4.5, name
    for name in ("--ink", "--muted"):
        assert contrast(theme[name], theme["--raised"]) >= 4.5, name
    for level in range(charts.LEVELS + 1):
        text = "--k-low" if level <= 5 else "--k-high"
        assert contrast(theme[text], theme[f"--h{level}"]) >= 4.5, level


def test_the_charts_fall_back_on_the_light_theme() -> None:
    assert [LIGHT[f"--s{k}"] for k in range(8)] == list(charts.SERIES)
    assert [LIGHT[f"--r{k}"] for k in range(6)] == list(charts.RAMP)


def test_a_line_that_lies_under_others_is_wider_than_they_are() -> None:
    lines = [
        Line("under", [(1, 0.9), (2, 0.5), (3, 0.2)], "red"),
        Line("apart", [(1, 0.9), (2, 0.5), (3, 0.9)], "green"),
        Line("over", [(1, 0.9), (2, 0.501), (3, 0.2)], "blue"),
    ]
    svg = charts.line_chart(lines, Axis.steps(["A", "B", "C"], "after"), title="t")
    widths = dict(re.findall(r'stroke="(red|green|blue)" stroke-width="(\d+)"', svg))
    assert widths == {"red": "6", "green": "2", "blue": "2"}
