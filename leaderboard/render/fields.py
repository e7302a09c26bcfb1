"""What CSV and JSON say of a row: one field a column with the unit in its name, never rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from leaderboard.reader.model import AS_MISSING, REFERENCES, SECONDARY, Difference, Mean, Row, Run, Table
from leaderboard.reader.times import Milliseconds, Speed
from leaderboard.stats.speeds import faster

Value = str | int | float | bool | None
Values = Mapping[str, Value]
Kind = Literal["text", "integer", "number", "flag"]

SHARE_LETTERS = {"base": "B", "epochs": "E", "finetune": "F", "cost": "C"}
SIZES = ("small", "large")
FAILED, MISSING = "x", "."
"""What is written for a failed run and for a missing one in the counts by seed."""
UNITS = {"loss": "log", "pruned_top1": "points"}
"""Of differences in secondary endpoints: natural logarithm of the reference's loss over the row's; points of top-1."""


@dataclass(frozen=True)
class Field:
    """One value of a row; ``key`` is its name in CSV and JSON, with the unit."""

    key: str
    kind: Kind
    get: Callable[[Row, Table], Value]


def wrong_by_seed(row: Row) -> str:
    """Such as ``0:4 1:3 2:x 3:.``: seed and wrong test images, ``x`` for a failed run, ``.`` for a missing one.

    Where seeds are tested on different images, ``0:4/364 1:3/362``.
    """
    of = row.test_images is None
    counts = dict.fromkeys(row.missing, MISSING)
    for run in row.runs:
        if run.status not in AS_MISSING:
            counts[run.seed] = FAILED if run.wrong is None else f"{run.wrong}/{run.images}" if of else str(run.wrong)
    return " ".join(f"{seed}:{count}" for seed, count in sorted(counts.items()))


def unfinished(row: Row) -> str:
    """Such as ``1 failed, 2 missing``; empty where all runs are there and finished."""
    counts = Counter(run.status for run in row.runs if run.wrong is None and run.status not in AS_MISSING)
    counts["missing"] = len(row.missing)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count)


def _by_seed(key: str, get: Callable[[Run], int | float | None]) -> Field:
    """Such as ``0:0.1 1:0.2``, of the runs that have it."""

    def text(row: Row, table: Table) -> Value:
        return " ".join(f"{run.seed}:{value!r}" for run in row.runs if (value := get(run)) is not None)

    return Field(key, "text", text)


def _mean(name: str, get: Callable[[Row], Mean | None], unit: str) -> list[Field]:
    def part(which: str) -> Callable[[Row, Table], Value]:
        return lambda row, table: getattr(get(row), which, None)

    return [Field(f"{name}_{unit}", "number", part("mean")), Field(f"{name}_half_points", "number", part("half"))]


def _part(
    of: Callable[[Row], Mapping[str, Difference]], to: str, read: Callable[[Difference], Value]
) -> Callable[[Row, Table], Value]:
    return lambda row, table: read(of(row)[to]) if to in of(row) else None


def _difference(to: str) -> list[Field]:
    def part(read: Callable[[Difference], Value]) -> Callable[[Row, Table], Value]:
        return _part(lambda row: row.differences, to, read)

    name = f"minus_{to}"
    return [
        Field(f"{name}_points", "number", part(lambda d: d.mean)),
        Field(f"{name}_half_points", "number", part(lambda d: d.half)),
        Field(f"{name}_images_half_points", "number", part(lambda d: d.images_half)),
        Field(f"{name}_refit_half_points", "number", part(lambda d: d.refit_half)),
        Field(f"{name}_seeds", "integer", part(lambda d: d.seeds)),
        Field(f"{name}_won_seeds", "number", part(lambda d: d.won)),
        Field(f"{name}_p", "number", part(lambda d: d.p)),
        Field(f"{name}_p_holm", "number", part(lambda d: d.p_holm)),
        Field(f"{name}_p_board", "number", part(lambda d: d.p_board)),
        Field(f"{name}_smallest_points", "number", part(lambda d: d.smallest)),
        Field(f"{name}_clear", "flag", part(lambda d: d.clear)),
        Field(f"{name}_verdicts", "text", part(lambda d: "; ".join(d.verdicts))),
    ]


def _secondary(endpoint: str, to: str) -> list[Field]:
    def part(read: Callable[[Difference], Value]) -> Callable[[Row, Table], Value]:
        return _part(lambda row: row.secondary.get(endpoint, {}), to, read)

    name, unit = f"{endpoint}_minus_{to}", UNITS[endpoint]
    return [
        Field(f"{name}_{unit}", "number", part(lambda d: d.mean)),
        Field(f"{name}_half_{unit}", "number", part(lambda d: d.half)),
        Field(f"{name}_seeds", "integer", part(lambda d: d.seeds)),
        Field(f"{name}_p", "number", part(lambda d: d.p)),
        Field(f"{name}_p_holm", "number", part(lambda d: d.p_holm)),
        Field(f"{name}_verdicts", "text", part(lambda d: "; ".join(d.verdicts))),
    ]


def _of_ms(read: Callable[[Milliseconds], Value]) -> Callable[[Row, Table], Value]:
    return lambda row, table: read(row.ms) if row.ms else None


def _speed(size: str) -> list[Field]:
    place = SIZES.index(size)

    def part(read: Callable[[Speed], Value]) -> Callable[[Row, Table], Value]:
        return lambda row, table: read(row.speeds[place]) if place < len(row.speeds) else None

    return [
        Field(f"{size}_batch", "integer", part(lambda s: s.batch)),
        Field(f"{size}_speedup_times", "number", part(lambda s: s.times)),
        Field(f"{size}_speedup_low_times", "number", part(lambda s: s.low)),
        Field(f"{size}_speedup_high_times", "number", part(lambda s: s.high)),
        Field(f"{size}_dense_ms", "number", part(lambda s: s.dense_ms)),
        Field(f"{size}_final_ms", "number", part(lambda s: s.final_ms)),
        Field(f"{size}_final_p90_ms", "number", part(lambda s: s.final_p90_ms)),
        Field(f"{size}_faster", "flag", part(faster)),
    ]


def seeds_needed_text(row: Row) -> str:
    """Such as ``17, 5``: for each margin of the plan, and ``-`` beyond 1,000."""
    return ", ".join("-" if seeds is None else str(seeds) for seeds in row.seeds_needed)


FIELDS: dict[str, Field] = {
    field.key: field
    for field in [
        Field("rank_best", "integer", lambda row, table: row.rank[0] if row.rank else None),
        Field("rank_worst", "integer", lambda row, table: row.rank[1] if row.rank else None),
        Field("order_shown", "flag", lambda row, table: table.ordered),
        Field("tie_group", "text", lambda row, table: row.group),
        Field("name", "text", lambda row, table: row.name),
        Field("also", "text", lambda row, table: "; ".join(copy.name for copy in row.copies)),
        Field("method", "text", lambda row, table: row.method),
        Field("spec", "text", lambda row, table: row.spec),
        Field("track", "text", lambda row, table: row.track),
        Field("planned", "flag", lambda row, table: row.planned),
        Field("seeds", "integer", lambda row, table: sum(run.wrong is not None for run in row.runs)),
        *_mean("top1", lambda row: row.top1, "percent"),
        *(field for to in REFERENCES for field in _difference(to)),
        *_mean("pruned_top1", lambda row: row.pruned, "percent"),
        Field("loss_nats", "number", lambda row, table: row.loss),
        *(field for endpoint in SECONDARY for to in REFERENCES for field in _secondary(endpoint, to)),
        Field("macs", "number", lambda row, table: row.macs),
        Field("macs_percent", "number", lambda row, table: row.macs_percent),
        Field("params", "number", lambda row, table: row.params),
        Field("params_percent", "number", lambda row, table: row.params_percent),
        Field("asked_ms", "number", _of_ms(lambda ms: ms.asked)),
        Field("measured_ms", "number", _of_ms(lambda ms: ms.taken)),
        Field("measured_dense_ms", "number", _of_ms(lambda ms: ms.dense)),
        Field("measured_percent", "number", _of_ms(lambda ms: ms.percent)),
        *(field for size in SIZES for field in _speed(size)),
        Field("epochs", "integer", lambda row, table: row.epochs),
        Field("training_macs", "number", lambda row, table: row.training_macs),
        Field("training_cost_times_dense", "number", lambda row, table: row.cost),
        Field("step_cost_times_dense", "number", lambda row, table: row.step_cost),
        Field("shares", "text", lambda row, table: "".join(SHARE_LETTERS.get(share, "?") for share in row.shares)),
        Field("level", "text", lambda row, table: row.level),
        Field("seeds_needed", "text", lambda row, table: seeds_needed_text(row)),
        Field("wrong_test_images_by_seed", "text", lambda row, table: wrong_by_seed(row)),
        _by_seed("pruned_wrong_test_images_by_seed", lambda run: run.pruned),
        _by_seed("loss_by_seed", lambda run: run.loss),
        Field("test_images", "integer", lambda row, table: row.test_images),
        Field("dense_macs", "integer", lambda row, table: table.dense_macs),
        Field("dense_params", "integer", lambda row, table: table.dense_params),
        Field("unfinished", "text", lambda row, table: unfinished(row)),
        Field("unranked", "text", lambda row, table: row.unranked),
        Field("controls_missing", "text", lambda row, table: ", ".join(row.controls_missing)),
        Field("checked", "text", lambda row, table: row.checked),
        Field("notes", "text", lambda row, table: "; ".join(row.notes)),
    ]
}
