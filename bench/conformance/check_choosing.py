"""Checks of what a method chooses: scores, masks, budgets, on every tiny network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bench.conformance.checks import Broken, check, chooses_without_scores, is_not_native, keeps_every_unit, require
from bench.conformance.subject import HALF, Stopped, Subject, WatchedRun
from bench.conformance.tiny_networks import BLOCKS
from bench.pruning.gates import TOLERANCE
from bench.pruning.sites import Sites
from bench.spec.spec import DEPTH, Budget
from bench.training import dense_baseline as bases
from bench.training.context import Context
from bench.training.method import Method
from bench.training.plan import PRUNE


def scored(subject: Subject, **settings: Any) -> tuple[dict[str, Tensor], Sites]:
    """The scores that a method gives when it comes to the prune, and the sites they are for."""
    found: dict[str, Tensor] = {}
    sites: list[Sites] = []

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook != "select":
            return call()
        scores = subject_scores(ctx)
        require(hasattr(scores, "items"), f"scores returned {type(scores).__name__}, not a dictionary")
        found.update(scores)
        sites.append(ctx.sites)
        raise Stopped

    run = subject.start(watch=watch, **settings)
    subject_scores = run.method.scores
    torch.manual_seed(0)
    try:
        run.go()
    except Stopped:
        return found, sites[0]
    raise Broken("the run ended without a prune")


def check_scores(method: Method, scores: Mapping[str, Tensor], sites: Sites, where: str) -> None:
    """Raise Broken unless there is a finite number for each unit, those of exempt sites aside."""
    for name, width in sites.widths.items():
        if name not in scores and method.exempt(sites[name]):
            continue
        require(name in scores, f"no scores for site {name} {where}")
        given = scores[name]
        require(isinstance(given, Tensor), f"scores of site {name} {where} are {type(given).__name__}, not a tensor")
        shape = list(given.shape)
        require(shape == [width], f"scores of site {name} {where} have shape {shape}, not [{width}]")
        require(given.is_floating_point(), f"scores of site {name} {where} are {given.dtype}, not floating point")
        require(bool(given.isfinite().all()), f"scores of site {name} {where} are not finite")


@check(
    "scores",
    "A missing, misshapen or infinite score silently becomes a wrong ranking.",
    keeps_every_unit,
    chooses_without_scores,
    alone=True,
)
def scores(subject: Subject) -> str | None:
    """Complete, shaped like the site, finite, on every network that the method works on."""
    for arch in subject.networks:
        try:
            run = subject.on(arch)
            given, sites = (isinstance(run, WatchedRun) and run.scored) or scored(subject, arch=arch)
            check_scores(subject.method, given, sites, f"on {arch}")
        except Exception as error:
            if not (subject.declines(error) and arch != subject.networks[0]):
                raise
    return None


@check(
    "scores_of_a_dead_unit",
    "Training makes units exactly zero; a score that divides by their norm is not a number then.",
    keeps_every_unit,
    chooses_without_scores,
    alone=True,
)
def scores_of_a_dead_unit(subject: Subject) -> str | None:
    """Finite when a unit's weights, bias and norm are zero."""

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook != "select":
            return call()
        silence(ctx)
        check_scores(run.method, dict(run.method.scores(ctx)), ctx.sites, "with a unit of zero weights")
        raise Stopped

    run = subject.start(watch=watch)
    try:
        run.go()
    except Stopped:
        return None
    raise Broken("the run ended without a prune")


@torch.no_grad()
def silence(ctx: Context) -> None:
    """Set everything that makes the first unit of each site to zero."""
    for site in ctx.sites.values():
        for parameter, cut in site.unit_parameters():
            parameter[cut.positions[cut.units == 0].to(parameter.device)] = 0
        for parameter, at in site.held(torch.arange(site.n_units) > 0) if site.blocks else ():
            parameter[at] = 0


@check("every_network", "What works on one kind of layer only must say so, not fail in the night.")
def every_network(subject: Subject) -> str | None:
    """A run on each of the tiny networks, one-unit sites, depthwise layers and missing norms included."""
    declined = []
    for arch in subject.networks:
        found = subject.on(arch)
        if isinstance(found, Exception):
            if arch == subject.networks[0] or not subject.declines(found):
                raise Broken(f"{arch}: {subject.line(found)}") from found
            declined.append(arch)
    return f"declines {', '.join(declined)}" if declined else f"{len(subject.networks)} networks"


@check(
    "gate_is_slice",
    "What was masked and what is cut must be the same function, or the masks lied.",
    keeps_every_unit,
    alone=True,
)
def gate_is_slice(subject: Subject) -> str | None:
    """Gated and sliced network agree on every network that the method works on."""
    worst = 0.0
    for arch in subject.networks:
        found = subject.on(arch)
        if str(found).startswith("gated and sliced"):
            raise Broken(f"{arch}: {found}")
        if isinstance(found, WatchedRun) and (result := found.done.now.prune_result):
            worst = max(worst, float(result["gate_slice_difference"]))
    require(worst <= TOLERANCE, f"gated and sliced network differ by {worst:.1e}, above {TOLERANCE:g}")
    return f"largest difference {worst:.1e}"


@check("budget_macs", "Two methods compare at equal cost only.", keeps_every_unit, alone=True)
def budget_macs(subject: Subject) -> str | None:
    """Masks cost at most 0.75, 0.5, 0.25 and 0.1 of the dense MACs (of blocks alone 0.75, 0.6, 0.45 and 0.3)."""
    return ", ".join(met(subject, Budget(keep_macs=share)) for share in subject.shares)


@check("budget_params", "A budget of parameters is another one than of MACs; both can be asked for.", keeps_every_unit)
def budget_params(subject: Subject) -> str | None:
    """Masks cost at most these shares of the dense parameters."""
    return ", ".join(met(subject, Budget(keep_params=share)) for share in subject.shares)


def met(subject: Subject, budget: Budget) -> str:
    """Run at a budget; returns asked and kept share as text, raises Broken where it is exceeded."""
    run = subject.upto_prune(budget)
    masks = run.done.model.sliced_by or {}
    widths = run.model.array(masks)
    cost, most = run.model.cost(budget, widths), run.model.allowed(budget)
    require(cost <= most, f"masks cost {cost:,} where {budget} allows {most:,}")
    return f"{budget.keep:g}: {cost / run.model.cost(budget, run.model.dense):.3f}"


@check("min_keep", "A site without the units a user asked for is another network.", keeps_every_unit)
def min_keep(subject: Subject) -> str | None:
    """Each site keeps at least 3 channels, or one block, when asked to."""
    of_blocks = subject.units == DEPTH
    budget, least = (Budget(keep_macs=0.6, min_blocks=1), 1) if of_blocks else (Budget(keep_macs=0.25, min_keep=3), 3)
    run = subject.run(budget=budget)
    for name, mask in (run.done.model.sliced_by or {}).items():
        kept = int(mask.sum())
        require(kept >= min(least, len(mask)), f"site {name} keeps {kept} of at least {least} units")
    return None


def prunes_no_channels(subject: Subject) -> str | None:
    """For the check of steps."""
    return "it works on blocks alone" if subject.units == DEPTH else keeps_every_unit(subject)


@check("round_to", "Channels that a runtime computes in groups are kept in whole groups.", prunes_no_channels)
def round_to(subject: Subject) -> str | None:
    """Each site keeps a multiple of 4 channels, or all of them, when asked to."""
    budget = Budget(keep_macs=0.6, round_to=4)
    run = subject.upto_prune(budget)
    masks = run.done.model.sliced_by or {}
    require(not (why := run.model.misfit(budget, masks)), str(why))
    return f"units left: {', '.join(str(int(mask.sum())) for mask in masks.values())}"


def works_on_no_blocks(subject: Subject) -> str | None:
    """For the check of blocks."""
    return None if {"block"} < set(subject.method.kinds) else "it does not work on blocks and channels"


@check(
    "blocks_and_widths",
    "What works on blocks has to do so next to channels, some of which then are absent.",
    works_on_no_blocks,
)
def blocks_and_widths(subject: Subject) -> str | None:
    """A run with blocks and channels (--units both), the masks within the budget."""
    run = subject.run(arch=BLOCKS, units="both")
    masks, widths = run.done.model.sliced_by or {}, run.sites.widths
    cost, most = run.model.cost(HALF, run.model.array(masks or widths)), run.model.allowed(HALF)
    require(cost <= most or not subject.method.prunes, f"masks cost {cost:,} where {HALF} allows {most:,}")
    kept = [int(mask.sum()) for name, mask in masks.items() if run.sites[name].blocks]
    return f"{sum(kept)} of {len(run.model.dense) - len(run.model.names)} blocks stay" if kept else None


@check("full_coupling", "Residual streams have several producers; a method sees them with --coupling full.")
def full_coupling(subject: Subject) -> str | None:
    """A run on a residual network whose streams are sites too."""
    found = subject.on(BLOCKS if subject.units == DEPTH else "check_residual", "full")
    if isinstance(found, Exception) and not subject.declines(found):
        raise Broken(subject.line(found)) from found
    return "declines it" if isinstance(found, Exception) else f"{len(found.sites)} sites"


@check("native", "What chooses its own sparsity has to do so without a budget.", is_not_native)
def native(subject: Subject) -> str | None:
    """A run without a budget."""
    run = subject.run(budget=None)
    kept = {name: int(mask.sum()) for name, mask in (run.done.model.sliced_by or {}).items()}
    return f"keeps {sum(kept.values())} of {sum(run.sites.widths.values())} units"


def ranks_at_random_or_late(subject: Subject) -> str | None:
    """Only what looks at a trained network, and always sees the same in it, can be asked to follow its units."""
    if subject.method.starts_from != "base" or subject.standard.plan[0] != PRUNE:
        return "it trains before it prunes"
    return "it draws random numbers" if subject.draws else None


@check(
    "order_of_units",
    "Units have no order: a score that follows a unit's place and not its weights is a mistake.",
    keeps_every_unit,
    chooses_without_scores,
    ranks_at_random_or_late,
    mandatory=False,
)
def order_of_units(subject: Subject) -> str | None:
    """With the units of every site in reverse order, scores come in reverse order."""
    before, sites = subject.standard.scored or scored(subject)
    ensure = bases.ensure

    def reversed_base(*args: Any) -> bases.Base:
        base = ensure(*args)
        state = dict(base.state)
        for site in sites.values():
            for cut in site.cuts:
                order = torch.arange(len(cut.positions))
                for unit in range(site.n_units):
                    order[cut.units == unit] = (cut.units == site.n_units - 1 - unit).nonzero().flatten()
                for name in (n for n in state if n.rpartition(".")[0] == cut.layer and state[n].dim()):
                    if cut.side == "in" and not name.endswith("weight"):
                        continue
                    axis, moved = int(cut.side == "in"), state[name].clone()
                    source = state[name].index_select(axis, cut.positions[order])
                    state[name] = moved.index_copy_(axis, cut.positions, source)
        return bases.Base(state, base.facts)

    with patch.object(bases, "ensure", reversed_base):
        after, _ = scored(subject)
    for name, score in before.items():
        if sites[name].blocks:
            continue  # which have an order
        tolerance = 1e-3 * float(score.abs().max())
        moved = torch.allclose(after[name].flip(0), score, rtol=1e-3, atol=tolerance)
        require(moved, f"scores of site {name} do not follow its units when they change places")
    return None
