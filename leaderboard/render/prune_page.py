"""The page of ``bench prune``: a network before and after."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.latency import Line
from bench.records.schema import Finished
from bench.spec.spec import Budget
from bench.spec.wording import plural
from leaderboard.render.plain_page import Grid, Page
from leaderboard.render.text_table import Column

LOAD = (
    "Load it: network, facts = bench.load('network.safetensors', build=BUILD), where BUILD() makes the dense network."
)

LOSS = 2.0
"""Points of top-1 from which on the page says what may help."""
SLOWER = (
    "The smaller network is slower here: runtimes compute channels in groups, and widths that are no multiple of them "
    "are slow. --round-to 8 or 16 keeps other widths for the same MACs, --keep-latency makes milliseconds the budget."
)


def page(record: Finished, lines: Sequence[Line], name: str, remarks: Sequence[str] = ()) -> Page:
    """The page of a run and its latency.

    Args:
        record: of the run.
        lines: of its final network.
        name: of the network, as the user gave it.
        remarks: more sentences.
    """
    spec, recipe = record.spec, record.spec.recipe
    trained = recipe.train.epochs
    before = f"trained for {plural(trained, 'epoch')}" if trained else "taken as it was given"
    about = (
        f"The dense network was {before}, pruned by {spec.method} and fine-tuned for "
        f"{plural(recipe.finetune.epochs, 'epoch')} on {spec.dataset}, seed {spec.seed} (recipe {recipe.name}). "
        f"Accuracy is that of {record.metrics.final.examples:,} test images; run {record.id}."
    )
    parts: list[str | Grid] = [about, _table(record)]
    lost = 100 * (record.metrics.dense.top1 - record.metrics.final.top1)
    if lost > LOSS:
        epochs = plural(recipe.finetune.epochs, "epoch")
        parts.append(
            f"It lost {lost:.1f} points with {epochs} of fine-tuning: --finetune-epochs N trains it longer (in another "
            "--out)."
        )
    if record.latency is not None:
        found = record.latency.rounds[-1]
        share = f"{found.ms / found.dense_ms:.3f} ({found.low:.3f} to {found.high:.3f})"
        parts.append(f"When it was pruned it took {found.ms:.3g} of {found.dense_ms:.3g} ms: {share}.")
    if lines:
        key = lines[0].key
        how = "" if record.latency is None else ", several calls of one network in a row"
        parts += [SLOWER] * any(line.times.speedup_ci95[1] < 1 for line in lines)
        parts += [_times(lines), f"Timed on {key.device}, {plural(key.threads, 'thread')}{how}."]
    parts += [_widths(record), *remarks, LOAD]
    return Page(f"{name}, keeping {spec.budget or Budget()}" if spec.budget else name, parts)


def _table(record: Finished) -> Grid:
    dense, final = record.cost.dense, record.cost.final
    counts = (
        ("MACs", dense.macs, final.macs),
        ("parameters", dense.params, final.params),
        ("bytes", dense.weight_bytes, final.weight_bytes),
    )
    rows = [
        {"": name, "before": f"{before:,}", "after": f"{after:,}", "after / before": f"{after / before:.4f}"}
        for name, before, after in counts
    ]
    top1 = [100 * quality.top1 for quality in (record.metrics.dense, record.metrics.final)]
    points = f"{top1[1] - top1[0]:+.2f} points"
    rows.append({"": "top-1 %", "before": f"{top1[0]:.2f}", "after": f"{top1[1]:.2f}", "after / before": points})
    if record.metrics.pruned is not None:
        rows.append({"": "top-1 %, not fine-tuned", "after": f"{100 * record.metrics.pruned.top1:.2f}"})
    return Grid(
        [Column("", wrap=True), *(Column(name, right=True) for name in ("before", "after", "after / before"))], rows
    )


def _times(lines: Sequence[Line]) -> Grid:
    rows = [
        {
            "runtime": f"{line.key.runtime} {line.key.runtime_version}",
            "batch": line.key.batch,
            "ms before": f"{line.times.dense_ms:.3f}",
            "ms after": f"{line.times.final_ms:.3f}",
            "speed-up": f"{line.times.speedup:.2f}x",
            "95 % interval": "{:.2f} to {:.2f}".format(*line.times.speedup_ci95),
        }
        for line in lines
    ]
    return Grid([Column(name, right=name != "runtime") for name in rows[0]], rows)


def _widths(record: Finished) -> Grid:
    rows = [
        {"site": site, "units before": before, "after": after, "kept %": f"{100 * after / before:.0f}"}
        for site, (before, after) in record.structure.widths.items()
    ]
    columns = [Column("site", wrap=True), *(Column(name, right=True) for name in ("units before", "after", "kept %"))]
    return Grid(columns, rows)
