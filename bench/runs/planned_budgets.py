"""Whether the networks of a plan can be cut to its budgets, found out before the first run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from bench.data.loading import find
from bench.errors import UsageError
from bench.models.build import build
from bench.pruning.cost_model import CostModel
from bench.pruning.selection import equal_widths
from bench.pruning.site_discovery import find_sites
from bench.spec.spec import BUDGET_TOLERANCE, Budget, Spec


def require_reachable(specs: Iterable[Spec], data_dir: Path, cache: Path | None) -> None:
    """Raise UsageError for a budget that equal shares miss by more than a ranked row may (RULES.md, 5.2).

    Each network is built and traced once, each budget cut once, whatever the number of methods and seeds.
    """
    wanted: dict[tuple[str, str, str], set[Budget]] = {}
    for spec in specs:
        if spec.budget is not None and spec.budget.widths is None:
            plain = dataclasses.replace(spec.budget, ranking=None)
            wanted.setdefault((spec.arch, spec.dataset, spec.coupling), set()).add(plain)
    for (arch, dataset, coupling), budgets in sorted(wanted.items()):
        facts = find(dataset, data_dir, cache)
        network = build(arch, facts.shape, facts.classes, 0)
        sites = find_sites(network, facts.shape, coupling)
        model = CostModel(network, sites, facts.shape)
        for budget in sorted(budgets, key=str):
            model.require(budget)
            kept = model.array(equal_widths(sites.widths, model, budget))
            share = model.cost(budget, kept) / model.cost(budget, model.dense)
            if budget.keep - share > BUDGET_TOLERANCE:
                raise UsageError(
                    f"plan: {arch} on {dataset} cannot be cut to {budget} by equal shares: the nearest below is "
                    f"{share:.4f}, more than {100 * BUDGET_TOLERANCE:g} % of the dense cost off; plan another budget"
                )
