"""Which blocks are kept, as a pure function of scores, cost model and budget."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.spec.spec import Budget


def kept_blocks(
    scores: Mapping[str, Tensor], model: CostModel, budget: Budget, ranking: str | Mapping[str, float]
) -> Vector:
    """The vector of the best blocks within the budget, with the widths that the sites have.

    The best ``min_blocks`` of every site stay. The others are put in rank order, ties at the earlier site and the lower
    index. Where blocks alone are pruned, they stay in this order, each that still fits. Where widths are pruned too,
    blocks go in the opposite order: until the share ``keep_blocks`` is left; or else until those left, with all their
    widths, cost no more than the square root of the budget's share, where a block stays without which they would cost
    less than the budget. Further ones go if the least widths of those left cost too much.

    Args:
        scores: site -> ``[n_units]``, larger is more worth keeping.
        model: cost model of the network.
        budget: what may be kept.
        ranking: ``global`` compares scores over sites; ``layer`` keeps equal shares of every site; a mapping
            gives the shares of the sites relative to each other.
    """
    vector, floors = np.zeros_like(model.dense), model.floors(budget)
    vector[: len(model.names)] = [len(scores[name]) for name in model.names]
    places, keys = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    for name, of_site in model.blocks.items():
        score = scores[name].detach().double().cpu().numpy()
        order = np.argsort(-score, kind="stable")
        least = floors[name]
        vector[of_site[order[:least]]] = 1
        places.append(of_site[order[least:]])
        keys.append(-score[order[least:]] if ranking == "global" else _keys(len(order), least, ranking, name))
    if budget.widths is not None:
        for name, asked in model.asked(budget).items():
            if isinstance(asked, Tensor):
                vector[model.blocks[name]] = asked.tolist()
        return vector
    queue = np.concatenate(places)[np.argsort(np.concatenate(keys), kind="stable")]
    limit, count = model.allowed(budget), model.count_blocks(budget)
    if not model.names:
        for place in queue:
            vector[place] = 1
            vector[place] = model.cost(budget, vector) <= limit
        return vector
    vector[queue] = 1
    last, target = queue[::-1], math.floor(math.sqrt(budget.keep) * model.whole(budget))
    for place in last:
        if count is None and model.cost(budget, vector) <= target:
            break
        if count is not None and vector[len(model.names) :].sum() <= count:
            break
        vector[place] = 0
        vector[place] = count is None and model.cost(budget, vector) < limit
    for place in last:
        if model.cost(budget, model.floor(budget, vector)) <= limit:
            break
        vector[place] = 0
    return vector


def _keys(count: int, least: int, ranking: str | Mapping[str, float], name: str) -> NDArray[np.float64]:
    """At which common share of all sites each block of a site enters, the best ``least`` left out."""
    share = 1.0 if isinstance(ranking, str) else float(ranking.get(name, 1.0))
    return np.arange(least + 1, count + 1) / (count * max(share, 1e-12))
