"""Which units are kept, as pure functions of scores, masks, cost model, budget and generator. No network is needed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from bench.errors import RunFailed
from bench.pruning.block_selection import kept_blocks
from bench.pruning.cost_model import CostModel
from bench.pruning.masks import Masks, Scores
from bench.pruning.rounding import best_rounding, whole_units
from bench.pruning.sites import Sites
from bench.pruning.steps import filled, left_after, round_up, worst_steps
from bench.spec.spec import BUDGET_TOLERANCE, Budget


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """Site -> ``[..., n_units]`` as one tensor ``[..., all units]``."""
    return torch.cat(list(values.values()), dim=-1)


def split(joined: Tensor, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The inverse of :func:`flat` for sites of these ``widths``."""
    return dict(zip(widths, joined.split(list(widths.values()), dim=-1), strict=True))


def select(
    scores: Mapping[str, Tensor],
    model: CostModel,
    budget: Budget,
    ranking: str | Mapping[str, float] = "global",
    of_blocks: str | Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Masks that keep the best units within the budget: first of blocks, then of channels in the blocks that stay.

    Blocks are those of :func:`bench.pruning.block_selection.kept_blocks`. Channels are taken in rank order until the
    next one would exceed the budget, the best ``min_keep`` of every site first. What is then left of the budget takes
    later ones that still fit, in rank order, and at most one of each site where shares are to be kept. If shares then
    leave more than ``BUDGET_TOLERANCE`` unused, their best rounding takes its place
    (:func:`bench.pruning.rounding.best_rounding`). Ties keep the earlier site and the lower index. With ``round_to``
    whole steps are taken, in the order of their last units, and in the end no further step fits.

    Args:
        scores: site -> ``[n_units]``, larger is more worth keeping.
        model: cost model of the network.
        budget: what may be kept.
        ranking: ``global`` compares scores over sites; ``layer`` keeps equal shares of every site; a mapping
            gives the shares of the sites relative to each other.
        of_blocks: the same for blocks, where that is another one.

    Returns:
        Site -> bool ``[n_units]`` on the CPU, True keeps.
    """
    model.require(budget)
    masks = {name: torch.zeros(len(scores[name]), dtype=torch.bool) for name in (*model.names, *model.blocks)}
    if model.blocks:
        vector = kept_blocks(scores, model, budget, of_blocks or ranking)
        masks |= {name: torch.from_numpy(vector[places] > 0) for name, places in model.blocks.items()}
        model = model.without(vector)
        if not model.names:
            return masks
    ranked = [scores[n].detach().double().cpu().numpy() for n in model.names]
    orders = [np.argsort(-s, kind="stable") for s in ranked]
    if budget.widths is not None:
        floors = model.floors(budget)
        widths = tuple(floors[name] for name in model.names)
    elif ranking == "global":
        keys = [-score[order] for score, order in zip(ranked, orders, strict=True)]
        ladders = model.ladders(budget, [len(key) for key in keys])
        widths = tuple(
            filled(keys, ladders, functools.partial(model.cost, budget), model.allowed(budget), False).tolist()
        )
    else:
        shares = tuple(1.0 if isinstance(ranking, str) else float(ranking[n]) for n in model.names)
        widths = _shared(model, budget, tuple(map(len, orders)), shares)
    for name, order, kept in zip(model.names, orders, widths, strict=True):
        masks[name][torch.from_numpy(order[:kept].copy())] = True
    return masks


@functools.lru_cache(maxsize=64)  # methods ask for equal widths again and again
def _shared(model: CostModel, budget: Budget, have: tuple[int, ...], shares: tuple[float, ...]) -> tuple[int, ...]:
    """Widths of sites with ``have`` units (fewer than the dense network's once it has shrunk) in these ``shares``."""
    keys = [np.arange(1, n + 1) / (n * max(share, 1e-12)) for n, share in zip(have, shares, strict=True)]
    ladders, limit = model.ladders(budget, have), model.allowed(budget)
    widths = filled(keys, ladders, functools.partial(model.cost, budget), limit, one_more=budget.step == 1)
    cost = model.cost(budget, widths)
    if budget.step == 1 and budget.keep - cost / model.whole(budget) > BUDGET_TOLERANCE:
        least = np.array([widths[0] for widths in ladders])
        better = best_rounding(keys, least, functools.partial(model.costs, budget), limit, cost)
        widths = widths if better is None else better
    return tuple(widths.tolist())


def count_to_drop(units: int, share: float) -> int:
    """How many of ``units`` a drop of this share takes: rounded down, at least one."""
    return max(1, whole_units(share, units))


def drop_worst(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    share: float,
    floors: Mapping[str, int],
    generator: torch.Generator,
    steps: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Masks without the worst ``share`` of what ``masks`` keep, over all of the given sites together.

    The best ``floors[site]`` of every site stay. Ties break at random. Of a site with ``steps`` whole steps of so many
    units go.
    """
    alive = torch.cat(list(masks.values()))
    worth = torch.cat([scores[name].detach().to(alive.device).double() for name in masks])
    site = torch.cat([torch.full((len(mask),), k) for k, mask in enumerate(masks.values())]).to(alive.device)
    shuffled = torch.randperm(len(worth), generator=generator, device=generator.device).to(alive.device)
    order = shuffled[worth[shuffled].argsort(stable=True)]  # worst first
    order = order[alive[order]]
    count = count_to_drop(len(order), share)
    if any(steps.get(name, 1) > 1 for name in masks):
        of_sites = [floors[name] for name in masks], [steps.get(name, 1) for name in masks]
        alive = alive.clone()
        alive[worst_steps(order, site[order], *of_sites, count)] = False
        return dict(zip(masks, alive.split([len(mask) for mask in masks.values()]), strict=True))
    safe = torch.zeros_like(alive)
    for k, name in enumerate(masks):
        own = order[site[order] == k]
        safe[own[max(0, len(own) - floors[name]) :]] = True
    alive = alive.clone()
    alive[order[~safe[order]][:count]] = False
    return dict(zip(masks, alive.split([len(mask) for mask in masks.values()]), strict=True))


def prune_worst(
    scores: Scores,
    masks: Masks,
    share: float,
    ranking: str,
    costs: CostModel,
    budget: Budget | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Masks without the worst ``share`` of the units that ``masks`` keep, at least one; ties break at random.

    Under a budget the cut that would go below it is replaced by the best of the remaining units within it. With
    ``round_to`` as many whole steps go as the share allows, at least one.

    Args:
        scores: site -> float ``[n_units]``, larger is more worth keeping.
        masks: site -> bool ``[n_units]``, on one device.
        share: of the remaining units, in each site (``layer``) or of all blocks and of all channels (``global``),
            rounded down.
        ranking: ``layer`` or ``global``.
        costs: cost model of the dense network.
        budget: what may be kept; None in the native track.
        generator: breaks ties.
    """
    there = dict(zip(costs.names, costs.array(masks), strict=False))
    floors, steps, left = costs.floors(budget or Budget()), costs.steps(budget or Budget()), dict(masks)
    for group in _groups([name for name in masks if there.get(name, 1) and name not in costs.exempt], costs, ranking):
        alive = {name: masks[name] for name in group}
        left |= drop_worst({n: scores[n] for n in group}, alive, share, floors, generator, steps)
    if budget and costs.meets(budget, costs.array(left)):
        kept = flat(masks)
        worth = flat({name: scores[name].detach().to(kept.device).double() for name in masks})
        last = torch.where(kept, worth, worth.min() - 1)  # what is pruned stays pruned
        best = select(split(last, {n: len(m) for n, m in masks.items()}), costs, budget, ranking)
        return {name: best[name].to(mask.device) & mask for name, mask in masks.items()}
    return left


def cycles_needed(share: float, ranking: str, left: float, costs: CostModel, budget: Budget | None) -> int:
    """How many times :func:`prune_worst` has to be called until the budget is met, at least once.

    Without a budget until no more than the share ``left`` of the units is left, those of exempt sites aside. Under a
    budget and a ``global`` ranking it is the number that equal losses of all sites would take.
    """
    least, steps = costs.floors(budget or Budget()), costs.steps(budget or Budget())
    dense = dict(zip(costs.names, costs.dense.tolist(), strict=False)) | {n: len(at) for n, at in costs.blocks.items()}
    groups = _groups([name for name in dense if name not in costs.exempt], costs, ranking)
    whole, floors = ([sum(of[name] for name in group) for group in groups] for of in (dense, least))
    kept, count, widths = whole, 0, dense
    while True:
        kept = [
            left_after(w, count_to_drop(w, share), f, [steps[name] for name in group])
            for w, f, group in zip(kept, floors, groups, strict=True)
        ]
        count += 1
        for group, now, before in zip(groups, kept, whole, strict=True):
            same = {name: max(least[name], round(dense[name] * now / before)) for name in group}
            widths = widths | {name: round_up(width, steps[name], dense[name]) for name, width in same.items()}
        met = costs.meets(budget, costs.array(widths)) if budget else sum(kept) <= whole_units(left, sum(whole))
        if met or kept == floors:
            return count


def _groups(names: list[str], costs: CostModel, ranking: str) -> list[list[str]]:
    """Sites whose units are pruned together: with a ``global`` ranking all of blocks, and all of channels."""
    if ranking == "layer":
        return [[name] for name in names]
    together = [[n for n in names if (n in costs.blocks) is of_blocks] for of_blocks in (False, True)]
    return [group for group in together if group]


def equal_widths(widths: Mapping[str, int], costs: CostModel, budget: Budget) -> dict[str, int]:
    """Units that sites of these ``widths`` keep when all keep the same share of theirs within the budget."""
    return {n: int(mask.sum()) for n, mask in equal_masks(widths, costs, budget).items()}


def equal_masks(widths: Mapping[str, int], costs: CostModel, budget: Budget) -> dict[str, Tensor]:
    """The same as masks: the first units of each site, of blocks the first that fit."""
    return select({name: torch.zeros(width) for name, width in widths.items()}, costs, budget, "layer")


def repair(states: Tensor, units: Mapping[str, int], kept: Mapping[str, int], generator: torch.Generator) -> Tensor:
    """States that keep ``kept[site]`` units of each site, changed at random, as little as it takes.

    Args:
        states: bool ``[P, all units]`` (see :func:`flat`).
        units: of each site.
        kept: of each site, as it is to be.
        generator: of the random choice, on the device of ``states``.
    """
    drawn = torch.rand(states.shape, generator=generator, device=states.device)
    repaired = {}
    for name, order in split(states + drawn, units).items():  # what is on comes first
        chosen = order.topk(kept[name], dim=-1).indices
        repaired[name] = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, chosen, True)
    return flat(repaired)


def check_scores(widths: Mapping[str, int], scores: Scores, exempt: Collection[str] = ()) -> Scores:
    """``scores``, zeros for exempt sites that have none; RunFailed where a unit has no finite number."""
    device = next((given.device for given in scores.values()), None)
    none = {name: torch.zeros(width, device=device) for name, width in widths.items() if name in exempt}
    scores = none | dict(scores)
    for name, width in widths.items():
        if name not in scores:
            raise RunFailed(f"the method gives no scores for site {name}")
        given = scores[name]
        if tuple(given.shape) != (width,):
            raise RunFailed(f"the method's scores for site {name} have shape {list(given.shape)}, not [{width}]")
        if not bool(given.isfinite().all()):
            raise RunFailed(f"the method's scores for site {name} are not finite")
    return scores


def check_masks(
    sites: Sites, masks: Masks, floors: Mapping[str, int] = MappingProxyType({}), exempt: Collection[str] = ()
) -> Masks:
    """``masks`` as they are; raises RunFailed unless each site has a bool mask that keeps the units it has to.

    Args:
        sites: of the network.
        masks: site -> bool ``[n_units]``.
        floors: units that a site keeps, if not one; a site of blocks may lose all, one inside of a lost block does.
        exempt: sites that keep all of them.
    """
    for name, width in sites.widths.items():
        if name not in masks:
            raise RunFailed(f"the method gives no mask for site {name}")
        mask = masks[name]
        if tuple(mask.shape) != (width,) or mask.dtype != torch.bool:
            raise RunFailed(
                f"the method's mask for site {name} is {mask.dtype} {list(mask.shape)}, not torch.bool [{width}]"
            )
    absent = sites.absent(masks)
    for name, site in sites.items():
        kept, option = int(masks[name].sum()), "--min-blocks" if site.blocks else "--min-keep"
        least = floors.get(name, 0 if site.blocks else 1)
        if kept < site.n_units and name in exempt and name not in absent:
            raise RunFailed(f"the method's mask for site {name} keeps {kept} units of {site.n_units}: it is exempt")
        if kept < min(least, site.n_units) and name not in absent:
            raise RunFailed(f"the method's mask for site {name} keeps {kept} units; {option} is {least}")
    return masks
