"""Budgets of plans, by what they prune: widths are met within 0.5 %, blocks as far as they fit."""

import dataclasses

import pytest
import torch
from support.plugins import known

from bench.conformance import tiny_networks
from bench.errors import UsageError
from bench.models.build import build
from bench.runs import planned_budgets
from bench.runs.network_trial import Situation
from bench.runs.planned_budgets import require_reachable
from bench.runs.preflight import fit
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget


@pytest.fixture
def planned(make_run, tmp_path):
    """Whether a plan of runs with these units and budgets is accepted; raises UsageError where it is not."""

    def plan(*runs):
        specs = []
        for units, budget in runs:
            spec, _ = make_run("random", "check_depth", "check_images", keep=budget, units=units)
            specs += [spec, dataclasses.replace(spec, seed=1)]
        require_reachable(specs, tmp_path, None)

    with known(tiny_networks.__file__):
        yield plan


def test_blocks_alone_need_no_share_but_their_floor(planned):
    """RULES 5.2: a block is a large share of the network."""
    planned(("depth", 0.7), ("depth", 0.9), ("depth", Budget(keep_macs=0.4, min_blocks=0)))
    with pytest.raises(
        UsageError, match=r"0\.4 of the MACs cannot be met: 2 of the 5 blocks, which stay, already cost"
    ):
        planned(("depth", 0.7), ("depth", 0.4))


def test_blocks_and_widths_meet_their_share_closely(planned):
    planned(("both", 0.49), ("both", Budget(keep_macs=0.31, keep_blocks=0.6)))
    missed = r"plan: check_depth on check_images cannot be cut to 0\.5 of the MACs by equal shares"
    with pytest.raises(UsageError, match=missed):
        planned(("both", 0.5))
    with pytest.raises(UsageError, match=r"cannot be used up: 2 of the 5 blocks, which stay, cost at most 0\.\d+"):
        planned(("both", Budget(keep_macs=0.9, keep_blocks=0.4)))


def test_each_network_is_traced_once_for_what_is_pruned(planned, monkeypatch):
    """Budgets of depth are not asked of widths, nor the other way round."""
    traced, find = [], planned_budgets.find_sites
    monkeypatch.setattr(
        planned_budgets, "find_sites", lambda network, *words: traced.append(words[1:]) or find(network, *words)
    )
    with pytest.raises(UsageError, match=r"cannot be cut to 0\.61 of the MACs by equal shares"):
        planned(("depth", 0.61), ("width", 0.61), ("depth", 0.8))
    assert traced == [("inner", "depth"), ("inner", "width")]


def test_error_for_a_budget_says_what_the_other_coupling_reaches():
    recipe, shape = load_recipe("digits"), (1, 8, 8)
    network = build("resnet20", shape, 10)
    inner, full = (
        fit("net", network, Situation(shape, 10, coupling, recipe, torch.device("cpu"), "fp32")).model
        for coupling in ("inner", "full")
    )
    budget = Budget(keep_macs=0.02)
    least = [model.least_share(budget) for model in (inner, full)]
    assert least[1] < 0.02 < least[0]
    said = f"already cost {least[0]:.4f}; ask for more, or use --coupling full, which goes down to {least[1]:.4f}$"
    with pytest.raises(UsageError, match=said):
        inner.require(budget)
    beyond = Budget(keep_macs=least[1] / 2)
    for model in (inner, full):
        with pytest.raises(UsageError, match=r"; ask for more$"):
            model.require(beyond)
