"""What ``bench score`` found, as a page."""

from __future__ import annotations

from bench.records.score import Score, ScoredNetwork, Timed
from bench.spec.wording import plural
from leaderboard.render.plain_page import Grid, Page
from leaderboard.render.text_table import Column

KINDS = {"conv": "convolutions", "linear": "matrices of weights", "matmul": "products of activations"}
NOT_RANKED = (
    "This is no row of a board: how the network was trained, on which data, and how it was selected is not known."
)


def page(score: Score) -> Page:
    """The page of a score."""
    images = score.images
    by = " and ".join(("--mean and --std",) if images.normal_from == "option" else (f"the {images.normal_from}",))
    about = (
        f"Both networks on the {score.network.quality.examples:,} test images of {images.dataset}"
        f" (seed {images.seed}), normalised as {by} says"
    )
    parts: list[str | Grid] = [f"{about}.", _table(score)]
    if score.claim:
        parts += _claimed(score)
    if score.latency:
        first = score.latency[0]
        how = ", several calls of one network in a row" if first.timed == "bursts" else ""
        parts += [_times(score.latency), f"Timed on {first.device}, {plural(first.threads, 'thread')}{how}."]
    parts += [f"Note: {note}." for note in score.notes]
    return Page(f"{score.network.name} against {score.dense.name}", [*parts, NOT_RANKED])


def _table(score: Score) -> Grid:
    """Costs and accuracy of both, and their ratios."""
    both = (score.dense, score.network)
    shares = score.shares
    top1 = [100 * network.quality.top1 for network in both]

    def row(what: str, cells: list[str], ratio: str = "") -> dict[str, str]:
        return {"": what, "dense": cells[0], "network": cells[1], "network / dense": ratio}

    rows = [row("MACs (products)", [f"{n.macs:,}" for n in both], f"{shares['macs']:.4f}")]
    for kind, word in KINDS.items():
        if any(network.macs_by.get(kind) for network in both):
            before, after = (network.macs_by.get(kind, 0) for network in both)
            rows.append(row(f"  of them {word}", [f"{before:,}", f"{after:,}"], _ratio(after, before)))
    rows.append(row("parameters", [f"{n.params:,}" for n in both], f"{shares['params']:.4f}"))
    rows.append(row("bytes", [f"{n.bytes:,}" for n in both], f"{shares['bytes']:.4f}"))
    rows.append(row("channels that are all zero", [_of(n.zero_channels, n.channels) for n in both]))
    rows.append(row("weights that are zero", [_of(n.zero_weights, n.weights) for n in both]))
    rows.append(row("top-1 %", [f"{value:.2f}" for value in top1], f"{top1[1] - top1[0]:+.2f} points"))
    rows.append(row("loss", [_loss(n) for n in both]))
    return Grid([Column("", wrap=True), *(Column(name, right=True) for name in list(rows[0])[1:])], rows)


def _claimed(score: Score) -> list[str | Grid]:
    claim = score.claim
    assert claim is not None
    said = f"Claimed: {claim.share:g} of the dense MACs; ours: {claim.ours:.4f}"
    counted = f", which gives {claim.counted_so:.4f}" if claim.counted_so is not None and claim.operators else ""
    parts: list[str | Grid] = [f"{said}; {claim.why}{counted}."]
    if claim.operators:
        columns = [Column("counted by the tool", wrap=True), Column("dense", right=True), Column("network", right=True)]
        rows = [
            {"counted by the tool": name, "dense": f"{dense:+,}", "network": f"{network:+,}"}
            for name, (network, dense) in claim.operators.items()
        ]
        parts.append(Grid(columns, rows))
    return parts


def _times(lines: list[Timed]) -> Grid:
    columns = [Column("runtime"), Column("batch", right=True), Column("dense ms", right=True)]
    columns += [Column("network ms", right=True), Column("speed-up", right=True)]
    columns += [Column("95 % interval", right=True, drop=1), Column("control", right=True, drop=2)]
    rows = [
        {
            "runtime": f"{line.runtime} {line.runtime_version}",
            "batch": line.batch,
            "dense ms": f"{line.times.dense_ms:.3f}",
            "network ms": f"{line.times.final_ms:.3f}",
            "speed-up": f"{line.times.speedup:.2f}x",
            "95 % interval": "{:.2f} to {:.2f}".format(*line.times.speedup_ci95),
            "control": f"{line.control.speedup:.3f}",
        }
        for line in lines
    ]
    return Grid(columns, rows)


def _ratio(after: int, before: int) -> str:
    return f"{after / before:.4f}" if before else ""


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _loss(network: ScoredNetwork) -> str:
    return "" if network.quality.loss is None else f"{network.quality.loss:.4f}"
