"""Rules between the fields of a record: what cannot be true together. Needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from bench import __version__
from bench.records import bits
from bench.records.schema import Costs, Curve, Data, Latency, Metrics, Record, Structure, Training
from bench.records.values import ROW, Label, MethodName, Name, Settings, hidden, said, wrong
from bench.spec.option_text import LARGEST_SEED
from bench.spec.recipe import Recipe
from bench.spec.spec import LATENCY_TOLERANCE, WIDTH, Budget, Spec

WORK = 10**24
"""Largest number of training MACs."""
FINISHED = ("data", "training", "structure", "cost", "metrics", "memory")
"""Parts that are None where a run did not come so far."""
OLD = f"made by version 0.1 of the suite, which reads it; this is version {__version__}"
"""What is said of a record of schema 1, or of rules 0.1."""
OLD_RULES = ("0.1",)
_SPEC = tuple[str, str, str, Recipe, Budget | None, int, str, dict[str, Any], str, Literal["depth", "both"] | None]


def contradictions(record: Record) -> Iterator[str]:
    """What is wrong with the values of a record, one line each."""
    spec = record.spec
    if spec.rules in OLD_RULES:
        yield f"rules {spec.rules}, {OLD}"
    shared = (spec.method, spec.arch, spec.dataset, spec.recipe, spec.budget, 0, spec.coupling, spec.config, spec.rules)
    problems, expected = _of_spec(msgspec.json.encode((*shared, spec.units or None)))
    yield from problems
    if not 0 <= record.spec.seed <= LARGEST_SEED:
        yield f"spec.seed is {said(record.spec.seed)}, not from 0 to {LARGEST_SEED}"
    if record.spec_sha256 != expected:
        yield f"spec_sha256 is {record.spec_sha256}, the hash of the specification is {expected}"
    name = f"{record.spec_sha256[:12]}-s{record.spec.seed}"
    if record.id != name:
        yield f"id is {record.id}, by spec_sha256 and spec.seed it is {name}"
    clock = record.clock
    for key in ("started_at", "finished_at"):
        if getattr(clock, key).utcoffset():
            yield f"clock.{key} is {getattr(clock, key).isoformat()}: times are UTC, with Z"
    if clock.finished_at < clock.started_at:
        yield f"clock.finished_at is {clock.finished_at.isoformat()}, before clock.started_at"
    if (record.status == "ok") != (record.error is None):
        yield "status and error contradict each other"
    if "torch" not in record.environment.packages:
        yield "environment.packages.torch is missing"
    if record.curve:
        yield from _of_curve(record.curve)
    if record.data and (record.data.fold is None) != (record.data.folds_sha256 is None):
        yield "data.fold and data.folds_sha256: one is there without the other"
    if record.replay_of and record.replay_of == record.record_sha256:
        yield "replay_of is the record's own hash"
    asked = record.spec.recipe.precision
    if record.training and asked != record.training.precision:
        yield f"training.precision is {said(record.training.precision)}, spec.recipe.precision {said(asked)}"
    if record.status != "ok":
        return
    yield from (f"'{key}' is null in a finished run" for key in _missing(record))
    if record.data and record.training and record.structure and record.cost and record.metrics:
        epochs = len(record.curve.epoch) if record.curve else 0
        budget = record.spec.budget or Budget()
        yield from _of_metrics(record.metrics, record.data)
        yield from _of_training(record.training, record.metrics, epochs)
        fewer = record.cost.dense.macs != record.cost.final.macs
        if bool(record.structure.blocks) != (record.spec.unit_kinds != WIDTH):
            yield f"structure.blocks: spec prunes {record.spec.unit_kinds}"
        if "prune" not in record.training.plan and (record.spec.budget or fewer):
            yield "nothing was pruned, and there is a budget, or fewer MACs"
        yield from _of_cost(record.cost, budget)
        yield from _of_structure(record.structure, budget)
        yield from _of_latency(record.latency, budget)


@functools.lru_cache(maxsize=4096)
def _of_spec(text: bytes) -> tuple[list[str], str]:
    """What is wrong with a specification, its fields given as JSON, and its hash: all seeds share them."""
    fields = msgspec.json.decode(text, type=_SPEC)
    spec = Spec(*fields[:9], fields[9] or msgspec.UNSET)
    return list(unreadable(spec)), spec.sha256


def unreadable(spec: Spec) -> Iterator[str]:
    """Names and options of a specification that no record may have."""
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.config.items()}
    for what, value, kind in (
        ("method", spec.method, MethodName),
        ("arch", spec.arch, Label),
        ("dataset", spec.dataset, Label),
        ("recipe.name", spec.recipe.name, Label),
        ("coupling", spec.coupling, Name),
        ("rules", spec.rules, Name),
        ("config", config, Settings),
    ):
        yield from hidden(value, f"spec.{what}")
        if problem := wrong(value, kind):
            yield f"spec.{what} {problem}"
    if (length := len(spec.name)) > ROW:
        yield f"spec: method and options have {length:,} characters, more than {ROW}"


def _missing(record: Record) -> Iterator[str]:
    yield from (key for key in FINISHED if getattr(record, key) is None)
    yield from (f"artifacts.{key}" for key in ("network", "masks") if getattr(record.artifacts, key) is None)
    yield from (f"clock.seconds.{key}" for key in ("train", "method") if key not in record.clock.seconds)
    if record.data and record.data.test_sha256 is None:
        yield "data.test_sha256"
    if record.clock.base_seconds is None:
        yield "clock.base_seconds"


def _of_curve(curve: Curve) -> Iterator[str]:
    columns = {key: getattr(curve, key) for key in curve.__struct_fields__ if key != "logged"} | curve.logged
    for key, column in columns.items():
        if column is not None and len(column) != len(curve.epoch):
            yield f"curve.{said(key)[1:-1]} has {len(column)} values, curve.epoch {len(curve.epoch)}"


def _of_metrics(metrics: Metrics, data: Data) -> Iterator[str]:
    for which in ("dense", "pruned", "final"):
        quality, field = getattr(metrics, which), f"metrics.{which}"
        if quality is None:
            continue
        images = quality.examples
        if images != data.test:
            yield f"{field}.examples is {images}, data.test {data.test}"
        for key in ("top1", "top5"):
            hits = getattr(quality, key) * images
            if abs(hits - round(hits)) > 1e-6:
                yield f"{field}.{key} is {getattr(quality, key)}, not a whole number of {images} test images"
        if not quality.worst_class_top1 <= quality.top1 <= quality.top5:
            yield f"{field}: worst class <= top-1 <= top-5 does not hold"
        for key in ("loss", "ece"):
            if getattr(quality, key) is None:
                yield f"{field}.{key} is null in a finished run"
        if quality.worst_class >= data.classes:
            yield f"{field}.worst_class is {quality.worst_class}, data.classes {data.classes}"
    right = round(metrics.final.top1 * metrics.final.examples)
    yield from _of_bits("metrics.final.correct", metrics.final.correct, data.test, right)


def _of_bits(field: str, text: str | None, count: int, expected: int) -> Iterator[str]:
    """The bits are so many, and as many of them are set as another field says."""
    if text is None:
        return
    try:
        found = bits.ones(text, count)
    except ValueError as error:
        yield f"{field}: {error}"
        return
    if found != expected:
        yield f"{field} has {found:,} of {count:,} bits set, not {expected:,}"


def _of_training(training: Training, metrics: Metrics, epochs_in_curve: int) -> Iterator[str]:
    """Plan, work and curve are of one run; accuracies after pruning exist unless units were cut out before it."""
    plan, base, pruned = training.plan, training.base, metrics.pruned
    if "prune" not in plan:
        if pruned is not None:
            yield "metrics.pruned is there, and training.plan has no prune"
    elif pruned is None and not any(step.epochs for step in plan[: plan.index("prune")] if step != "prune"):
        yield "metrics.pruned is null, and training.plan prunes before it trains"
    from_base = training.counts_base
    for key in ("examples", "macs"):
        own, of_base = getattr(training, key), getattr(base, key) if from_base else 0
        if own < of_base:
            yield f"training.{key} is {own:,}, of the base alone {of_base:,}"
    if not 0 <= base.macs <= WORK or training.macs > WORK:
        yield "training.macs or training.base.macs is too large, or less than 0"
    before = base.epochs if from_base else 0
    epochs, planned = training.epochs - before, sum(step.epochs for step in plan if step != "prune")
    if not 0 <= epochs <= planned:
        yield f"training.epochs is {training.epochs}, of the plan and the base {planned + before}"
    if epochs_in_curve != epochs:
        yield f"curve has {epochs_in_curve} epochs, by training.epochs it has {epochs}"


def _of_cost(costs: Costs, budget: Budget) -> Iterator[str]:
    dense, final = costs.dense, costs.final
    for which, cost in (("dense", dense), ("final", final)):
        if cost.macs != (by_op := sum(cost.macs_by_op.values())):
            yield f"cost.{which}.macs is {cost.macs:,}, the sum of macs_by_op {by_op:,}"
    if dense.counter != final.counter:
        yield f"cost.final.counter is {said(final.counter)}, cost.dense.counter {said(dense.counter)}"
    for key, before, after, share in (
        ("macs", dense.macs, final.macs, budget.keep_macs),
        ("params", dense.params, final.params, budget.keep_params),
    ):
        if not 0 < after <= before:
            yield f"cost: {after} {key} after, {before} before"
        if share is not None and after > share * before + 1e-6:
            yield f"cost: more {key} than the budget of {share}"


def _of_latency(latency: Latency | None, budget: Budget) -> Iterator[str]:
    """A budget of milliseconds was measured, and is met."""
    if (latency is not None) != budget.of_latency:
        yield "latency: it is of runs with a budget of milliseconds, and of each of these"
    if latency is None:
        return
    if not latency.rounds:
        yield "latency.rounds is empty"
    for last in latency.rounds[-1:]:
        target = budget.target_ms(last.dense_ms)
        if target is not None and last.ms > target * (1 + LATENCY_TOLERANCE) + 1e-9:
            yield f"latency: the chosen network takes {last.ms:.6g} ms, {target:.6g} were asked for"


def _of_structure(structure: Structure, budget: Budget) -> Iterator[str]:
    for site, (before, after) in structure.widths.items():
        may_go = any("0" in kept for kept in (structure.blocks or {}).values())
        if not (0 if may_go else 1) <= after <= before:
            yield f"structure.widths: {said(site)} has {after} of {before} units"
        elif 0 < after < min(budget.min_keep, before) and site not in (structure.blocks or ()):
            yield f"structure.widths: {said(site)} has {after} units, spec.budget.min_keep is {budget.min_keep}"
    for site in structure.exempt or ():
        before, after = structure.widths.get(site, (0, -1))
        if after != before:
            yield f"structure.exempt: {said(site)} is no site that keeps all its units"
    yield from _of_masks(structure)
    yield from _of_blocks(structure, budget)
    kept = {name: after for name, (_, after) in structure.widths.items()}
    if budget.widths is not None and list(budget.widths) != [kept[name] for name in sorted(kept)]:
        yield "structure.widths are not those of spec.budget.widths"
    for k, key in enumerate(("units_before", "units_after")):
        total = sum(widths[k] for widths in structure.widths.values())
        if getattr(structure, key) != total:
            yield f"structure.{key} is {getattr(structure, key)}, the sum of the widths {total}"


def _of_masks(structure: Structure) -> Iterator[str]:
    """The masks, site after site in sorted order, keep as many units as the widths say, and the named blocks."""
    left = count = sum(before for before, _ in structure.widths.values())
    try:
        whole = int.from_bytes(bits.as_bytes(structure.masks, count)) >> -count % 8
    except ValueError as error:
        yield f"structure.masks: {error}"
        return
    for site, (before, after) in sorted(structure.widths.items()):
        left -= before
        mask = whole >> left & (1 << before) - 1
        if mask.bit_count() != after:
            yield f"structure.masks keep {mask.bit_count()} units of {said(site)}, structure.widths {after}"
        elif f"{mask:0{before}b}" != (own := (structure.blocks or {}).get(site, f"{mask:0{before}b}")):
            yield f"structure.masks keep the blocks {mask:0{before}b} of {said(site)}, structure.blocks {said(own)}"


def _of_blocks(structure: Structure, budget: Budget) -> Iterator[str]:
    """The blocks that stay are those of the budget, as far as it says; each site of them has widths."""
    kept = structure.blocks or {}
    if budget.blocks and list(budget.blocks) != [kept[name] for name in sorted(kept)]:
        yield "structure.blocks are not those of spec.budget.blocks"
    for site, text in kept.items():
        if site not in structure.widths:
            yield f"structure.blocks: {said(site)} has no widths"
        elif isinstance(budget.min_blocks, int) and text.count("1") < min(budget.min_blocks, len(text)):
            yield f"structure.blocks: {said(site)} is {text}, spec.budget.min_blocks is {budget.min_blocks}"
