"""From the records of one specification to one row: means over seeds, costs, speeds, what it shares with others."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import msgspec

from bench.records.cross_checks import SUITE
from bench.spec.spec import BUDGET_TOLERANCE, is_coarse
from bench.spec.wording import plural
from leaderboard.reader.model import AS_MISSING, LEAST_RANKED, LEAST_SHOWN, Copy, Mean, Row, Run
from leaderboard.reader.times import Milliseconds
from leaderboard.stats.replays import OUTSIDE
from leaderboard.stats.statistics import QUANTUM, interval

if TYPE_CHECKING:
    from leaderboard.reader.extract import Values as Record

SAME_COST = 0.05
"""Relative difference of training MACs up to which two rows cost the same."""
CHANGED = "made from a working tree with local changes"
TRAINED = ("ok", "failed", "diverged")
"""How a run can have ended; one that ended as ``AS_MISSING`` says counts as missing."""


def make_row(same: Sequence[Sequence[Record]], planned: Set[int] | None) -> Row:
    """Everything of a row that its own records say; what depends on others is filled in by the table.

    Args:
        same: its records by seed, and those of its copies.
        planned: seeds of the plan; None where the plan does not name it.
    """
    records = same[0]
    first = records[0]
    done = [r for r in records if r.status == "ok"]
    failed = [r.seed for r in records if r.status in ("failed", "diverged")]
    images = [int(r.test_images) for r in done]
    whole = bool(done) and not failed
    return Row(
        spec=first.spec_sha256[:12],
        method=first.method,
        name=first.name,
        track=(done or records)[0].track,
        runs=tuple(_run(r) for r in records),
        missing=tuple(sorted((planned or set()) - {r.seed for r in records if r.status in TRAINED})),
        planned=planned is not None,
        copies=tuple(Copy(c[0].name, c[0].spec_sha256[:12], tuple(map(_run, c))) for c in same[1:]),
        top1=accuracy([r.final_wrong_images for r in done], images) if whole else None,
        pruned=accuracy([r.pruned_wrong_images for r in done], images) if whole else None,
        loss=mean_loss([r.final_loss for r in done]) if whole else None,
        macs=_mean(r.final_macs for r in done),
        params=_mean(r.final_params for r in done),
        macs_percent=_mean(100 * r.final_macs / r.dense_macs for r in done),
        params_percent=_mean(100 * r.final_params / r.dense_params for r in done),
        ms=_milliseconds(done),
        epochs=max((int(r.epochs) for r in done), default=None),
        training_macs=_mean(r.training_macs for r in done),
        checked=checked(records),
        notes=tuple(_notes(records)),
    )


def shares(row: Sequence[Record], other: Sequence[Record]) -> tuple[tuple[str, ...], str]:
    """What a row has in common with another one, and that on the ladder of Wang et al. 2023.

    ``base``: the same dense network, seed by seed; ``epochs``: as many in all; ``finetune``: the same phases after the
    prune (the recipe is the board's); ``cost``: training MACs within 5 %.
    """
    mine = {r.seed: r for r in row if r.status == "ok"}
    theirs = {r.seed: r for r in other if r.status == "ok"}
    pairs = [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]
    if not pairs:
        return (), ""
    checks = {
        "base": all(a.base_sha256 is not None and a.base_sha256 == b.base_sha256 for a, b in pairs),
        "epochs": all(a.epochs == b.epochs for a, b in pairs),
        "finetune": all(a.finetune_plan == b.finetune_plan for a, b in pairs),
        "cost": all(abs(a.training_macs / b.training_macs - 1) <= SAME_COST for a, b in pairs),
    }
    length = all(_epochs_of(a.finetune_plan) == _epochs_of(b.finetune_plan) for a, b in pairs)
    steps = {
        "S1": True,
        "S2": checks["base"],
        "S3.1": length and not checks["finetune"],
        "S3.2": checks["finetune"],
        "SX-A": checks["epochs"],
        "SX-B": checks["cost"],
    }
    return tuple(k for k, holds in checks.items() if holds), " ".join(k for k, holds in steps.items() if holds)


def why_unranked(row: Row, short: float, epochs: int | None, synthetic: bool) -> str:
    """Why a row of a matched table has no rank; empty where it may have one.

    Args:
        row: with its missing seeds.
        short: share of the dense cost by which it lies below its budget.
        epochs: those that a ranked row must have.
        synthetic: whether the data are.
    """
    if row.track != "matched":
        reasons = {"dense": "no budget", "native": "native track", "like": "the widths of another run"}
        return reasons.get(row.track, "it keeps every unit")
    if synthetic:
        return "nothing measured on synthetic data is a result"
    failed = [str(run.seed) for run in row.runs if run.status in ("failed", "diverged")]
    if failed:
        return f"the run of seed {', '.join(failed)} failed"
    seeds = len(row.finished)
    if seeds < LEAST_RANKED:
        return f"{seeds} of {LEAST_RANKED} seeds" + ("" if seeds >= LEAST_SHOWN else ", too few to be read")
    if not row.planned:
        return "exploratory, no plan names it"
    if CHANGED in row.notes:
        return CHANGED
    if row.missing:
        return f"seed {', '.join(map(str, row.missing))} is missing"
    if row.epochs != epochs:
        return f"{row.epochs} epochs in all, others {epochs}"
    if short > BUDGET_TOLERANCE:
        return f"{100 * short:.1f} % of the dense cost below the budget"
    return ""


def doubt(done: Sequence[Record]) -> str:
    """Why a row with runs below level 2 of ``bench verify`` has no rank; empty where all are at it."""
    return next((f"seed {r.seed}: {r.doubt}" for r in done if r.doubt), "")


def step_seconds(done: Sequence[Record]) -> float | None:
    """Seconds of training an image, hooks included; median over seeds: one run on a busy machine decides nothing."""
    each = [r.training_seconds / r.examples_images for r in done if r.training_seconds and r.examples_images]
    return statistics.median(each) if each else None


def most_common(values: Sequence[Any]) -> Any:
    """The most frequent value, the smallest of several; None of nothing."""
    if len(set(values)) == 1:  # nearly always
        return values[0]
    counts = Counter(value for value in values if value is not None)
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _milliseconds(done: Sequence[Record]) -> Milliseconds | None:
    """How finished runs met a budget of milliseconds; None where they had another one."""
    each = [(r.asked_ms, r.final_ms, r.dense_ms) for r in done if r.final_ms is not None]
    return Milliseconds(*map(statistics.geometric_mean, zip(*each, strict=True))) if each else None


def _run(r: Record) -> Run:
    done = r.status == "ok"
    return Run(
        id=r.id,
        page=f"{r.id}-{r.record_sha256[:16]}",
        file=r.file,
        seed=r.seed,
        status=r.status,
        wrong=int(r.final_wrong_images) if done else None,
        images=int(r.test_images) if done else 0,
        pruned=int(r.pruned_wrong_images) if done and r.pruned_wrong_images is not None else None,
        loss=r.final_loss if done else None,
        macs=int(r.final_macs) if done else None,
        params=int(r.final_params) if done else None,
        training_macs=int(r.training_macs) if done else None,
    )


def accuracy(wrong: Sequence[float | None], images: Sequence[int]) -> Mean | None:
    """Mean top-1 over runs that get so many of their test images wrong, per cent; None where one is not known."""
    shares = [100 * w / n for w, n in zip(wrong, images, strict=True) if w is not None and n]
    if not shares or len(shares) != len(wrong):
        return None
    mean, half = interval(shares, 100 * QUANTUM / min(images))
    return Mean(100 - mean, half)


def mean_loss(losses: Sequence[float | None]) -> float | None:
    """Geometric mean of some losses; None where one is not known or not above 0."""
    logs = [math.log(loss) for loss in losses if loss]
    return math.exp(math.fsum(logs) / len(logs)) if logs and len(logs) == len(losses) else None


def short_of_budget(done: Sequence[Record]) -> float:
    """Largest share of the dense cost by which one of the finished runs lies below its budget.

    0 without a budget of MACs or parameters, and where no further block or step fits: these meet none closely.
    """
    costs = {"macs": ("final_macs", "dense_macs"), "params": ("final_params", "dense_params")}
    budgets = [
        (r.keep_share, *(getattr(r, name) for name in costs[r.kind]))
        for r in done
        if r.kind in costs and not is_coarse(r.coupling)
    ]
    return max((float(keep - final / dense) for keep, final, dense in budgets), default=0.0)


def checked(records: Sequence[Record]) -> str:
    """The level of ``bench verify`` that the finished records of a row reach, and who ran them again.

    Such as ``5 records: 5 consistent, 2 replayed by acme (inside)``; a row of another submitter that nobody has run
    again with a usual result is "as submitted".
    """
    done = [r for r in records if r.status == "ok"]
    sure = sum(not r.doubt for r in done)
    parts = [f"{sure} consistent"] + [f"{len(done) - sure} not proved"] * (sure < len(done))
    replays = Counter(who for r in done for who in r.replays.split(", ") if who)
    parts += [f"{times} replayed by {who}" for who, times in sorted(replays.items())]
    said = f"{plural(len(done), 'record')}: {', '.join(parts)}"
    submitter = records[0].submitter
    alone = submitter not in ("", SUITE) and (not replays or any(OUTSIDE in who for who in replays))
    return f"as submitted by {submitter}, {said}" if alone else said


def _notes(records: Sequence[Record]) -> list[str]:
    notes = []
    if records[0].submitter not in ("", SUITE):
        notes.append(checked(records))
    for status in ("failed", "diverged", *AS_MISSING):
        found = [r for r in records if r.status == status]
        notes += [f"seed {r.seed} {status}: {r.error[:120]}" for r in found]
    if any(r.code_changed for r in records):
        notes.append(CHANGED)
    for column, what in (("method_sha256", "the method's file"), ("torch", "torch")):
        if len({getattr(r, column) for r in records if r.status == "ok"}) > 1:
            notes.append(f"its seeds were made with different versions of {what}")
    if acting := sorted({name for r in records for name in _acting(r.finetune_plan)}):
        notes.append(f"{' and '.join(acting)} acts in the fine-tuning too")
    notes += dict.fromkeys(remark for r in records if r.remarks for remark in r.remarks.split("; "))
    if changed := sorted({name for r in records if r.differs for name in r.differs.split(", ")}):
        notes.append(f"changed between the submission of a job and its start: {', '.join(changed)}")
    return [note.replace("; ", ", ") for note in notes]  # tables in CSV and JSON join them by semicolons


@functools.lru_cache(maxsize=1024)
def _acting(plan: str) -> tuple[str, ...]:
    """Parts of the method whose hooks run after the prune."""
    phases = [phase for phase in msgspec.json.decode(plan) if isinstance(phase, Mapping)]
    return tuple(name for phase in phases for name in phase.get("active", ()))


@functools.lru_cache(maxsize=1024)
def _epochs_of(plan: str) -> int:
    return sum(phase["epochs"] for phase in msgspec.json.decode(plan) if isinstance(phase, Mapping))


def _mean(values: Any) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None
