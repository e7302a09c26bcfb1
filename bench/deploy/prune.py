"""``bench.prune``: prune a network in the user's process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.data.loading import TrainingData
from bench.deploy.apart import apart
from bench.deploy.batches import Batches, Examples
from bench.deploy.carried import Carried
from bench.deploy.cut import (
    BUDGETS,
    Cut,
    budget_of,
    cut,
    exempting,
    method_of,
    recipe_of,
    require_seed,
    sought,
    trainer_of,
    working,
)
from bench.deploy.given import given
from bench.deploy.known import Known, known_of
from bench.deploy.latency import latency_choice
from bench.deploy.pruned_network import PrunedNetwork
from bench.errors import UsageError
from bench.spec.spec import WIDTH, Budget


def prune(
    network: nn.Module | PrunedNetwork,
    example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    data: Iterable[Any] | None = None,
    *,
    method: str = "l1_norm",
    options: Mapping[str, Any] | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    latency_ms: float | None = None,
    runtime: str = "onnxruntime",
    batch: int = 1,
    threads: int = 1,
    tables: str | Path | None = None,
    round_to: int = 1,
    units: str = "width",
    coupling: str = "inner",
    ranking: str | None = None,
    min_keep: int = 1,
    whole: Iterable[str] = (),
    loss: Callable[[Any, Any], Tensor] | None = None,
    logits: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> PrunedNetwork:
    """Prune a trained network within a budget. The network itself and all global state stay as they are.

    Args:
        network: any module; one in DDP, DataParallel or ``torch.compile`` is unwrapped: wrap the result again. What an
            earlier call returned is pruned further: shares are of the first dense network, sites (``coupling``,
            ``units``, ``whole``) and ``logits`` are those of the first call, and what is removed stays removed.
        example: one batch of its input, on its device; a tuple of several inputs, or a dict of inputs by name.
        data: batches ``(inputs, targets)``, or inputs alone for methods without labels. They are read in their order,
            as far as the method asks. Methods that look at no training images need none.
        method: one that starts from a trained network; ``a+b`` is a composition.
        options: of the method.
        keep_macs: share of the dense network's MACs to keep, in (0, 1].
        keep_params: the same of its parameters. Exactly one budget is given.
        keep_latency: share of the dense network's milliseconds, where ``runtime`` infers ``batch`` examples with
            ``threads`` CPU threads. Thin copies of the network are timed, which needs a quiet machine and minutes.
        latency_ms: milliseconds, in place of a share.
        runtime: see ``keep_latency``.
        batch: see ``keep_latency``.
        threads: see ``keep_latency``.
        tables: folder that keeps what was timed for later calls; None: as long as this process lives.
        round_to: every width is a multiple of so many channels, or the full one; the budget is never exceeded.
        units: ``width`` cuts channels, ``depth`` removes blocks, ``both`` does both.
        coupling: ``inner`` leaves residual streams whole, ``full`` cuts them, too.
        ranking: ``layer`` or ``global``; None leaves it to the method.
        min_keep: units that stay in every site.
        whole: names of layers that keep their width.
        loss: ``loss(logits, targets)``, the mean over a batch, for scores of gradients; None: cross-entropy.
        logits: ``logits(output)`` picks the logits where the network gives more.
        seed: of what a method draws.

    Raises:
        UsageError: something that is given cannot be.
        SetupError: networks cannot be timed: the machine is busy, or lacks the runtime.
        RunFailed: the method failed, the sliced network is not the gated one, or the milliseconds were not met.
    """
    earlier = network if isinstance(network, PrunedNetwork) else None
    shares = {"keep_macs": keep_macs, "keep_params": keep_params}
    shares |= {"keep_latency": keep_latency, "latency_ms": latency_ms}
    where = {"runtime": runtime, "batch": batch, "threads": threads}
    budget, asked = budget_of(shares, ranking, min_keep, where, round_to)
    if earlier and budget.of_latency:
        raise UsageError(f"{asked}: the network is pruned already; prune the first one to it at once")
    whole = sought(coupling, units, round_to, whole)
    if earlier and (whole or coupling not in ("inner", earlier.sites.coupling) or units != WIDTH):
        raise UsageError("coupling, units and whole are those of the first prune: sites are not searched again")
    require_seed(seed)
    chosen = method_of(method, options or {})
    logits = logits or (earlier._logits if earlier else None)
    with apart() as end:
        had, work = given(earlier.network if earlier else network, example, logits, whole)
        if earlier and (had.shape, had.inputs) != (earlier._known.shape, earlier._known.inputs):
            raise UsageError("example is of another shape than that of the first prune, whose costs shares are of")
        known: Known = earlier._known if earlier else known_of(work, had.shape, had.inputs, coupling, units)
        sites = (earlier.sites if earlier else known.sites).bind(work)
        costs = earlier._costs if earlier else known.costs
        full = partial(known_of, work, had.shape, had.inputs, "full", units)
        wider = full if coupling == "inner" and not earlier else None
        costs = exempting(chosen, known, sites, costs, budget, asked, wider)
        batches = Batches(data, method, had, seed)
        end.callback(batches.rewind)
        images = TrainingData(batches, Examples(had.example, batches), {})
        recipe = recipe_of(batches.batch_size)
        trainer = trainer_of(had, work, sites, costs, chosen, images, budget, seed, recipe, loss)
        if budget.of_latency:
            folder = Path(tables) if tables else None
            trainer.ctx._latency = latency_choice(had, work, known, costs, budget, asked, units, folder)
        with working(method, work):
            trainer.prepare()
            done = cut(trainer, had, budget)
        made = had.restore(done.network)
        carried = Carried(work, had.network, sites, done.masks)
    facts = {"name": method, "options": dict(options or {}), "seed": seed}
    return result(made, known, done, carried, budget, facts, logits, earlier)


def result(
    made: nn.Module,
    known: Known,
    done: Cut,
    carried: Carried,
    budget: Budget,
    method: Mapping[str, Any],
    logits: Any = None,
    earlier: PrunedNetwork | None = None,
) -> PrunedNetwork:
    """What is returned; masks and widths are of the first dense network, also after an ``earlier`` prune."""
    masks = dict(done.masks)
    if earlier:
        masks = {name: mask.clone() for name, mask in earlier.masks.items()}
        for name, mask in done.masks.items():  # a site in a removed block has none
            masks[name][earlier.masks[name]] = mask
    asked = {name: share for name in BUDGETS if isinstance(share := getattr(budget, name), float)}
    latency = {"latency": dict(done.latency)} if done.latency else {}
    return PrunedNetwork(
        network=made,
        masks=masks,
        widths={name: (len(mask), int(mask.sum())) for name, mask in masks.items()},
        sites=done.sites.bind(made),
        rejected=known.sites.rejected,
        cost={"asked": asked, "dense": dict(known.cost), "pruned": dict(done.cost), **latency},
        difference=done.difference,
        method=method,
        _carried=carried,
        _known=known,
        _costs=done.costs,
        _logits=logits,
    )
