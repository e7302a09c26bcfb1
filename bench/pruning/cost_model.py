"""What a budget allows a network to cost: the exact cost model, and the limits in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from bench.errors import Unsupported, UsageError
from bench.pruning.blocks import as_mask
from bench.pruning.costs import Costs, Vector, number
from bench.pruning.rounding import whole_units
from bench.pruning.steps import Widths, ladder, round_up, unit_step
from bench.spec.spec import BUDGET_TOLERANCE, Budget


class CostModel(Costs):
    """The costs of a network at any widths, with any blocks, and which of them a budget allows.

    Attributes:
        exempt: sites that keep all their units under every budget.
        wider: gives the costs of the same network with coupling ``full``, for errors; None where this is all there is.
    """

    exempt: frozenset[str] = frozenset()
    wider: Callable[[], CostModel] | None = None

    def exempting(self, sites: Iterable[str]) -> Self:
        """The same costs in a run in which these sites keep all their units."""
        found = copy.copy(self)
        found.exempt, found._reduced = frozenset(sites), {}
        return found

    def cost(self, budget: Budget, widths: Vector) -> int:
        """The quantity that ``budget`` limits."""
        return int(self.costs(budget, widths))

    def costs(self, budget: Budget, widths: Vector) -> Vector:
        """The quantity that ``budget`` limits, for vectors ``[..., sites and blocks]``."""
        return self._params(widths) if budget.keep_params is not None else self._macs(widths)

    def whole(self, budget: Budget) -> int:
        """What the dense network, with all blocks, costs."""
        return self._whole[budget.keep_params is not None]

    def allowed(self, budget: Budget) -> int:
        """Most that ``budget`` lets the sliced network cost."""
        if budget.widths is not None:
            return self.macs(self.array(self.asked(budget)))
        return int(budget.keep * self.whole(budget) + 1e-6)

    def meets(self, budget: Budget, widths: Vector) -> bool:
        """Whether a network of this vector is within the budget: in every site where that is one of widths."""
        if budget.widths is None:
            return self.cost(budget, widths) <= self.allowed(budget)
        asked = self.asked(budget)
        if budget.blocks and (widths[len(self.names) :] > self.array(asked)[len(self.names) :]).any():
            return False
        kept = dict(zip(self.names, widths, strict=False)) | {n: widths[at].sum() for n, at in self.blocks.items()}
        return all(kept[name] <= number(asked[name]) for name in kept)

    def asked(self, budget: Budget) -> dict[str, Any]:
        """Site -> units that a budget of widths keeps; the mask of its blocks where it says which."""
        found: dict[str, Any] = dict(zip(sorted(self._sites), budget.widths or (), strict=False))
        masks = dict(zip(sorted(n for n in self._sites if n in self._least), budget.blocks or (), strict=False))
        return found | {name: as_mask(text)[self._left[name]] for name, text in masks.items() if name in self._left}

    def floors(self, budget: Budget) -> dict[str, int]:
        """Units that every site keeps in any case, as long as the block that it is in stays; all of an exempt one."""
        if budget.widths is not None:
            return {n: number(w) for n, w in self.asked(budget).items()} | self._exempt()
        return self.least(budget)

    def least(self, budget: Budget) -> dict[str, int]:
        """Units that every site has to keep: ``min_keep`` in whole steps, ``min_blocks``, none in a removed block."""
        steps = self.steps(budget)
        least = {n: round_up(budget.min_keep, steps[n], int(w)) for n, w in zip(self.names, self.dense, strict=False)}
        for name, places in self.blocks.items():
            asked = budget.min_blocks if isinstance(budget.min_blocks, int) else self._least[name]
            least[name] = min(len(places), asked)
        asked_widths = self.asked(budget) if budget.widths is not None else {}
        return {name: min(n, number(asked_widths.get(name, n))) for name, n in least.items()} | self._exempt()

    def steps(self, budget: Budget) -> dict[str, int]:
        """Units that a site may gain at once: of channels as ``round_to`` says, of blocks one."""
        each = zip(self.names, self.unit_channels, strict=True)
        return {name: unit_step(budget.step, channels) for name, channels in each} | dict.fromkeys(self.blocks, 1)

    def ladders(self, budget: Budget, have: Sequence[int]) -> list[Widths]:
        """Widths that each site of channels may keep when it has so many units left, from the least on."""
        least, steps = self.least(budget), self.steps(budget)
        dense = self.dense[: len(self.names)].tolist()
        return [ladder(least[n], units, steps[n], w) for n, units, w in zip(self.names, have, dense, strict=True)]

    def misfit(self, budget: Budget, kept: Mapping[str, int | Tensor]) -> str | None:
        """Which site would keep neither whole steps nor its full width; None where none does."""
        steps = self.steps(budget)
        for name, dense in zip(self.names, self.dense.tolist(), strict=False):
            width, step = number(kept[name]), steps[name]
            if width % step and width != dense:
                asked = f"--round-to {budget.step} asks for a multiple of {step}"
                return f"site {name} keeps {width} of {dense} units; {asked}"
        return None

    def _exempt(self) -> dict[str, int]:
        """Units of the exempt sites."""
        units = dict(zip(self.names, self.dense.tolist(), strict=False)) | {n: len(at) for n, at in self.blocks.items()}
        return {name: n for name, n in units.items() if name in self.exempt}

    def floor(self, budget: Budget, blocks: Vector) -> Vector:
        """A vector with these blocks and the least widths."""
        floors, vector = self.floors(budget), blocks.copy()
        vector[: len(self.names)] = [floors[name] for name in self.names]
        return vector

    def require(self, budget: Budget) -> None:
        """Raise UsageError when the units that every site keeps already cost more than the budget."""
        if budget.widths is not None:
            self._require_widths(budget)
            return
        costliest, share = self._costliest(budget), self.least_share(budget)
        stay = int(costliest[len(self.names) :].sum())
        blocks = f"{stay} of the {len(self._blocks)} blocks, which stay,"
        if self.cost(budget, self.floor(budget, costliest)) > self.allowed(budget):
            free = len([name for name in self.names if name not in self.exempt])
            steps = budget.step > 1
            rounded = f", rounded up to {budget.step} channels," * steps
            kept = [f"{budget.min_keep} unit(s){rounded} in each of the {free} sites"] if free else []
            kept += [f"all of the exempt {', '.join(sorted(self.exempt))}"] if self.exempt else []
            kept += [blocks] if self.blocks else []
            raise (Unsupported if self.exempt else UsageError)(
                f"budget {budget} cannot be met: {' and '.join(kept)} already cost {share:.4f}"
                f"{', the least of such steps' * steps}; ask for more{self._remedy(budget)}"
            )
        share = self.cost(budget, costliest) / self.whole(budget)
        if budget.keep_blocks and budget.keep - share > BUDGET_TOLERANCE:
            raise UsageError(
                f"budget {budget} cannot be used up: {blocks} cost at most {share:.4f}; ask for more (--keep-blocks)"
            )

    def least_share(self, budget: Budget) -> float:
        """What the units that stay in any case cost, as a share of the dense network."""
        return self.cost(budget, self.floor(budget, self._costliest(budget))) / self.whole(budget)

    def finer(self, budget: Budget) -> float | None:
        """Least share at steps of one channel, where the budget is within reach then."""
        fine = dataclasses.replace(budget, round_to=1)
        within = self.cost(fine, self.floor(fine, self._costliest(fine))) <= self.allowed(fine)
        return self.least_share(fine) if budget.step > 1 and within else None

    def _remedy(self, budget: Budget) -> str:
        """What else than a larger budget helps."""
        if (share := self.finer(budget)) is not None:
            return f", or use --round-to 1, which goes down to {share:.4f}"
        if self.blocks:
            return ", or fewer blocks (--min-blocks 0)"
        if self.coupling == "full":
            return ""
        if self.wider is None:
            return ", or use --coupling full"
        share = self.wider().least_share(budget)
        return f", or use --coupling full, which goes down to {share:.4f}" if share < budget.keep else ""

    def count_blocks(self, budget: Budget) -> int | None:
        """Number of blocks that the budget keeps, as far as it says; never less than the sites' floors."""
        if not budget.keep_blocks:
            return None
        floors = self.floors(budget)
        return max(whole_units(budget.keep_blocks, len(self._blocks)), sum(floors[name] for name in self.blocks))

    def _costliest(self, budget: Budget) -> Vector:
        """Of the choices of blocks that may be forced on a method, the one that costs most, with the dense widths."""
        width, floors = len(self.names), self.floors(budget)
        each = np.zeros(len(self._blocks), dtype=np.int64)
        for k in range(len(each)):
            without = self.dense.copy()
            without[width + k] = 0
            each[k] = self.cost(budget, self.dense) - self.cost(budget, without)
        vector, order = self.dense.copy(), np.argsort(-each, kind="stable") + width
        vector[width:] = 0
        for name, places in self.blocks.items():
            vector[[place for place in order if place in places][: floors[name]]] = 1
        more = (self.count_blocks(budget) or 0) - int(vector[width:].sum())
        vector[[place for place in order if not vector[place]][: max(more, 0)]] = 1
        return vector

    def _require_widths(self, budget: Budget) -> None:
        most = {n: int(m) for n, m in zip(self.names, self.dense, strict=False)}
        most |= {name: len(places) for name, places in self.blocks.items()}
        texts, units = budget.blocks or (), "-".join(str(most[name]) for name in sorted(most))
        fits = len(budget.widths or ()) == len(most)
        fits = fits and [len(t) for t in texts] in ([], [len(self.blocks[n]) for n in sorted(self.blocks)])
        floors = self.floors(budget) if fits else {}
        there = dict(zip(self.names, self._present(self.array(self.asked(budget))), strict=True)) if fits else {}
        least = {name: int(there.get(name, 0)) for name in most}
        if not fits or any(not least[n] <= floors[n] <= m * there.get(n, 1) for n, m in most.items()):
            raise UsageError(f"budget {budget}: this network's sites have {units} units")
        if any(floors[name] < min(most[name], budget.min_keep) for name, is_there in there.items() if is_there):
            raise UsageError(f"budget {budget} cannot be met: it leaves a site less than {budget.min_keep} units")
        if less := [name for name, width in self._exempt().items() if number(self.asked(budget)[name]) < width]:
            raise Unsupported(
                f"budget {budget} cannot be met: it leaves less than all units of {less[0]}, which is exempt"
            )
