"""Networks of users that no run can use, each with its cause in one line."""

import warnings

import pytest
import torch
from support.networks import GREY, SHAPE, residual, three_sites
from torch import nn

from bench.errors import RunFailed, UsageError
from bench.models.external import require_fit
from bench.runs.network_trial import Situation, Trial
from bench.spec.recipe import Recipe, Stage


def spoilt(change):
    network = three_sites()
    change(network)
    return network


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old
        return torch.jit.script(three_sites())


class OptimizedModule(nn.Module):
    """Of the name that torch.compile gives."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.DataParallel(three_sites()), "is of class DataParallel: return the module that it was made of"),
        (OptimizedModule, "is of class OptimizedModule: return the module that it was made of"),
        (scripted, "is of class RecursiveScriptModule: return the module that it was made of"),
        (lambda: three_sites().half(), r"has 0\.weight in torch\.float16: return it in float32, network\.float\(\)"),
        (lambda: three_sites().double(), r"has 0\.weight in torch\.float64: return it in float32, network\.float\(\)"),
        (
            lambda: spoilt(lambda net: nn.init.constant_(net[4].weight, float("nan"))),
            r"has weights that are not finite \(4\.weight\): load others",
        ),
        (
            lambda: spoilt(lambda net: net.requires_grad_(False)),
            r"has no parameter that can be trained: return it with requires_grad_\(True\)",
        ),
    ],
)
def test_cause_is_named(make, said):
    with pytest.raises(UsageError, match=f"^architecture 'mine' {said}$"):
        require_fit("mine", make(), GREY, 10)


def test_networks_that_can_be_used():
    require_fit("mine", three_sites(), GREY, 10)
    require_fit("mine", residual("A"), SHAPE, 4)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 10))
    require_fit("mine", lazy, GREY, 10)
    part = spoilt(lambda net: net[0].requires_grad_(False))
    require_fit("mine", part, GREY, 10)


def test_logits_that_are_not_finite():
    network = spoilt(lambda net: nn.init.constant_(net[12].bias, float("inf")))
    recipe = Recipe("", Stage(epochs=1, lr=0.1), Stage(epochs=1, lr=0.1), batch_size=4)
    situation = Situation(GREY, 10, "inner", recipe, torch.device("cpu"), "fp32")
    with pytest.raises(RunFailed, match=r"^its logits are not finite in eval mode$"):
        Trial(network, situation, None).choose_layout()
