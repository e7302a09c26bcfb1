"""What all figures share: style, colours and shapes of series, tooltips. Plain values of Vega-Lite specs.

Strings of records are only ever values of data and of scale domains: no expression, field name or title is built from
one. Numbers in a spec's data are rounded to what a reader can see.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from leaderboard.reader.controls import CONTROLS
from leaderboard.render.tables import clean

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5628f", "#3d9bd1", "#b98000")
"""After Okabe and Ito, the light ones darkened to 3:1 on white; with the shapes, 36 series can be distinguished."""
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "triangle-right")
GREY = "#7a7a7a"
CONTROL_SHAPES = ("circle", "cross", "square", "triangle-up", "triangle-down")
WIDTH = 640
"""Of a plot without its axes and legend, pixels."""
STYLE: Spec = {
    "background": "white",
    "font": "sans-serif",
    "padding": {"left": 5, "top": 5, "right": 40, "bottom": 5},  # for readers whose letters are wider than here
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "gridColor": "#e4e4e4",
    },
    "axisX": {"grid": False},
    "legend": {
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "symbolLimit": 0,
        "columnPadding": 24,
    },
}


def figure(description: str, values: Sequence[Mapping[str, Any]], **parts: Any) -> Spec:
    """A spec with the common style.

    Args:
        description: read to those who do not see it.
        values: its data, one mapping a mark.
        parts: what else a spec consists of.
    """
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": WIDTH,
        "data": {"name": "points", "values": list(values)},
        "config": STYLE,
        **parts,
    }


def series_of(methods: Mapping[str, str], shown: Collection[str]) -> Spec:
    """Channels ``color`` and ``shape`` of the field ``series``: methods in colours, then controls in grey.

    Args:
        methods: name -> method of all series that have a colour.
        shown: names of those that are in the figure.
    """
    known = {clean(name): method for name, method in methods.items()}
    own = sorted(name for name, method in known.items() if method not in CONTROLS)
    controls = sorted((CONTROLS.index(method), name) for name, method in known.items() if method in CONTROLS)
    looks = {name: (COLOURS[n % len(COLOURS)], SHAPES[n // len(COLOURS) % len(SHAPES)]) for n, name in enumerate(own)}
    looks |= {name: (GREY, CONTROL_SHAPES[n]) for n, name in controls}
    domain = [name for name in looks if name in {clean(name) for name in shown}]

    def channel(which: int) -> Spec:
        return {
            "field": "series",
            "type": "nominal",
            "title": None,
            "scale": {"domain": domain, "range": [looks[name][which] for name in domain]},
            "legend": {"columns": 1 if len(domain) <= 20 else 2, "symbolOpacity": 1},
        }

    return {"color": channel(0), "shape": channel(1)}


def picked(shown: float, dimmed: float) -> Spec:
    """Opacity of series that are picked in the legend (all, where none is), and of the others."""
    return {"condition": {"param": "pick", "value": shown}, "value": dimmed}


def band(mean: float, half: float | None) -> Spec:
    """An interval of per cent and its ends within 0 and 100, as data; without one, the ends are the mean."""
    low, high = max(mean - (half or 0), 0.0), min(mean + (half or 0), 100.0)
    return {"half": short(half), "low": short(low), "high": short(high)}


def short(value: float | None) -> float | None:
    """A number for data."""
    return None if value is None else round(value, 4)


def tip(field: str, title: str | None = None, form: str | None = None) -> Spec:
    """A line of a tooltip."""
    found: Spec = {"field": field, "title": field if title is None else title}
    if form:
        found |= {"type": "quantitative", "format": form}
    else:
        found |= {"type": "nominal"}
    return found
