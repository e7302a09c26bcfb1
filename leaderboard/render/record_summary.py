"""One record as a small table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.records.schema import Finished, Quality, Record, finished
from bench.records.store import arithmetic
from bench.spec.spec import BUDGET_TOLERANCE, Budget, is_coarse
from bench.spec.wording import plural
from leaderboard.render.text_table import Column, sentences, table

GROUP = 8
"""Channels that runtimes compute at once, at least."""
STEPS = (("dense", "dense"), ("pruned", "pruned, not fine-tuned"), ("final", "final"))


def summary(record: Finished, width: int | None = None) -> str:
    """Dense, pruned before fine-tuning and final network: accuracy and cost; at most so wide."""
    cost, metrics = record.cost, record.metrics
    dense, final = cost.dense, cost.final
    rows = []
    for key, name in STEPS:
        quality: Quality | None = getattr(metrics, key)
        if quality is None:
            continue
        own = dense if key == "dense" else final
        rows.append(
            {
                "network": name,
                "top-1 %": f"{100 * quality.top1:.2f}",
                "MACs": _share(own.macs, dense.macs),
                "params": _share(own.params, dense.params),
                "MiB": _mib(own.weight_bytes),
            }
        )
    columns = [Column("network", wrap=True), Column("top-1 %", right=True), Column("MACs", right=True)]
    columns += [Column("params", right=True, drop=1), Column("MiB", right=True, drop=2)]
    missed = budget_note(record) or latency_note(record)
    return "\n".join([table(columns, rows, width), *([sentences(missed, width)] if missed else [])])


def budget_note(record: Finished) -> str | None:
    """What to say of a network that lies too far below its budget to be ranked; None where it does not."""
    budget, dense, final = record.spec.budget or Budget(), record.cost.dense, record.cost.final
    for option, asked, kept, what in (
        ("keep-macs", budget.keep_macs, final.macs / dense.macs, "MACs"),
        ("keep-params", budget.keep_params, final.params / dense.params, "parameters"),
    ):
        if asked is not None and asked - kept > BUDGET_TOLERANCE and not is_coarse(record.spec.prunable):
            return (
                f"note: {100 * (asked - kept):.1f} % of the dense {what} below the budget of {asked:g}, and the board "
                f"ranks no row more than {100 * BUDGET_TOLERANCE:g} % below (RULES.md, 5.2); "
                f"--{option} {math.ceil(1e4 * kept) / 1e4:g} asks for this size"
            )
    return None


def width_note(record: Finished) -> str | None:
    """What to say of widths that runtimes compute no faster than larger ones; None where there are none.

    It has no milliseconds: a run times layers one by one in PyTorch, where such widths cost little.
    """
    budget, blocks = record.spec.budget, record.structure.blocks or {}
    if budget is None or budget.step > 1 or budget.of_latency or budget.widths is not None:
        return None
    kept = {after for name, (before, after) in record.structure.widths.items() if after < before and name not in blocks}
    odd = sorted(width for width in kept if width % GROUP)
    if not odd:
        return None
    some = ", ".join(map(str, odd[:3])) + (", ..." if len(odd) > 3 else "")
    return (
        f"note: widths {some} are no multiples of {GROUP}, and runtimes compute channels in groups: they may be slower "
        f"than wider ones. bench measure {record.id} --runtimes onnxruntime times them, --round-to {GROUP} avoids them"
    )


def latency_note(record: Finished) -> str | None:
    """How a budget of milliseconds was met; None for another budget."""
    found, budget = record.latency, record.spec.budget
    if found is None or budget is None:
        return None
    last = found.rounds[-1]
    times = f"{last.dense_ms:.3f} -> {last.ms:.3f} ms in {budget.where}, {last.ms / last.dense_ms:.3f} of the dense"
    return f"{times}; asked: {budget}, predicted {last.predicted:.3f} ms, {plural(len(found.rounds), 'measurement')}"


def details(record: Record, width: int | None = None) -> str:
    """The summary with everything else a reader asks of a record, and the kept units of each site."""
    spec = record.spec
    budget = spec.budget.given() if spec.budget else {}
    lines = [
        f"run       {record.id} ({record.status})",
        f"method    {spec.method} {_pairs(spec.config)}",
        f"network   {spec.arch} on {spec.dataset}, coupling {spec.coupling}, units {spec.unit_kinds}, seed {spec.seed}",
        f"budget    {_pairs(budget) or 'none'}",
        f"recipe    {spec.recipe.name} ({spec.recipe.sha256[:12]})",
        f"code      {(record.code.commit or 'no commit')[:12]}"
        + (" with local changes" if record.code.diff_sha256 else ""),
        f"machine   {record.environment.device}, {plural(record.environment.threads, 'thread')}, "
        f"torch {record.environment.packages['torch']}",
    ]
    if differs := record.job and record.job.differs:
        lines.append(f"changed   since submission: {'; '.join(differs)}")
    if record.error:
        lines += [
            "",
            f"{record.error.type}: {record.error.message}",
            *record.error.traceback,
        ]
    if not finished(record):
        return sentences("\n".join(lines), width)
    training, final, structure = record.training, record.metrics.final, record.structure
    seconds = record.clock.seconds
    lines += [
        f"training  {training.epochs} epochs, {training.examples:,} examples, {training.macs:.3g} MACs, "
        f"{arithmetic(training)}; seconds: "
        + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())
        + f"; resumed {record.clock.resumes} times",
        f"units     {structure.units_after:,} of {structure.units_before:,} in {len(structure.widths)} sites"
        + (
            f", gate and slice differ by {structure.gate_slice_difference:.1e}"
            if structure.gate_slice_difference is not None
            else ""
        ),
        f"final     top-5 {100 * final.top5:.2f} %, loss {final.loss:.4f}, calibration error {final.ece:.4f}, "
        f"worst class {final.worst_class} at {100 * final.worst_class_top1:.2f} %, "
        f"{final.examples:,} test images",
    ]
    kept = structure.blocks or {}  # which blocks, in place of their number
    sites = [Column("site", wrap=True), *(Column(header, right=True) for header in ("units", "kept", "kept %"))]
    rows = [
        {"site": site, "units": before, "kept": kept.get(site, after), "kept %": f"{100 * after / before:.1f}"}
        for site, (before, after) in structure.widths.items()
    ]
    parts = [sentences("\n".join(lines), width), summary(record, width), table(sites, rows, width)]
    return "\n\n".join(parts)


def _share(value: int, dense: int) -> str:
    return f"{value:,}" if value == dense else f"{value:,} ({100 * value / dense:.1f} %)"


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f}"


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in values.items())
