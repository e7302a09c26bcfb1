"""What a method can ask before it decides: budgets, rankings, drops, random states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.api import Masks, Scores
from bench.budget import CostModel, count_to_drop, drop_worst, select
from bench.errors import RunFailed
from bench.shares import whole_units
from bench.sites import Sites
from bench.spec import Budget


class Choosing:
    """The part of the context that decides what stays; see :class:`bench.context.Context` for its attributes."""

    sites: Sites
    budget: Budget
    native: bool
    device: torch.device
    rng: torch.Generator
    _model: CostModel
    _masks: dict[str, Tensor]
    _dense: dict[str, int]  # widths of the dense network

    def drop(self, scores: Scores, share: float, ranking: str) -> dict[str, Tensor]:
        """Masks without the worst ``share`` of the units that ``masks`` keeps, at least one; ties break at random.

        Under a budget the drop that would go below it is replaced by the best of the remaining units within it.

        Args:
            scores: site -> float ``[n_units]``, larger is more worth keeping.
            share: of the remaining units, in each site (``layer``) or of all together (``global``), rounded down.
            ranking: ``layer`` or ``global``; the user's ``--ranking`` wins.
        """
        self._check_scores(scores)
        ranking = self.budget.ranking or ranking
        groups = [[name] for name in self.sites] if ranking == "layer" else [list(self.sites)]
        floors = dict(zip(self._dense, self._model.floors(self.budget).tolist(), strict=True))
        masks: dict[str, Tensor] = {}
        for group in groups:
            alive = {name: self._masks[name] for name in group}
            masks |= drop_worst({n: scores[n] for n in group}, alive, share, floors, self.rng)
        if not self.native and self.fits({name: int(mask.sum()) for name, mask in masks.items()}):
            worth = self.flat({name: scores[name].detach().to(self.device).double() for name in self.sites})
            last = torch.where(self.flat(self._masks), worth, worth.min() - 1)  # what is dropped stays dropped
            best = self.rank(self.split(last), ranking)
            return {name: best[name].to(self.device) & mask for name, mask in self._masks.items()}
        return masks

    def cycles(self, share: float, ranking: str, left: float) -> int:
        """How many times :meth:`drop` has to be called until the budget is met, at least once.

        In the native track until no more than the share ``left`` of the units is left. Under a budget and a
        ``global`` ranking it is the number that equal losses of all sites would take.
        """
        dense, least = list(self._dense.values()), self._model.floors(self.budget).tolist()
        total = sum(dense)
        together = (self.budget.ranking or ranking) == "global"
        groups, floors = ([total], [sum(least)]) if together else (dense, least)  # units that are dropped from together
        count = 0
        while True:
            groups = [max(f, w - count_to_drop(w, share)) for w, f in zip(groups, floors, strict=True)]
            count += 1
            widths = [max(f, round(w * groups[0] / total)) for w, f in zip(dense, least, strict=True)]
            widths = widths if together else groups
            met = (
                sum(groups) <= whole_units(left, total)
                if self.native
                else self.fits(dict(zip(self._dense, widths, strict=True)))
            )
            if met or groups == floors:
                return count

    @property
    def units_left(self) -> float:
        """Share of the dense network's units that are there and not masked."""
        return sum(int(mask.sum()) for mask in self._masks.values()) / sum(self._dense.values())

    def draw(self, *shape: int) -> dict[str, Tensor]:
        """Random numbers in [0, 1) for every unit: site -> ``[*shape, n_units]``."""
        return {
            name: torch.rand(*shape, width, generator=self.rng, device=self.device)
            for name, width in self.sites.widths.items()
        }

    def repair(self, states: Tensor) -> Tensor:
        """States ``[P, all units]`` (bool, see :meth:`flat`) changed at random, as little as it takes, to the budget.

        Every site then keeps as many units as :meth:`equal_widths` gives it, in the native track at least
        ``min_keep``.
        """
        least = {name: min(self.budget.min_keep, width) for name, width in self.sites.widths.items()}
        widths = least if self.native else self.equal_widths()
        drawn = torch.rand(states.shape, generator=self.rng, device=self.device)
        repaired = {}
        for name, order in self.split(states + drawn).items():  # what is on comes first
            chosen = order.topk(widths[name], dim=-1).indices
            repaired[name] = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, chosen, True)
        return states | self.flat(repaired) if self.native else self.flat(repaired)

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Site -> ``[..., n_units]`` as one tensor ``[..., all units]``, such as a buffer can hold."""
        return torch.cat([values[name] for name in self.sites], dim=-1)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The inverse of :meth:`flat`."""
        return dict(zip(self.sites, flat.split(list(self.sites.widths.values()), dim=-1), strict=True))

    def rank(self, scores: Scores, ranking: str | Mapping[str, float]) -> dict[str, Tensor]:
        """Masks that keep the best units within the budget.

        Args:
            scores: site -> float ``[n_units]``, larger is more worth keeping.
            ranking: ``global``, ``layer`` (equal shares) or shares per site; the user's ``--ranking`` wins.

        Raises:
            RunFailed: a site is missing, or scores have the wrong shape or are not finite.
        """
        self._check_scores(scores)
        return select(scores, self._model, self.budget, self.budget.ranking or ranking)

    def _check_scores(self, scores: Scores) -> None:
        for name, width in self.sites.widths.items():
            if name not in scores:
                raise RunFailed(f"the method gives no scores for site {name}")
            given = scores[name]
            if tuple(given.shape) != (width,):
                raise RunFailed(f"the method's scores for site {name} have shape {list(given.shape)}, not [{width}]")
            if not bool(given.isfinite().all()):
                raise RunFailed(f"the method's scores for site {name} are not finite")

    def equal_widths(self) -> dict[str, int]:
        """Units each site keeps when all keep the same share of theirs within the budget."""
        none = {name: torch.zeros(site.n_units) for name, site in self.sites.items()}
        return {n: int(mask.sum()) for n, mask in select(none, self._model, self.budget, "layer").items()}

    def share(self, widths: Mapping[str, int]) -> float:
        """Share of the dense network's MACs at these widths."""
        return self._model.macs(self._model.array(widths)) / self._model.macs(self._model.dense)

    def fits(self, widths: Mapping[str, int]) -> bool:
        """Whether a network of these widths is within the budget."""
        return self._model.meets(self.budget, self._model.array(widths))


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
