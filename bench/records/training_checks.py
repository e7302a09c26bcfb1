"""Rules between a run's plan, its recipe, its work and its results, for who reads a record that others made.

No run is refused its record for them: they are no part of :func:`bench.records.store.seal`. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.records.schema import (
    Clock,
    Costs,
    Curve,
    Data,
    Memory,
    Metrics,
    Phase,
    Record,
    Structure,
    Training,
    finished,
)
from bench.records.values import said
from bench.spec.recipe import Recipe

SELECTION = "last epoch"
GATE = 1e-4
"""Largest difference between the outputs of the masked and of the sliced network, relative to the largest output."""
ERRORS = 6
"""Most standard errors by which the accuracy on test images is above that on validation images."""
STEP = 3
"""Forward passes that a training step costs: the backward pass counts as two."""


def of_record(record: Record) -> Iterator[str]:
    """What is impossible or contradictory in a finished record, one line each."""
    if not finished(record):
        return
    curve = record.curve or Curve([], [], [], [], [], [])
    recipe, costs = record.spec.recipe, record.cost
    yield from contradictions(record.training, curve, record.data, recipe, costs, record.metrics)
    yield from of_result(record.structure, record.training, costs, record.memory, record.clock)


def contradictions(
    training: Training, curve: Curve, data: Data, recipe: Recipe, costs: Costs, metrics: Metrics
) -> Iterator[str]:
    """What plan, curve, work and accuracies of a finished run contradict each other in, one line each."""
    plan = training.plan
    if training.selection != SELECTION:
        yield f"training.selection is {said(training.selection)}, rules ask for '{SELECTION}'"
    if any(not 0 <= phase < len(plan) or plan[phase] == "prune" for phase in curve.phase):
        yield "curve.phase names a step that training.plan does not train in"
        return
    yield from _of_plan(training, curve, recipe)
    prune = plan.index("prune") if "prune" in plan else -1
    yield from _of_work(training, examples_of_epoch(data.train, recipe.batch_size), curve, costs, prune)
    yield from _of_extras(training, costs, data)
    if curve.phase and curve.phase[-1] > prune and curve.val_top1[-1] is not None and data.val:
        yield from _of_accuracies(curve.val_top1[-1], data.val, metrics.final.top1, data.test)


def of_result(structure: Structure, training: Training, costs: Costs, memory: Memory, clock: Clock) -> Iterator[str]:
    """What is impossible for a network that was pruned, stored and timed, one line each."""
    gate = structure.gate_slice_difference
    if "prune" in training.plan and (gate is None or gate > GATE):
        yield f"structure.gate_slice_difference is {said(gate)}, more than {GATE:g} or none"
    for which, cost, peak in (
        ("dense", costs.dense, memory.dense_peak_bytes),
        ("final", costs.final, memory.final_peak_bytes),
    ):
        if cost.weight_bytes < 4 * cost.params:
            yield f"cost.{which}.weight_bytes is {cost.weight_bytes:,}, {cost.params:,} params take {4 * cost.params:,}"
        if peak < cost.weight_bytes:
            yield f"memory.{which}_peak_bytes is {peak:,}, its weights alone take {cost.weight_bytes:,}"
    base_seconds = (clock.base_seconds or {}).get("train", 0.0)
    own = training.epochs - (training.base.epochs if training.counts_base else 0)
    if (own and clock.seconds["train"] <= 0) or (training.base.epochs and base_seconds <= 0):
        yield "clock: training took no time"


def examples_of_epoch(images: int, batch: int) -> int:
    """Training images that one epoch uses: whole batches only, where there are more images than one has."""
    return images - images % batch if images > batch else images


def _of_plan(training: Training, curve: Curve, recipe: Recipe) -> Iterator[str]:
    """Epochs of base and plan are those of the recipe; every phase is in the curve, epoch by epoch."""
    base, asked = training.base.epochs, recipe.train.epochs
    if base > asked or (base < asked and not recipe.train.patience):
        yield f"training.base.epochs is {base}, of the recipe {asked}"
    plan = training.plan
    prune = plan.index("prune") if "prune" in plan else -1
    if curve.phase != sorted(curve.phase):
        yield "curve.phase goes back"
    for index, step in enumerate(plan):
        if not isinstance(step, Phase):
            continue
        own = [k for k, phase in enumerate(curve.phase) if phase == index]
        stage = recipe.finetune if step.part == "finetune" else recipe.train
        may_stop = index < prune or step.active or stage.patience
        if len(own) > step.epochs or (len(own) < step.epochs and not may_stop):
            yield f"curve has {len(own)} epochs of step {index} of training.plan, which has {step.epochs}"
        if [curve.epoch[k] for k in own] != [*range(1, len(own) + 1)]:
            yield f"curve.epoch does not count the epochs of step {index} of training.plan"
        if any(curve.part[k] != step.part for k in own):
            yield f"curve.part is not '{said(step.part)[1:-1]}' in step {index} of training.plan"


def _of_work(training: Training, examples: int, curve: Curve, costs: Costs, prune: int) -> Iterator[str]:
    """Examples and MACs are those of base, epochs and widths, and of the forwards that the method declares."""
    base, dense, final = training.base, costs.dense.macs, costs.final.macs
    of_base = base.epochs * examples
    for key, value, expected in (
        ("base.examples", base.examples, of_base),
        ("base.macs", base.macs, STEP * of_base * dense),
        (
            "examples",
            training.examples,
            len(curve.phase) * examples + (of_base if training.counts_base else 0),
        ),
    ):
        if value != expected:
            yield f"training.{key} is {value:,}, by epochs, images and batch size {expected:,}"
    declared = training.method_examples
    passes = declared.get("forward", 0) + STEP * declared.get("backward", 0)
    extra, more = training.method_macs, sum(each.macs for each in training.extras or ())
    least = passes * final // (STEP if training.freeze else 1)  # no gradient is computed for what is frozen
    if extra is not None and extra < least + more:
        by = "method_examples and extras" if more else "method_examples"
        yield f"training.method_macs is {extra:,}, by {by} at least {least + more:,}"
    low = high = 0
    for k, phase in enumerate(curve.phase):
        before = phase < prune or prune < 0
        whole = before and (curve.units_left or [None] * len(curve.phase))[k] in (None, 1.0)
        net = dense if whole else final
        low += examples * (STEP * net - _not_made(training, phase, curve.epoch[k], net, before))
        high += examples * STEP * (dense if before else final)
    shared = base.macs if training.counts_base else 0
    low += shared + (least if extra is None else extra)
    high += shared + (passes * dense if extra is None else extra)
    if not low <= training.macs <= high:
        what = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        yield f"training.macs is {training.macs:,}, by plan, widths and the method's own forwards {what}"


def _not_made(training: Training, phase: int, epoch: int, net: int, before: bool) -> int:
    """Most MACs of a step on an example that are not made in an epoch, since layers are frozen."""
    done = [f for f in training.freeze or () if (f.phase, f.epoch) < (phase, epoch)] if before else []
    return max((min(f.macs, net) * (STEP if f.views else STEP - 1) for f in done), default=0)


def _of_extras(training: Training, costs: Costs, data: Data) -> Iterator[str]:
    """The parts of the work add up to it, and those of the extras to theirs; a teacher costs what its network does."""
    by, extras = training.macs_by, training.extras or []
    if by is None:
        if extras:
            yield "training.extras are there, and no training.macs_by"
        return
    if (total := sum(by.values())) != training.macs:
        yield f"training.macs is {training.macs:,}, the sum of macs_by {total:,}"
    if (own := total - by.get("steps", 0)) != (training.method_macs or 0):
        yield f"training.method_macs is {training.method_macs or 0:,}, by macs_by {own:,}"
    for what in ("teacher", "own", "cache"):
        found = sum(extra.macs for extra in extras if extra.what == what)
        if found != by.get(what, 0):
            yield f"training.macs_by.{what} is {by.get(what, 0):,}, by extras {found:,}"
    for extra in extras:
        if extra.what == "teacher":
            low = costs.dense.macs if extra.name == "base" else costs.final.macs
            if not extra.examples * low <= extra.macs <= extra.examples * costs.dense.macs:
                yield f"training.extras: teacher {said(extra.name)} of {extra.examples:,} examples, {extra.macs:,} MACs"
        elif extra.what == "cache":
            kept = [f for f in training.freeze or () if f.views and f.upto == extra.name]
            most = max((f.macs for f in kept), default=0) * extra.examples
            if not kept or extra.examples % data.train or not 0 < extra.macs <= most:
                yield f"training.extras: {extra.examples:,} outputs of {said(extra.name)} for {extra.macs:,} MACs"
        elif extra.what in ("objective", "freeze") and extra.macs:
            yield f"training.extras: {extra.what} costs {extra.macs:,} MACs, it is a part of the steps"


def _of_accuracies(val: float, val_images: int, test: float, test_images: int) -> Iterator[str]:
    """No network is better on the test images by more than chance; worse it may be, as these can be of another kind."""
    images = val_images + test_images
    share = (val * val_images + test * test_images + 1) / (images + 2)
    error = math.sqrt(share * (1 - share) * (1 / val_images + 1 / test_images))
    if test - val > ERRORS * error:
        yield (
            f"metrics.final.top1 is {test:.4f}, curve.val_top1 ends at {val:.4f}: "
            f"{(test - val) / error:.0f} standard errors apart, more than {ERRORS}"
        )
