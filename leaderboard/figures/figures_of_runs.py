"""Small figures: training of one run, one method over budgets, widths as a heat map."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.figures.plot_style import COLOURS, GREY, Spec, figure, tip


def training(values: Sequence[Mapping[str, Any]] = ()) -> Spec:
    """Training curve of one run.

    Args:
        values: one an epoch: ``epoch`` (over all phases), ``part``, ``top1`` (validation, per cent), ``val_loss``,
            ``train_loss`` (nats), ``units`` (per cent of the units left); what is missing is not drawn.
    """
    labels = {
        "top1": "validation top-1, %",
        "train_loss": "training loss, nats",
        "val_loss": "validation loss, nats",
        "units": "units left, %",
    }
    encoding = {
        "x": {
            "field": "epoch",
            "type": "quantitative",
            "title": "epoch",
            "scale": {"nice": False},
            "axis": {"tickMinStep": 1, "format": "d"},
        },
        "y": {
            "field": "y",
            "type": "quantitative",
            "axis": {"title": {"signal": "shown_title"}},
            "scale": {"zero": False},
        },
        "color": {"field": "part", "type": "nominal", "title": None, "sort": None, "scale": {"range": list(COLOURS)}},
        "tooltip": [
            tip("epoch"),
            tip("part"),
            tip("top1", labels["top1"], ".2f"),
            tip("train_loss", labels["train_loss"], ".4f"),
            tip("val_loss", labels["val_loss"], ".4f"),
            tip("units", labels["units"], ".1f"),
        ],
    }
    return figure(
        "Training curve.",
        values,
        params=[
            {
                "name": "shown",
                "value": "top1",
                "bind": {"input": "select", "name": "show ", "options": list(labels), "labels": list(labels.values())},
            },
            {"name": "shown_title", "expr": f"({json.dumps(labels)})[shown]"},
        ],
        transform=[{"calculate": "datum[shown]", "as": "y"}, {"filter": "isValid(datum.y)"}],
        mark={"type": "line", "point": {"size": 22, "filled": True}, "strokeWidth": 1.3},
        encoding=encoding,
        height=230,
    )


def comparison(values: Sequence[Mapping[str, Any]] = ()) -> Spec:
    """One method over budgets, with two controls.

    Args:
        values: one a budget: ``keep``, ``top1``, ``half``, ``random``, ``thin`` (all per cent but ``keep``).
    """
    names = {"top1": "this method", "random": "random units", "thin": "thin from scratch"}
    x = {
        "field": "keep",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "axis": {"format": "~g", "values": {"expr": "pluck(data('points'), 'keep')"}},
        "title": "share kept",
    }
    y = {"field": "value", "type": "quantitative", "scale": {"zero": False}, "title": "top-1, %"}
    looks = {
        "color": {"scale": {"domain": list(names.values()), "range": [COLOURS[0], GREY, GREY]}},
        "shape": {"scale": {"domain": list(names.values()), "range": ["circle", "cross", "triangle-up"]}},
    }
    colour, shape = ({"field": "who", "type": "nominal", "title": None, **looks[k]} for k in ("color", "shape"))
    return figure(
        "Accuracy over the kept ratio, with random units and a thin network from scratch.",
        values,
        transform=[
            {"fold": list(names), "as": ["key", "value"]},
            {"filter": "isValid(datum.value)"},
            {"calculate": f"({json.dumps(names)})[datum.key]", "as": "who"},
            {"calculate": "datum.key == 'top1' ? datum.value - datum.half : null", "as": "low"},
            {"calculate": "datum.key == 'top1' ? datum.value + datum.half : null", "as": "high"},
        ],
        layer=[
            {
                "transform": [{"filter": "datum.key == 'top1'"}],
                "mark": {"type": "area", "opacity": 0.3, "color": COLOURS[0]},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {"mark": {"type": "line", "strokeWidth": 1.4}, "encoding": {"x": x, "y": y, "color": colour}},
            {
                "mark": {"type": "point", "filled": True, "size": 50},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": shape,
                    "tooltip": [tip("who", ""), tip("keep", "share kept", "~g"), tip("value", "top-1, %", ".2f")],
                },
            },
        ],
        height=230,
    )


def widths(values: Sequence[Mapping[str, Any]]) -> Spec:
    """What is left of every site at every budget, as a heat map.

    Args:
        values: ``site``, ``budget`` (its title), ``kept`` (per cent, mean over seeds), sites and budgets in order.
    """
    budgets = list(dict.fromkeys(value["budget"] for value in values))
    sites = list(dict.fromkeys(value["site"] for value in values))
    return figure(
        "Units kept of every site at every budget.",
        values,
        mark={"type": "rect"},
        encoding={
            "x": {"field": "budget", "type": "nominal", "title": None, "scale": {"domain": budgets}, "sort": None},
            "y": {"field": "site", "type": "nominal", "title": None, "scale": {"domain": sites}, "sort": None},
            "color": {
                "field": "kept",
                "type": "quantitative",
                "title": "units kept, %",
                "scale": {"domain": [0, 100], "scheme": "blues"},
            },
            "tooltip": [tip("site"), tip("budget"), tip("kept", "units kept, %", ".1f")],
        },
        height=14 * len(sites),
    )
