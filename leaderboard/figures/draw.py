"""Figures as Vega-Lite specs, which are plain dicts: pages draw them interactively, ``save`` writes them for papers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bench.errors import UsageError
from leaderboard.figures.plot_style import COLOURS, Spec, figure, picked, series_of, short, tip
from leaderboard.reader.curve_model import Profile, Ranking
from leaderboard.render.tables import clean

VERSION = "6.4"
"""Of Vega-Lite."""
FORMATS = (".svg", ".png", ".json")
PAIRED = re.compile("[\U00010000-\U0010ffff\ud800-\udfff]")
COUNTED = re.compile(r"((?:id=\"|url\(#)(?:gradient_|clip))(\d+)")


def profile(given: Profile, methods: Mapping[str, str] | None = None) -> Spec:
    """Share of tables in which a row lies within tau of the best, over tau.

    Args:
        methods: name -> method of all series that have a colour on the page; None for those of the profile only.
    """
    values = [
        {"series": clean(name), "tau": short(tau), "share": short(share)}
        for name, line in given.lines
        for tau, share in line
    ]
    x = {
        "field": "tau",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "axis": {"values": [1, 1.25, 1.5, 2, 2.5, 3, 4], "format": "~g"},
        "title": given.axis,
    }
    y = {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1]}, "title": "share of tables"}
    shown = [name for name, _ in given.lines]
    series = series_of(methods or {name: name.partition(" ")[0] for name in shown}, shown)
    line = {
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
        "encoding": {
            "x": x,
            "y": y,
            "color": series["color"],
            "opacity": picked(0.85, 0.08),
            "tooltip": [tip("series", "method"), tip("tau", "within", ".2f"), tip("share", "share of tables", ".2f")],
        },
    }
    # a mark of the same shape as in the other figures where each line ends
    last = {
        "params": [{"name": "pick", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
        "transform": [
            {"joinaggregate": [{"op": "max", "field": "tau", "as": "last"}], "groupby": ["series"]},
            {"filter": "datum.tau == datum.last"},
        ],
        "mark": {"type": "point", "filled": True, "size": 45},
        "encoding": {"x": x, "y": y, **series, "opacity": picked(0.95, 0.08)},
    }
    return figure("Performance profile.", values, layer=[line, last], height=320)


def ranking(given: Ranking) -> Spec:
    """Mean ranks, best on top; a bar on the right spans names without a significant difference."""
    order = [clean(name) for name, _ in given.ranks]
    values = [{"is": "rank", "series": clean(name), "rank": short(rank)} for name, rank in given.ranks]
    for column, group in enumerate(given.groups):
        values.append({"is": "group", "first": clean(group[0]), "last": clean(group[-1]), "column": column})
    best = min((rank for _, rank in given.ranks), default=1.0)
    values.append({"is": "critical", "rank": short(best), "end": short(best + given.critical)})
    scale = {"domain": order}
    x = {"field": "rank", "type": "quantitative", "title": "mean rank", "scale": {"zero": False}}
    y = {"field": "series", "type": "nominal", "title": None, "scale": scale, "sort": None}
    right = {"value": {"expr": "width + 10 + 7 * datum.column"}}
    layers = [
        {
            "transform": [{"filter": "datum.is == 'critical'"}],
            "mark": {"type": "rule", "strokeWidth": 1.5},
            "encoding": {"x": x, "x2": {"field": "end"}, "y": {"value": -8}},
        },
        {
            "transform": [{"filter": "datum.is == 'critical'"}],
            "mark": {"type": "text", "align": "left", "baseline": "bottom", "dy": -3},
            "encoding": {"x": x, "y": {"value": -8}, "text": {"value": f"critical difference {given.critical:.2f}"}},
        },
        {
            "transform": [{"filter": "datum.is == 'rank'"}],
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1, "color": COLOURS[0]},
            "encoding": {"x": x, "y": y, "tooltip": [tip("series", "method"), tip("rank", "mean rank", ".2f")]},
        },
        {
            "transform": [{"filter": "datum.is == 'group'"}],
            "mark": {"type": "rule", "strokeWidth": 3, "color": COLOURS[0], "opacity": 0.7, "clip": False},
            "encoding": {"x": right, "y": {**y, "field": "first"}, "y2": {"field": "last"}},
        },
    ]
    return figure("Mean ranks; bars span insignificant differences.", values, layer=layers, height=17 * len(order))


def svg(spec: Spec) -> str:
    """The spec drawn, without descriptions of single marks: the same text each time."""
    import vl_convert

    config = spec.get("config", {}) | {"aria": False}
    text = vl_convert.vegalite_to_svg(_drawable(spec | {"config": config}), vl_version=VERSION)
    numbers: dict[str, int] = {}  # the drawer numbers its gradients and clips through all that it draws
    return COUNTED.sub(lambda found: f"{found[1]}{numbers.setdefault(found[2], len(numbers))}", text)


def _drawable(spec: Spec) -> str:
    """The spec as JSON with U+FFFD for what the drawer holds as two characters: it would cut long labels inside one."""
    return PAIRED.sub("\ufffd", json.dumps(spec, ensure_ascii=False))


@cache
def bundle() -> str:
    """The script that draws specs in a page: defines ``vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle(vl_version=VERSION)  # type: ignore[call-arg]  # the stub forgets a default


def save(spec: Spec, path: Path) -> None:
    """Write a figure for a paper, by the ending of ``path``: ``.svg``, ``.png`` with 300 dpi, or ``.json``.

    Raises UsageError for another ending.
    """
    import vl_convert

    if path.suffix == ".svg":
        path.write_text(svg(spec), encoding="utf-8")
    elif path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(_drawable(spec), vl_version=VERSION, ppi=300))
    elif path.suffix == ".json":
        path.write_text(json.dumps(spec, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        raise UsageError(f"figure {path.name}: the ending is one of {', '.join(FORMATS)}")
