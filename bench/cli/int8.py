"""``bench measure --int8``: whether the order of some runs survives 8-bit integers, and what pruning saves there."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.cli import output
from bench.cli.output import Column
from bench.errors import BenchError, UsageError
from bench.records.schema import Finished
from bench.spec.wording import plural

if TYPE_CHECKING:
    from bench.runs.int8_check import Int8Result, Shape

COLUMNS = (
    *(Column("method", wrap=True), Column("runs", right=True, drop=3)),
    *(Column("top-1", right=True), Column("int8", right=True), Column("change", right=True)),
    *(Column("equal", right=True, drop=2), Column("ms", right=True), Column("int8 ms", right=True)),
    *(Column("speed-up", right=True, drop=1), Column("in int8", right=True, drop=1)),
)
LOSS = 0.5
"""Points of top-1 that a method may lose without being counted."""


def check_int8(asked: Sequence[Finished], chosen: argparse.Namespace) -> int:
    """Print the table of some runs of one cell; returns the exit code: 1 where a run was left out, 3 if busy."""
    from bench.measure.onnx_export import require
    from bench.measure.quiet import Busy, Machine, say
    from bench.runs.int8_check import checked, times

    require()
    _require_one_cell(asked)
    done: list[Int8Result] = []
    code = 0
    for record in asked:
        try:
            done.append(checked(record, chosen.out, chosen.data_dir))
        except BenchError as error:
            print(f"bench: note: left out: {record.id}: {error}", file=sys.stderr)
            code = 1
    if not done:
        return code
    ms: Mapping[Shape, tuple[float, float]] = {}
    try:
        ms = times(done, chosen.threads, Machine(chosen.wait, say=say))
    except Busy as error:
        print(f"bench: note: no milliseconds: {error}", file=sys.stderr)
        code = error.exit_code
    if chosen.json:
        output.print_json([_facts(one, ms) for one in done])
        return code
    by_method: dict[str, list[Int8Result]] = defaultdict(list)
    for one in done:
        by_method[one.record.spec.name].append(one)
    rows = sorted(by_method.items(), key=lambda row: -_mean(one.top1[0] for one in row[1]))
    output.print_table(COLUMNS, [_row(name, of_one, ms) for name, of_one in rows], chosen)
    for text in (*_of_ranking(by_method), *_of_speed(done, ms)):
        output.print_text(text, chosen)
    return code


def _require_one_cell(asked: Sequence[Finished]) -> None:
    cells = {
        (record.spec.dataset, record.spec.arch, record.spec.prunable, str(record.spec.budget))
        for record in asked
        if record.spec.budget
    }
    if len(cells) > 1:
        named = " and ".join(", ".join(cell) for cell in sorted(cells)[:2])
        raise UsageError(f"measure --int8 compares runs of one data set, network and budget: there are {named}")


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _row(name: str, runs: Sequence[Int8Result], ms: Mapping[Shape, tuple[float, float]]) -> dict[str, Any]:
    before, after = (_mean(one.top1[k] for one in runs) for k in (0, 1))
    row = {
        "method": name,
        "runs": len(runs),
        "top-1": f"{100 * before:.2f}",
        "int8": f"{100 * after:.2f}",
        "change": f"{100 * (after - before):+.2f}",
        "equal": f"{100 * _mean(one.equal for one in runs):.1f} %",
    }
    if ms:
        own = [statistics.geometric_mean(ms[one.shape][k] for one in runs) for k in (0, 1)]
        dense = ms[runs[0].dense_shape]
        row |= {"ms": f"{own[0]:.3f}", "int8 ms": f"{own[1]:.3f}"}
        row |= {"speed-up": f"{dense[0] / own[0]:.2f}x", "in int8": f"{dense[1] / own[1]:.2f}x"}
    return row


def _of_ranking(by_method: Mapping[str, Sequence[Int8Result]]) -> list[str]:
    """What became of the order of methods."""
    from leaderboard.stats.rank_agreement import agreement

    scores = {name: {one.record.spec.seed: one.top1 for one in runs} for name, runs in by_method.items()}
    changes = [_mean(one.top1[1] - one.top1[0] for one in runs) for runs in by_method.values()]
    losers = sum(100 * change < -LOSS for change in changes)
    lines = [f"{losers} of {plural(len(changes), 'method')} lose more than {LOSS:g} points of top-1 in int8"]
    if len(scores) > 1 and (found := agreement(scores)).of_means is not None:
        said = f"rank correlation (Spearman) of {found.methods} methods' means over {plural(found.seeds, 'seed')}"
        interval = "" if found.interval is None else " ({:.3f} to {:.3f}, 95 %)".format(*found.interval)
        of_runs = "" if found.of_runs is None else f"; of single runs {found.of_runs:.3f}"
        lines.append(f"{said}: {found.of_means:.3f}{interval}{of_runs}. It is a check, and no row is ranked by it.")
    return lines


def _of_speed(done: Sequence[Int8Result], ms: Mapping[Shape, tuple[float, float]]) -> list[str]:
    """What stayed float32, and whether integers are faster here."""
    floating = sum(one.convolutions[0] < one.convolutions[1] for one in done)
    lines = [f"{plural(floating, 'run')} with convolutions that stay float32"] if floating else []
    if ms:
        slower = sum(ms[one.shape][1] > ms[one.shape][0] for one in done)
        dense = ms[done[0].dense_shape]
        lines.append(f"dense: {dense[0]:.3f} ms, {dense[1]:.3f} in int8 (onnxruntime, batch 1, in bursts)")
        lines += [f"{plural(slower, 'run')} slower in int8 than in float32"] if slower else []
    return lines


def _facts(one: Int8Result, ms: Mapping[Shape, tuple[float, float]]) -> dict[str, Any]:
    own, dense = ms.get(one.shape), ms.get(one.dense_shape)
    return {
        "id": one.record.id,
        "method": one.record.spec.name,
        "seed": one.record.spec.seed,
        "top1": one.top1[0],
        "int8_top1": one.top1[1],
        "equal": one.equal,
        "convolutions": one.convolutions[1],
        "int8_convolutions": one.convolutions[0],
        "ms": own and own[0],
        "int8_ms": own and own[1],
        "dense_ms": dense and dense[0],
        "dense_int8_ms": dense and dense[1],
    }
