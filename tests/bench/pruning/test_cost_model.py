"""What a network costs at any widths, and which budgets can be met."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from support.cost_models import family, random_scores, widths_of
from support.networks import CASES, masks_for
from torch import nn

from bench.errors import UsageError
from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.selection import select
from bench.pruning.site_discovery import find_sites
from bench.spec.spec import Budget


@pytest.mark.parametrize(
    "name",
    [
        *("resnet8_inner", "resnet8b_full", *CASES),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet8_full", "vgg16_bn", "vgg16_bn_full")),
    ],
)
def test_cost_model_is_exact(name):
    network, sites, model, shape = family(name)
    assert model.macs(model.dense) == flops.count(network, shape).total
    assert model.params(model.dense) == flops.parameters(network)

    @settings(derandomize=True, max_examples=2, deadline=None)
    @given(masks_for(sites))
    def check(masks):
        sliced, widths = sites.slice(network, masks), widths_of(model, masks)
        assert model.macs(widths) == flops.count(sliced, shape).total
        assert model.params(widths) == flops.parameters(sliced)

    check()


def test_cost_of_a_small_network_by_hand():
    """conv_flatten at widths a, b, c: convs 3-a and a-b with bias on 8x8 and 4x4, linear 4b-c, linear c-4."""
    _, _, model, _ = family("conv_flatten")

    def macs(a, b, c):
        return 27 * a * 64 + 9 * a * b * 16 + 4 * b * c + 4 * c

    def params(a, b, c):
        return (27 * a + a) + (9 * a * b + b) + (4 * b * c + c) + (4 * c + 4)

    for a in range(1, 7):
        for b in range(1, 6):
            for c in range(1, 8):
                widths = model.array({"0": a, "3": b, "7": c})
                assert (model.macs(widths), model.params(widths)) == (macs(a, b, c), params(a, b, c))


def test_widths_are_those_of_the_names_in_sorted_order():
    """As in records."""
    layers = {f"b{i}": nn.Linear(8 + i, 9 + i) for i in range(11)}  # b10 comes before b2 in a record
    network = nn.Sequential(OrderedDict([*layers.items(), ("out", nn.Linear(19, 3))]))
    sites = find_sites(network, (8,))
    assert list(sites) == list(layers)
    model, kept = CostModel(network, sites, (8,)), {name: i + 1 for i, name in enumerate(sites)}
    budget = Budget(widths=tuple(kept[name] for name in sorted(kept)))
    masks = select(random_scores(sites), model, budget)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == kept
    assert model.meets(budget, model.array(kept))
    assert model.allowed(budget) == model.macs(model.array(kept))
    wrong = Budget(widths=(9, 20, *budget.widths[2:]))  # b1 has 10 units
    with pytest.raises(UsageError, match="this network's sites have 9-10-19-11-12-13-14-15-16-17-18 units"):
        model.require(wrong)


def test_widths_that_the_network_cannot_keep_are_refused():
    model = family("parallel")[2]
    for widths in ((5,), (5, 5, 5), (0, 5), (5, 11), ()):
        with pytest.raises(UsageError, match="this network's sites have 10-10 units"):
            model.require(Budget(widths=widths))
    with pytest.raises(UsageError, match="leaves a site less than 6 units"):
        model.require(Budget(widths=(5, 9), min_keep=6))
    model.require(Budget(widths=(6, 10), min_keep=6))
    model.require(Budget(widths=(10, 10), min_keep=30))


@pytest.mark.parametrize(
    "budget", [Budget(keep_macs=0.09), Budget(keep_params=0.05), Budget(keep_macs=0.5, min_keep=6)]
)
def test_budget_below_min_keep_error_says_what_is_least(budget):
    _, sites, model, _ = family("parallel")
    with pytest.raises(UsageError, match=r"cannot be met: \d+ unit\(s\) in each of the 2 sites already cost 0\.\d+"):
        select(random_scores(sites), model, budget)
    with pytest.raises(UsageError):
        model.require(budget)
    masks = select(random_scores(sites), model, Budget(keep_macs=0.1))  # the least that is possible
    assert [int(m.sum()) for m in masks.values()] == [1, 1]


def test_invalid_budget_is_refused():
    for share in (0, 1.5, -1, float("nan"), float("inf"), -0.0):
        for what in ("keep_macs", "keep_params"):
            with pytest.raises(UsageError, match="--" + what.replace("_", "-")):
                Budget(**{what: share})
    for values, match in (
        ({"keep_macs": 0.5, "keep_params": 0.5}, "one of them"),
        ({"ranking": "best"}, "--ranking best: .*global.*layer"),
        ({"min_keep": 0}, "--min-keep 0"),
    ):
        with pytest.raises(UsageError, match=match):
            Budget(**values)


@pytest.mark.slow
def test_half_the_inner_widths_of_resnet56():
    network, sites, model, shape = family("resnet56")
    halves = {name: torch.arange(width) % 2 == 0 for name, width in sites.widths.items()}
    assert model.macs(widths_of(model, halves)) == 63_775_360
    assert flops.count(sites.slice(network, halves), shape).total == 63_775_360
