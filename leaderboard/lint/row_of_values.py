"""The row that the fields of CSV or JSON were written from."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from leaderboard.reader.model import REFERENCES, SECONDARY, Copy, Difference, Mean, Row, Run
from leaderboard.reader.times import Milliseconds, Speed
from leaderboard.render.fields import FAILED, MISSING, SHARE_LETTERS, SIZES, UNITS, Value

COUNTS = "wrong_test_images_by_seed"
COUNT = re.compile(rf"(\d{{1,15}}):(\d{{1,15}}(?:/[1-9]\d{{0,14}})?|{FAILED}|{re.escape(MISSING)})")
SHARES = {letter: name for name, letter in SHARE_LETTERS.items()}
Wrong = list[tuple[str, str, str]]
"""(column, code, message) of what cannot be read."""


def row_of(name: str, values: Mapping[str, Value]) -> tuple[Row, Wrong]:
    """The row of some values, and what is wrong with them: counts that cannot be read are left out."""
    get: Any = values.get
    wrong: Wrong = []

    def read(column: str, code: str, parse: Any) -> dict[int, Any]:
        try:
            return dict(parse(str(get(column) or "")))
        except ValueError as error:
            wrong.append((column, code, str(error)))
            return {}

    best, worst = get("rank_best"), get("rank_worst")
    counts = read(COUNTS, "counts", _counts)
    pruned = read(f"pruned_{COUNTS}", "counts", _counts)
    losses = read("loss_by_seed", "cell", _losses)
    return Row(
        spec=get("spec") or "",
        method=get("method") or name.partition(" ")[0],
        name=get("name") or name,
        track=get("track") or "matched",
        runs=tuple(_runs(counts, pruned, losses, values)),
        missing=tuple(seed for seed, count in counts.items() if count == MISSING),
        planned=bool(get("planned")),
        copies=tuple(Copy(copy) for copy in (get("also") or "").split("; ") if copy),
        top1=_mean(get("top1_percent"), get("top1_half_points")),
        pruned=_mean(get("pruned_top1_percent"), get("pruned_top1_half_points")),
        loss=get("loss_nats"),
        macs=get("macs"),
        params=get("params"),
        macs_percent=get("macs_percent"),
        params_percent=get("params_percent"),
        differences={to: d for to in REFERENCES if (d := _difference(to, f"minus_{to}", "points", values))},
        secondary={
            endpoint: found
            for endpoint in SECONDARY
            if (
                found := {
                    to: difference
                    for to in REFERENCES
                    if (difference := _difference(to, f"{endpoint}_minus_{to}", UNITS[endpoint], values))
                }
            )
        },
        rank=(best or worst, worst or best) if best or worst else None,
        unranked=get("unranked") or "",
        group=get("tie_group") or "",
        seeds_needed=tuple(
            int(seeds) if seeds.isdecimal() else None for seeds in (get("seeds_needed") or "").split(", ") if seeds
        ),
        speeds=tuple(speed for size in SIZES if (speed := _speed(size, values))),
        ms=_milliseconds(values),
        epochs=get("epochs"),
        training_macs=get("training_macs"),
        cost=get("training_cost_times_dense"),
        step_cost=get("step_cost_times_dense"),
        shares=tuple(SHARES[letter] for letter in get("shares") or "" if letter in SHARES),
        level=get("level") or "",
        controls_missing=tuple(filter(None, (get("controls_missing") or "").split(", "))),
        checked=get("checked") or "",
        notes=tuple(filter(None, (get("notes") or "").split("; "))),
    ), wrong


def _runs(
    counts: Mapping[int, str], pruned: Mapping[int, str], losses: Mapping[int, float], values: Mapping[str, Value]
) -> list[Run]:
    get: Any = values.get
    diverged = re.search(r"(\d{1,6}) diverged", str(get("unfinished") or ""))
    ended = itertools.repeat("diverged", int(diverged[1]) if diverged else 0)
    runs = []
    for seed, text in counts.items():
        if text != MISSING:
            count, _, own = text.partition("/")
            wrong = None if count == FAILED else int(count)
            images = 0 if wrong is None else int(own or get("test_images") or 0)
            status = "ok" if wrong is not None else next(ended, "failed")
            before = pruned.get(seed, "")
            first = int(before) if before.isdecimal() else None
            runs.append(Run("", "", "", seed, status, wrong, images, first, losses.get(seed)))
    return runs


def _counts(text: str) -> dict[int, str]:
    """Seed -> wrong test images (``4`` or ``4/364``), ``FAILED`` or ``MISSING``; ValueError where they cannot be."""
    found: dict[int, str] = {}
    for part in text.split():
        match = COUNT.fullmatch(part)
        if not match:
            raise ValueError(f"{part[:30]!r} is no seed with its count")
        if int(match[1]) in found:
            raise ValueError(f"seed {match[1]} is there twice")
        found[int(match[1])] = match[2]
    return found


def _losses(text: str) -> dict[int, float]:
    """Seed -> test loss; ValueError where one cannot be."""
    found = {}
    for part in text.split():
        seed, _, loss = part.partition(":")
        found[int(seed)] = float(loss)
        if not 0 <= found[int(seed)] < math.inf:
            raise ValueError(f"{part[:40]!r} is no loss")
    return found


def _mean(mean: float | None, half: float | None) -> Mean | None:
    return None if mean is None else Mean(mean, half)


def _difference(to: str, name: str, unit: str, values: Mapping[str, Any]) -> Difference | None:
    mean = values.get(f"{name}_{unit}")
    if mean is None:
        return None
    half, images, refit = (values.get(f"{name}_{part}half_{unit}") for part in ("", "images_", "refit_"))
    p, p_holm, p_board = (values.get(f"{name}_{part}") for part in ("p", "p_holm", "p_board"))
    verdicts = tuple(filter(None, (values.get(f"{name}_verdicts") or "").split("; ")))
    seeds, won, smallest = (values.get(f"{name}_{part}") for part in ("seeds", "won_seeds", "smallest_points"))
    numbers = (seeds or 0, won or 0.0, images, refit, p, p_holm, p_board, smallest)
    return Difference(to, mean, None, None, half, *numbers, verdicts)


def _milliseconds(values: Mapping[str, Any]) -> Milliseconds | None:
    found: list[Any] = [values.get(name) for name in ("asked_ms", "measured_ms", "measured_dense_ms")]
    return Milliseconds(*found) if all(found) else None


def _speed(size: str, values: Mapping[str, Any]) -> Speed | None:
    times = ("speedup_times", "speedup_low_times", "speedup_high_times")
    found: list[Any] = [
        values.get(f"{size}_{part}") for part in ("batch", "dense_ms", "final_ms", "final_p90_ms", *times)
    ]
    return None if any(value is None for value in found) else Speed(*found)
