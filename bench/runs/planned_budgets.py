"""Whether the networks of a plan can be cut to its budgets, found out before the first run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch

from bench.data.loading import find
from bench.errors import UsageError
from bench.models.build import build
from bench.pruning.cost_model import CostModel
from bench.pruning.selection import select
from bench.pruning.site_discovery import find_sites
from bench.spec.spec import BUDGET_TOLERANCE, DEPTH, Budget, Spec


def require_reachable(specs: Iterable[Spec], data_dir: Path, cache: Path | None) -> None:
    """Raise UsageError for a budget that cannot be met, or that equal shares miss by more than RULES.md, 5.2 allows.

    Each network is built and traced once, each budget cut once, whatever the number of methods and seeds.
    """
    wanted: dict[tuple[str, str, str, str], set[Budget]] = {}
    for spec in specs:
        if spec.budget is not None and spec.budget.widths is None:
            plain = dataclasses.replace(spec.budget, ranking=None)
            wanted.setdefault((spec.arch, spec.dataset, spec.coupling, spec.unit_kinds), set()).add(plain)
    for (arch, dataset, coupling, units), budgets in sorted(wanted.items()):
        facts = find(dataset, data_dir, cache)
        network = build(arch, facts.shape, facts.classes, 0)
        sites = find_sites(network, facts.shape, coupling, units)
        model = CostModel(network, sites, facts.shape)
        for budget in sorted(budgets, key=str):
            model.require(budget)
            if units == DEPTH or budget.step > 1:  # no share is met closely
                continue
            masks = select({n: torch.zeros(width) for n, width in sites.widths.items()}, model, budget, "layer")
            share = model.cost(budget, model.array(masks)) / model.whole(budget)
            if budget.keep - share > BUDGET_TOLERANCE:
                raise UsageError(
                    f"plan: {arch} on {dataset} cannot be cut to {budget} by equal shares: the nearest below is "
                    f"{share:.4f}, more than {100 * BUDGET_TOLERANCE:g} % of the dense cost off; plan another budget"
                )
