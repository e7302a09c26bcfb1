"""What stays, as pure functions of scores, masks, cost model, budget and generator. No network is needed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.errors import RunFailed
from bench.pruning.cost_model import CostModel, count_to_drop, drop_worst, select
from bench.pruning.masks import Masks, Scores
from bench.pruning.shares import whole_units
from bench.pruning.sites import Sites
from bench.spec.spec import Budget


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """Site -> ``[..., n_units]`` as one tensor ``[..., all units]``."""
    return torch.cat(list(values.values()), dim=-1)


def split(joined: Tensor, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The inverse of :func:`flat` for sites of these ``widths``."""
    return dict(zip(widths, joined.split(list(widths.values()), dim=-1), strict=True))


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

    Under a budget the cut that would go below it is replaced by the best of the remaining units within it.

    Args:
        scores: site -> float ``[n_units]``, larger is more worth keeping.
        masks: site -> bool ``[n_units]``, on one device.
        share: of the remaining units, in each site (``layer``) or of all together (``global``), rounded down.
        ranking: ``layer`` or ``global``.
        costs: cost model of the dense network.
        budget: what may be kept; None in the native track.
        generator: breaks ties.
    """
    groups = [[name] for name in masks] if ranking == "layer" else [list(masks)]
    floors = dict(zip(costs.names, costs.floors(budget or Budget()).tolist(), strict=True))
    left: dict[str, Tensor] = {}
    for group in groups:
        alive = {name: masks[name] for name in group}
        left |= drop_worst({n: scores[n] for n in group}, alive, share, floors, generator)
    if budget and costs.meets(budget, costs.array({name: int(mask.sum()) for name, mask in left.items()})):
        kept = flat(masks)
        worth = flat({name: scores[name].detach().to(kept.device).double() for name in masks})
        last = torch.where(kept, worth, worth.min() - 1)  # what is pruned stays pruned
        best = select(split(last, {n: len(m) for n, m in masks.items()}), costs, budget, ranking)
        return {name: best[name].to(mask.device) & mask for name, mask in masks.items()}
    return left


def cycles_needed(share: float, ranking: str, left: float, costs: CostModel, budget: Budget | None) -> int:
    """How many times :func:`prune_worst` has to be called until the budget is met, at least once.

    Without a budget until no more than the share ``left`` of the units is left. Under a budget and a ``global``
    ranking it is the number that equal losses of all sites would take.
    """
    dense, least = costs.dense.tolist(), costs.floors(budget or Budget()).tolist()
    total = sum(dense)
    together = ranking == "global"
    groups, floors = ([total], [sum(least)]) if together else (dense, least)  # units that are pruned from together
    count = 0
    while True:
        groups = [max(f, w - count_to_drop(w, share)) for w, f in zip(groups, floors, strict=True)]
        count += 1
        widths = [max(f, round(w * groups[0] / total)) for w, f in zip(dense, least, strict=True)]
        widths = widths if together else groups
        at = costs.array(dict(zip(costs.names, widths, strict=True)))
        met = costs.meets(budget, at) if budget else sum(groups) <= whole_units(left, total)
        if met or groups == floors:
            return count


def equal_widths(widths: Mapping[str, int], costs: CostModel, budget: Budget) -> dict[str, int]:
    """Units that sites of these ``widths`` keep when all keep the same share of theirs within the budget."""
    none = {name: torch.zeros(width) for name, width in widths.items()}
    return {n: int(mask.sum()) for n, mask in select(none, costs, budget, "layer").items()}


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


def check_scores(widths: Mapping[str, int], scores: Scores) -> Scores:
    """``scores`` as they are; raises RunFailed unless each site has a finite number for each of its units."""
    for name, width in widths.items():
        if name not in scores:
            raise RunFailed(f"the method gives no scores for site {name}")
        given = scores[name]
        if tuple(given.shape) != (width,):
            raise RunFailed(f"the method's scores for site {name} have shape {list(given.shape)}, not [{width}]")
        if not bool(given.isfinite().all()):
            raise RunFailed(f"the method's scores for site {name} are not finite")
    return scores


def check_masks(sites: Sites, masks: Masks, min_keep: int = 1) -> Masks:
    """``masks`` as they are; raises RunFailed unless each site has a bool mask that keeps ``min_keep`` units."""
    for name, width in sites.widths.items():
        if name not in masks:
            raise RunFailed(f"the method gives no mask for site {name}")
        mask = masks[name]
        if tuple(mask.shape) != (width,) or mask.dtype != torch.bool:
            raise RunFailed(
                f"the method's mask for site {name} is {mask.dtype} {list(mask.shape)}, not torch.bool [{width}]"
            )
        if int(mask.sum()) < min(min_keep, width):
            raise RunFailed(
                f"the method's mask for site {name} keeps {int(mask.sum())} units; --min-keep is {min_keep}"
            )
    return masks
