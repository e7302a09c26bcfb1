"""What a budget allows a network to cost: the exact cost model, and the limits in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.pruning.blocks import as_mask
from bench.pruning.costs import Costs, Vector, number
from bench.pruning.rounding import whole_units
from bench.spec.spec import Budget


class CostModel(Costs):
    """The costs of a network at any widths, with any blocks, and which of them a budget allows."""

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
        """Units that every site keeps in any case, as long as the block that it is in stays."""
        if budget.widths is not None:
            return {n: number(w) for n, w in self.asked(budget).items()}
        return self.least(budget)

    def least(self, budget: Budget) -> dict[str, int]:
        """Units that every site has to keep, ``min_keep`` or ``min_blocks``, as long as the block that it is in stays."""
        least = {name: min(int(n), budget.min_keep) for name, n in zip(self.names, self.dense, strict=False)}
        for name, places in self.blocks.items():
            asked = budget.min_blocks if isinstance(budget.min_blocks, int) else self._least[name]
            least[name] = min(len(places), asked)
        asked_widths = self.asked(budget) if budget.widths is not None else {}
        return {name: min(n, number(asked_widths.get(name, n))) for name, n in least.items()}

    def floor(self, budget: Budget, blocks: Vector) -> Vector:
        """The least vector in which the blocks of a vector stay."""
        floors, there = self.floors(budget), self._present(blocks)
        vector = blocks.copy()
        vector[: len(there)] = [floors[n] * is_there for n, is_there in zip(self.names, there, strict=True)]
        return vector

    def require(self, budget: Budget) -> None:
        """Raise UsageError when the units that every site keeps already cost more than the budget."""
        if budget.widths is not None:
            self._require_widths(budget)
        costliest = self.floor(budget, self._costliest(budget))
        least = self.cost(budget, costliest)
        if budget.widths is None and least > self.allowed(budget):
            kept = [f"{budget.min_keep} unit(s) in each of the {len(self.names)} sites"] if self.names else []
            number = int(costliest[len(self.names) :].sum())
            kept += [f"{number} of the {len(self._blocks)} blocks, which stay,"] if self.blocks else []
            help_ = "fewer blocks (--min-blocks)" if self.blocks else "use --coupling full"
            raise UsageError(
                f"budget {budget} cannot be met: {' and '.join(kept)} already cost {least / self.whole(budget):.4f}; "
                f"ask for more, or {help_}"
            )

    def count_blocks(self, budget: Budget) -> int | None:
        """Number of blocks that the budget keeps, as far as it says; never less than the sites' floors."""
        if not budget.keep_blocks:
            return None
        floors = self.floors(budget)
        return max(whole_units(budget.keep_blocks, len(self._blocks)), sum(floors[name] for name in self.blocks))

    def _costliest(self, budget: Budget) -> Vector:
        """Of the choices of blocks that may be forced on a method, the one that costs most at the least widths."""
        width = len(self.names)
        least, floors = self.floor(budget, self.dense), self.floors(budget)
        each = np.zeros(len(self._blocks), dtype=np.int64)
        for k in range(len(each)):
            without = least.copy()
            without[width + k] = 0
            each[k] = self.cost(budget, least) - self.cost(budget, without)
        vector, order = np.zeros_like(self.dense), np.argsort(-each, kind="stable") + width
        for name, places in self.blocks.items():
            vector[[place for place in order if place in places][: floors[name]]] = 1
        more = (self.count_blocks(budget) or 0) - int(vector.sum())
        vector[[place for place in order if not vector[place]][: max(more, 0)]] = 1
        return vector

    def _require_widths(self, budget: Budget) -> None:
        widths, floors = budget.widths or (), self.floors(budget)
        most = {n: int(m) for n, m in zip(self.names, self.dense, strict=False)}
        most |= {name: len(places) for name, places in self.blocks.items()}
        as_many = [len(text) for text in budget.blocks or ()]
        if len(widths) == len(most) and as_many in ([], [most[name] for name in sorted(self.blocks)]):
            there = dict(zip(self.names, self._present(self.array(floors | self.asked(budget))), strict=True))
            fits = all(there.get(n, 0) <= floors[n] <= m * there.get(n, True) for n, m in most.items())
            if fits and not any(floors[n] < min(m, budget.min_keep) * there.get(n, False) for n, m in most.items()):
                return
            if fits:
                raise UsageError(f"budget {budget} cannot be met: it leaves a site less than {budget.min_keep} units")
        units = "-".join(str(most[name]) for name in sorted(most))
        raise UsageError(f"budget {budget}: this network's sites have {units} units")
