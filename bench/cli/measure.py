"""``bench measure``: the latency of a record's networks on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import UsageError
from bench.records import store
from bench.records.lookup import find_one
from bench.records.schema import Finished, finished

if TYPE_CHECKING:
    from torch import nn

    from bench.runs.artifacts import RunArtifacts


COLUMNS = (
    *(Column("runtime"), Column("batch", right=True), Column("dense ms", right=True), Column("final ms", right=True)),
    *(Column("speed-up", right=True), Column("95 % interval", right=True, drop=1)),
    *(Column("rounds", right=True, drop=3), Column("recorded", right=True, drop=2)),
)


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("measure", help="how fast a record's networks are on this machine")
    p.set_defaults(function=measure)
    p.add_argument("runs", nargs="+", metavar="ID|FILE", help="records' files, or (the start of) their ids under --out")
    p.add_argument("--batch", type=_batches, metavar="N[,...]", help="batch sizes (1 and the recipe's latency_batch)")
    arguments.add_machine(p)
    arguments.add_out(p, "where artifacts are")
    arguments.add_plugin(p)
    arguments.add_formats(p, "JSON with all samples instead of tables")


def measure(chosen: argparse.Namespace) -> int:
    """Time dense and final network of each record, in turns; returns the exit code."""
    import torch

    from bench.measure import latency
    from bench.measure.environment import pick_device
    from bench.runs.artifacts import RunArtifacts

    latency.require(chosen.runtimes)
    device = pick_device(chosen.device)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    asked = []
    for run in chosen.runs:
        found = store.load(find_one(run, chosen.out))
        if not finished(found):
            raise UsageError(f"measure {found.id}: that run {found.status}, it left no network")
        asked.append(found)
    measured = []
    for found in asked:
        stored = RunArtifacts(found, chosen.out)
        dense, final, weights = _networks(stored)
        batches = chosen.batch or dict.fromkeys((1, found.spec.recipe.latency_batch))
        timings = [
            timing
            for runtime in chosen.runtimes
            for timing in latency.compare(dense, final, stored.shape, batches, device, runtime, stored.layout)
        ]
        measured.append({"id": found.id, "weights": weights, "latency": timings})
        if not chosen.json:
            if len(measured) > 1:
                print()
            _show(found, weights, timings, chosen)
    if chosen.json:
        output.print_json(measured)
    return 0


def _networks(stored: RunArtifacts) -> tuple[nn.Module, nn.Module, str]:
    """Dense and final network and where their weights are from: the run's files, or else only its widths.

    Weights change no step of what is timed, so networks of the recorded widths do as well.
    """
    from bench.runs.artifacts import NotAvailable

    try:
        return stored.dense(), stored.final(), "stored"
    except NotAvailable:
        return stored.shaped("dense"), stored.shaped("final"), "drawn at random"


def _show(found: Finished, weights: str, timings: list[dict[str, Any]], chosen: argparse.Namespace) -> None:
    """Print what was measured here and what the record says."""
    from leaderboard.render.record_summary import busy_note

    spec, cost = found.spec, found.cost
    recorded = {(t.runtime, t.batch): t for t in found.latency}
    rows = []
    for t in timings:
        own = recorded.get((t["runtime"], t["batch"]))
        rows.append(
            {
                "runtime": t["runtime"],
                "batch": t["batch"],
                "dense ms": f"{t['dense_ms']:.3f}",
                "final ms": f"{t['sliced_ms']:.3f}",
                "speed-up": f"{t['speedup']:.2f}x",
                "95 % interval": "{:.2f} to {:.2f}".format(*t["speedup_ci95"]),
                "rounds": t["rounds"],
                "recorded": f"{own.speedup:.2f}x" if own else "",
            }
        )
    one, there = timings[0], found.latency[0] if found.latency else None
    macs, share = cost.final.macs, cost.final.macs / cost.dense.macs
    what = f"{spec.method} on {spec.arch}, {spec.dataset}, seed {spec.seed}"
    output.print_text(f"{what}: {macs:,} MACs left ({100 * share:.1f} %)", chosen)
    output.print_table(COLUMNS, rows, chosen)
    lines = [f"here: {one['device']}, {one['threads']} threads, {one['dtype']}; weights {weights}"]
    if there:
        lines.append(f"recorded: {there.device}, {there.threads} threads")
    busy = next(filter(None, (busy_note(t["load_average"], t["threads"]) for t in timings)), None)
    output.print_text("\n".join(lines + ([busy] if busy else [])), chosen)


def _batches(text: str) -> list[int]:
    sizes = list(dict.fromkeys(arguments.whole(part.strip()) for part in text.split(",")))
    if 0 in sizes:
        raise argparse.ArgumentTypeError("a batch has at least 1 image")
    return sizes
