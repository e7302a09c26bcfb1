"""Masks from scores within the budget of a run, and a network's units as one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.pruning import selection
from bench.pruning.masks import Scores
from bench.pruning.selection import select
from bench.spec.spec import Budget
from bench.training.run_view import RunView


class UnitSelection(RunView):
    """The part of a context that chooses units (see :class:`bench.training.context.Context`)."""

    def rank(
        self,
        scores: Scores,
        ranking: str | Mapping[str, float],
        of_blocks: str | None = None,
        above: float | None = None,
    ) -> dict[str, Tensor]:
        """Masks that keep the best units within the budget.

        Args:
            scores: site -> float ``[n_units]``, larger is more worth keeping.
            ranking: ``global``, ``layer`` (equal shares) or shares per site; the user's ``--ranking`` wins.
            of_blocks: the same for sites of blocks, where that is another one.
            above: in the native track keep what scores more than this instead, and of each site at least the best.

        Sites that the method exempts keep all units, and need no scores.

        Raises:
            RunFailed: a site is missing, or scores have the wrong shape or are not finite.
        """
        checked, costs, by_user = self._checked(scores), self._model.costs, self.budget.ranking
        if self.native and above is not None:
            return {n: (s > above) | (s == s.max()) | (n in costs.exempt) for n, s in checked.items()}
        if self._latency is not None:
            return self._latency.masks(checked, by_user or ranking, by_user or of_blocks)
        return select(checked, costs, self.budget, by_user or ranking, by_user or of_blocks)

    def prune_worst(self, scores: Scores, share: float, ranking: str) -> dict[str, Tensor]:
        """Masks without the worst ``share`` of the units that ``masks`` keeps, at least one; ties break at random.

        Under a budget a call that would go below it is replaced by the best of the remaining units within it.

        Args:
            scores: site -> float ``[n_units]``, larger is more worth keeping.
            share: of the remaining units, in each site (``layer``) or of all together (``global``), rounded down.
            ranking: ``layer`` or ``global``; the user's ``--ranking`` wins.
        """
        self._require_costs("prune_worst")
        scores = self._checked(scores)
        kept, ranking = self._model.masks, self.budget.ranking or ranking
        masks = {name: kept[name] for name in self.sites}
        return selection.prune_worst(scores, masks, share, ranking, self._model.costs, self._budget, self.rng)

    drop = prune_worst
    """The former name of :meth:`prune_worst`, kept for methods written before version 0.2."""

    def cycles(self, share: float, ranking: str, left: float) -> int:
        """How many times :meth:`prune_worst` has to be called until the budget is met, at least once.

        In the native track until no more than the share ``left`` of the units is left. Under a budget and a
        ``global`` ranking it is the number that equal losses of all sites would take.
        """
        self._require_costs("cycles")
        ranking = self.budget.ranking or ranking
        return selection.cycles_needed(share, ranking, left, self._model.costs, self._budget)

    def draw(self, *shape: int, normal: bool = False) -> dict[str, Tensor]:
        """Random numbers for every unit, in [0, 1) or of N(0, 1): site -> ``[*shape, n_units]``."""
        make, widths = torch.randn if normal else torch.rand, self.sites.widths
        return {n: make(*shape, w, generator=self.rng, device=self.device) for n, w in widths.items()}

    def repair(self, states: Tensor) -> Tensor:
        """States ``[P, all units]`` (bool, see :meth:`flat`) changed at random, as little as it takes, to the budget.

        Every site then keeps as many units as :meth:`equal_widths` gives it, in the native track at least
        ``min_keep``; exempt sites keep all.
        """
        self._require_costs("repair")
        units, floors = self.sites.widths, self._model.costs.floors(self.budget)
        least = {name: min(floors[name], width) for name, width in units.items()}
        repaired = selection.repair(states, units, least if self.native else self.equal_widths(), self.rng)
        return states | repaired if self.native else repaired

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Site -> ``[..., n_units]`` as one tensor ``[..., all units]``, such as a buffer can hold."""
        return selection.flat({name: values[name] for name in self.sites})

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The inverse of :meth:`flat`."""
        return selection.split(flat, self.sites.widths)

    def equal_widths(self) -> dict[str, int]:
        """Units each site keeps when all keep the same share of theirs within the budget."""
        if self._latency is not None:
            return self._latency.equal_widths()
        return selection.equal_widths(self.sites.widths, self._model.costs, self.budget)

    def equal_masks(self) -> dict[str, Tensor]:
        """The same as masks: the first units of each site, of blocks the first that fit."""
        if self._latency is not None:
            kept, device = self._latency.equal_widths(), self.device
            return {n: torch.arange(units, device=device) < kept[n] for n, units in self.sites.widths.items()}
        return selection.equal_masks(self.sites.widths, self._model.costs, self.budget)

    def share(self, widths: Mapping[str, int | Tensor]) -> float:
        """Share of the dense network's MACs at these widths, or under masks, which say of blocks which stay."""
        costs = self._model.costs
        return costs.macs(costs.array(widths)) / costs.whole(Budget())

    def _require_costs(self, call: str) -> None:
        """Raise Unsupported under a budget of milliseconds, which are known for widths of a table only."""
        if self._latency is not None:
            raise Unsupported(
                f"the method calls ctx.{call}, which asks what any widths cost; milliseconds are known of "
                "those of a table only: give --keep-macs"
            )

    def _checked(self, scores: Scores) -> Scores:
        return selection.check_scores(self.sites.widths, scores, self._model.costs.exempt)

    def fits(self, widths: Mapping[str, int | Tensor]) -> bool:
        """Whether a network of these widths, or under these masks, is within the budget."""
        self._require_costs("fits")
        costs = self._model.costs
        return costs.meets(self.budget, costs.array(widths))
