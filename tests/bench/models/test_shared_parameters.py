"""Shared and computed parameters: what cannot be cut, and copies that torch would not make."""

import warnings

import pytest
import torch
from support.networks import GREY, conv, half_masks, head, images
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from bench.measure import flops
from bench.models.shared_parameters import copied, plain, uncut
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites


def chain():
    """Sites ``0``, ``3``, ``5`` and ``7``; the first has a batch norm."""
    first = conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), nn.ReLU()
    return nn.Sequential(*first, conv(5, 5), nn.ReLU(), conv(5, 4), nn.ReLU(), *head(4, 10))


def old(name):
    def apply(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(nn.utils, name)(module)

    return apply


def pruned_twice(module):
    prune.l1_unstructured(module, "weight", 3)
    prune.random_unstructured(module, "weight", 3)


class Positive(nn.Module):
    def forward(self, x):
        return x.abs()


def positive(module):
    parametrize.register_parametrization(module, "weight", Positive())


PARAMETRIZED = [
    (parametrizations.weight_norm, "weight is parametrized (weight_norm); remove_parametrizations first"),
    (parametrizations.spectral_norm, "weight is parametrized (spectral_norm); remove_parametrizations first"),
    (parametrizations.orthogonal, "weight is parametrized (orthogonal); remove_parametrizations first"),
    (positive, "weight is parametrized (positive); remove_parametrizations first"),
    (old("weight_norm"), "weight is parametrized (weight_norm); remove_weight_norm first"),
    (old("spectral_norm"), "weight is parametrized (spectral_norm); remove_spectral_norm first"),
    (pruned_twice, "weight is parametrized (prune); prune.remove first"),
    (lambda module: prune.random_unstructured(module, "bias", 2), "bias is parametrized (prune); prune.remove first"),
]


@pytest.mark.parametrize(("parametrization", "why"), PARAMETRIZED)
def test_parametrized_layer_rejects_only_the_sites_that_cut_it(parametrization, why):
    network = chain()
    parametrization(network[5])
    network.train()(images(2, GREY))  # computed weights now belong to a graph
    sites = find_sites(network, GREY)
    assert set(sites) == {"0", "7"}
    assert sites.rejected["5"] == f"its {why}"
    assert sites.rejected["3"] == f"5's {why}"
    masks = half_masks(sites)
    assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images(2, GREY)) <= 1e-4


@pytest.mark.parametrize("parametrization", [positive, pruned_twice])
def test_parametrized_norm_rejects_the_site_it_passes_on(parametrization):
    network = chain()
    parametrization(network[1])
    assert find_sites(network, GREY).rejected["0"].startswith("1's weight is parametrized (")


@pytest.mark.parametrize("parametrization", [p for p, _ in PARAMETRIZED])
def test_plain_copy_computes_the_same_and_has_no_computed_weight(parametrization):
    network = chain()
    parametrization(network[5])
    network.train()(images(2, GREY))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # a weight that a hook made is older than its parameters now
    kinds = [type(module) for module in network.modules()]
    copy = plain(copied(network))
    assert uncut(copy) == {}
    assert torch.equal(copy(images(2, GREY)), network.eval()(images(2, GREY)))
    assert [type(module) for module in network.modules()] == kinds
    assert uncut(network) != {}


def test_macs_do_not_count_how_a_weight_is_made():
    network = chain()
    expected = flops.count(network, GREY).by_module
    parametrizations.orthogonal(network[5])
    assert flops.count(network, GREY).by_module == expected


def test_copied_keeps_trainable_parameters_and_ties():
    network = chain()
    old("weight_norm")(network[5])
    network[3].weight = network[7].weight = nn.Parameter(torch.randn(5, 6, 3, 3))
    copy = copied(network)
    assert copy[3].weight is copy[7].weight is not network[3].weight
    copy[5](torch.randn(1, 5, 4, 4)).sum().backward()
    assert copy[5].weight_v.grad is not None
    assert network[5].weight_v.grad is None


class KeepsMap(nn.Sequential):
    """Keeps what its first layers made, as networks do that are looked into later."""

    def forward(self, x):
        self.maps = [self[0](x)]
        return super().forward(x)


def test_copied_takes_a_network_that_keeps_a_feature_map():
    network = KeepsMap(*chain())
    network(images(2, GREY))
    assert torch.equal(copied(network).maps[0], network.maps[0])
    assert network.maps[0].requires_grad


# --- shared tensors --------------------------------------------------------------------------------------------------


def tied(one, other, name="weight"):
    def tie(network):
        setattr(network[other], name, getattr(network[one], name))

    return tie


def square():
    """Like ``chain``, every convolution but the first with a weight of the same shape."""
    body = [layer for _ in range(3) for layer in (conv(6, 6), nn.BatchNorm2d(6), nn.ReLU())]
    return nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), *body, *head(6, 10))


@pytest.mark.parametrize(
    ("tie", "rejected"),
    [
        (
            tied(3, 6),
            {"0": "3's weight is also 6's", "3": "its weight is also 6's", "6": "its weight is also 3's"},
        ),
        (tied(4, 7, "bias"), {"3": "4's bias is also 7's", "6": "7's bias is also 4's"}),
        (tied(1, 10, "running_var"), {"0": "1's running_var is also 10's", "9": "10's running_var is also 1's"}),
        (lambda network: setattr(network, "shift", network[0].bias), {"0": "its bias is also the network's shift"}),
    ],
)
def test_site_with_a_shared_tensor_is_rejected(tie, rejected):
    network = square()
    tie(network)
    sites = find_sites(network, GREY)
    assert {name: sites.rejected.get(name) for name in rejected} == rejected
    assert set(sites) == {"0", "3", "6", "9"} - set(rejected)


def test_tied_linear_layers_are_rejected():
    hidden = [nn.Linear(8, 8) for _ in range(3)]
    hidden[2].weight = hidden[1].weight
    layers = nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), *hidden, nn.ReLU(), nn.Linear(8, 10)
    sites = find_sites(nn.Sequential(*layers), GREY)
    assert set(sites) == {"1"}
    assert sites.rejected["4"] == "its weight is also 5's"


class Alias(nn.Module):
    """One block under two names, called once; another is called three times."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(1, 6), nn.ReLU())
        self.features, self.again = self.stem, conv(5, 5)
        self.middle, self.head = conv(6, 5), nn.Sequential(*head(5, 10))

    def forward(self, x):
        x = self.middle(self.features(x)).relu()
        for _ in range(3):
            x = x + self.again(x).relu()
        return self.head(x)


def test_module_under_two_names_stays_one_module():
    network = Alias()
    sites = find_sites(network, GREY)
    assert "stem.0" in sites
    sliced = sites.slice(network, half_masks(sites))
    assert sliced.features is sliced.stem
    assert sliced.stem[0].out_channels == 3
    assert uncut(network) == {}
