"""What a budget of milliseconds keeps, for whoever ranks units: masks from scores, with or without measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import METHOD, RunFailed
from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.pruning.latency_model import LatencyModel, Timed, fitted
from bench.pruning.latency_rounds import Asked, Measured, Pick, Round, require_possible, rounds
from bench.pruning.latency_solver import Choices, best, choices_of, narrowest
from bench.pruning.latency_terms import Terms
from bench.spec.spec import Budget

EQUAL = "equal"
"""In place of a ranking: every site keeps the same share."""


class LatencyChoice:
    """A budget of milliseconds, and the table that it is met with.

    Args:
        asked: the budget.
        terms: fused blocks of the dense network.
        timed: the networks of the table.
        costs: cost model of the dense network, with exempt sites.
        budget: the rest of what was asked, such as ``min_keep``.
        measure: times the network of a vector.
        device: that the table is of.

    Attributes:
        measures: whether choices are measured and corrected; before the prune of a run they are predicted only.
        rounds: of the last choice that was measured.
        how: ranking of that choice, of channels and of blocks where that is another one.
        scores: that it was made from; empty for equal shares.
    """

    def __init__(
        self,
        asked: Asked,
        terms: Terms,
        timed: Sequence[Timed],
        costs: CostModel,
        budget: Budget,
        measure: Callable[[Vector], Measured],
        device: str = "",
    ) -> None:
        self.device = device
        self.asked, self.terms, self.timed, self.costs, self.budget = asked, terms, timed, costs, budget
        self.measure = measure
        self.measures = False
        self.rounds: list[Round] = []
        self.how: tuple[str, ...] = ()
        self.scores: dict[str, Tensor] = {}

    @cached_property
    def model(self) -> LatencyModel:
        """Fitted to the table alone."""
        return fitted(self.terms, self.timed)

    def require(self) -> None:
        """Raise UsageError where no widths are fast enough, whatever the scores, or the dense network is."""
        places = zip(self.terms.names, self.terms.dense, strict=False)
        ones = {name: torch.ones(width) for name, width in places}
        ones |= {name: torch.ones(len(of)) for name, of in self.terms.blocks}
        require_possible(self.asked, self.model, self._choices(ones, "layer", None))

    def masks(
        self, scores: Mapping[str, Tensor], ranking: str | Mapping[str, float], of_blocks: str | None = None
    ) -> dict[str, Tensor]:
        """Site -> bool ``[n_units]`` on the CPU: the units that are worth most within the time."""
        choices = self._choices(scores, ranking, of_blocks)
        vector = self._found(choices, best)
        if self.measures:
            of_channels = ranking if isinstance(ranking, str) else "shares"
            self.how = (of_channels, *([of_blocks] if of_blocks else []))
            self.scores = {name: score.detach().double().cpu() for name, score in scores.items()}
        masks = {name: torch.from_numpy(vector[list(places)] > 0) for name, places in self.terms.blocks}
        for name, width in zip(self.terms.names, vector.tolist(), strict=False):
            if name in scores:
                order = scores[name].detach().double().cpu().argsort(descending=True, stable=True)
                masks[name] = torch.zeros(len(order), dtype=torch.bool)
                masks[name][order[:width]] = True
        return masks

    def equal_widths(self) -> dict[str, int]:
        """Units of each site where all keep the same share, as near as the table has them; all blocks stay."""
        ones = {name: torch.ones(width) for name, width in zip(self.terms.names, self.terms.dense, strict=False)}
        ones |= {name: torch.ones(len(of)) for name, of in self.terms.blocks}
        choices = self._choices(ones, "layer", None)
        vector = self._found(choices, partial(equal, stays=self.terms.dense[len(self.terms.names) :]))
        if self.measures:
            self.how, self.scores = (EQUAL,), {}
        found = dict(zip(self.terms.names, vector.tolist(), strict=False))
        return found | {name: int(vector[list(places)].sum()) for name, places in self.terms.blocks}

    def again(
        self, scores: Mapping[str, Tensor], how: Sequence[str], known: Mapping[tuple[int, ...], Measured]
    ) -> dict[str, Tensor]:
        """The masks of a choice that was made before, from what was measured then; empty for equal shares.

        Args:
            scores: that it was made from.
            how: see :attr:`how`.
            known: vector -> what was measured.

        Raises RunFailed where it would be another one.
        """

        def measure(vector: Vector) -> Measured:
            if (found := known.get(tuple(vector.tolist()))) is None:
                raise RunFailed("the scores lead to widths that the record has not measured")
            return found

        self.measure, self.measures = measure, True
        if list(how) == [EQUAL]:
            self.equal_widths()
            return {}
        return self.masks(scores, how[0], how[1] if len(how) > 1 else None)

    def require_measured(self, masks: Mapping[str, Tensor]) -> None:
        """Raise RunFailed unless the widths and blocks of ``masks`` are those that were measured."""
        kept = tuple(self.costs.array(masks).tolist())
        if not self.rounds or kept != self.rounds[-1].vector:
            raise RunFailed(
                "the method keeps other widths than ctx.rank or ctx.equal_widths gave it: their time is not known",
                blame=METHOD,
            )

    def facts(self) -> dict[str, Any]:
        """What a record says of the last choice that was measured."""
        each = [asdict(one.measured) | {"target": one.target, "predicted": one.predicted} for one in self.rounds]
        listed = [facts | {"vector": list(one.vector)} for facts, one in zip(each, self.rounds, strict=True)]
        return {"device": self.device, "dense_ms": self.model.dense_ms, "ranking": list(self.how), "rounds": listed}

    def _choices(
        self, scores: Mapping[str, Tensor], ranking: str | Mapping[str, float], of_blocks: str | None
    ) -> Choices:
        return choices_of(scores, self.terms, self.costs, self.budget, ranking, of_blocks)

    def _found(self, choices: Choices, pick: Pick) -> Vector:
        if self.measures:
            self.rounds = rounds(self.asked, self.model, self.timed, choices, self.measure, pick)
            return np.array(self.rounds[-1].vector, dtype=np.int64)
        require_possible(self.asked, self.model, choices)
        found = pick(self.model, choices, self.asked.target(self.model.dense_ms))
        return narrowest(self.model, choices) if found is None else found


def equal(model: LatencyModel, choices: Choices, target: float, stays: Sequence[int]) -> Vector | None:
    """The largest common share of all widths that takes at most ``target`` ms, each rounded down to the table's."""
    terms = model.terms
    allowed = [
        [width for width, gain in zip(grid, gains, strict=True) if gain > -np.inf]
        for grid, gains in zip(terms.grid, choices.gains, strict=True)
    ]
    dense = terms.dense[: len(allowed)]
    shares = sorted({width / whole for widths, whole in zip(allowed, dense, strict=True) for width in widths})
    for share in reversed(shares):
        widths = [
            max((w for w in of if w <= share * whole * (1 + 1e-9)), default=of[0])
            for of, whole in zip(allowed, dense, strict=True)
        ]
        if model.ms([*widths, *stays]) <= target:
            return np.array([*widths, *stays], dtype=np.int64)
    return None
