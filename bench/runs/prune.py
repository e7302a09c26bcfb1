"""The prune of a run: choose masks, compensate, slice, check the sliced network, re-estimate batch norm."""

from __future__ import annotations

from typing import Any

from bench.errors import ARCHITECTURE, METHOD, RunFailed
from bench.measure import flops
from bench.pruning.gates import TOLERANCE, gate_slice_difference
from bench.pruning.masks import Masks
from bench.spec.spec import Budget
from bench.training.batchnorm import recalibrate
from bench.training.checkpoint import clone_state
from bench.training.compensation import batches_to_estimate
from bench.training.loop import PhaseTrainer


def prune(trainer: PhaseTrainer, budget: Budget | None, shape: tuple[int, ...], trains: bool) -> dict[str, Any]:
    """Remove the units that the method's masks do not keep; what does not act afterwards is finalized before.

    Args:
        trainer: of the run; the step at its position is the PRUNE.
        budget: which the masks must keep; None for none.
        shape: of one image ``(C, H, W)``.
        trains: whether the run trains beyond the dense baseline; batch norm is left alone otherwise.

    Returns:
        For the record: ``gate_slice_difference``; ``pruned``, the weights after the prune, None for a method that
        trains a smaller network before the prune; ``calibration``, None where nothing compensates; ``macs`` by operator
        of the slice; for a budget of milliseconds ``latency``, and ``scores`` that its widths follow from.

    Raises:
        RunFailed: the masks cost more than the budget, or the sliced network is not the gated one.
    """
    model, costs = trainer.model, trainer.model.costs
    if latency := trainer.ctx._latency:
        latency.measures = True
    chosen = trainer.ctx.select()
    masks = {name: mask.cpu() for name, mask in chosen.items()}
    cost = costs.array(masks)
    if budget and not costs.meets(budget, cost):
        raise RunFailed(
            f"the method's masks cost {costs.cost(budget, cost):,}, "
            f"the budget of {budget} is {costs.allowed(budget):,}",
            blame=METHOD,
        )
    if latency:
        latency.require_measured(masks)
    calibration = _compensate(trainer, chosen)
    trainer.finalize()
    unpruned, sites = model.network, model.sites
    sliced = model.slice(masks, tracking=trainer.method is not None)
    trainer.guard.check_network()
    with model.ledger.paused():
        difference = gate_slice_difference(unpruned, sliced, sites, masks, trainer.data.val.first(64))
    if not difference <= TOLERANCE:  # not a number fails too
        why = f"gated and sliced network differ by {difference:.2e}, above {TOLERANCE:g}"
        raise RunFailed(why, blame=ARCHITECTURE)
    with model.ledger.paused():
        counted = flops.traced(sliced, shape)  # the final network is counted twice, as the dense one was
    if counted.total != costs.macs(cost):
        why = f"fvcore counts {counted.total:,} MACs, the cost model {costs.macs(cost):,}"
        raise RunFailed(why, blame=ARCHITECTURE)
    batches, charged = batches_to_estimate(trainer.parts.method, trainer.recipe.recalibrate, trains)
    recalibrate(model, trainer.data, trainer.recipe, trainer.seed, batches, charged)
    if charged:
        calibration |= {"batches": batches}
    return {
        "calibration": calibration or None,
        "gate_slice_difference": difference,
        "macs": counted.by_op,
        "pruned": None if trainer.now.tuned else clone_state(sliced),
        **({"latency": latency.facts(), "scores": latency.scores} if latency else {}),
    }


def _compensate(trainer: PhaseTrainer, masks: Masks) -> dict[str, Any]:
    """Let the parts of the method compensate; what a record says of it, nothing where none does.

    Args:
        trainer: of the run, at its PRUNE.
        masks: site -> bool ``[n_units]``, as they will be cut.
    """
    parts = [part for part in trainer.parts.left if part.bound("compensate")]
    names = [part.name for part in trainer.parts.left if part in parts or part.reestimates is not None]
    if parts:
        refits = trainer.ctx._refits()  # which keeps the responses before any part writes
        trainer.calls.timed("compensate", [hook for part in parts for hook in part.bound("compensate")], masks)
        trainer.ctx._refit = None
        trainer.seconds["solver"] = refits.seconds
        return {"parts": names} | refits.facts
    return {"parts": names} if names else {}
