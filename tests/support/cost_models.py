"""Networks with their sites and cost models, made once: leave them as they are."""

from functools import cache

import torch
from support.networks import CASES, SHAPE, Parallel, found

from bench.models.build import build
from bench.models.resnet import resnet
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites

FAMILIES = {
    "resnet8_inner": (lambda: resnet(8, shape=(1, 8, 8), num_classes=10), (1, 8, 8), "inner"),
    "resnet8_full": (lambda: resnet(8, shape=(1, 8, 8), num_classes=10), (1, 8, 8), "full"),
    "resnet8b_full": (lambda: resnet(8, "B", shape=(3, 12, 12), num_classes=7), (3, 12, 12), "full"),
    "lenet": (lambda: build("lenet", (1, 28, 28), 10), (1, 28, 28), "inner"),
    "mlp_40_40": (lambda: build("mlp_40_40", (1, 16, 16), 10), (1, 16, 16), "inner"),
    "parallel": (Parallel, (8,), "inner"),
    "vgg16_bn": (lambda: build("vgg16_bn", (3, 32, 32), 10), (3, 32, 32), "inner"),
    "vgg16_bn_full": (lambda: build("vgg16_bn", (3, 32, 32), 10), (3, 32, 32), "full"),
    "resnet56": (lambda: build("resnet56", (3, 32, 32), 10), (3, 32, 32), "inner"),
}


@cache
def family(name):
    """Network, sites, cost model and input shape of one of FAMILIES, or of the networks that differ in kind."""
    if name in CASES:
        (network, sites), shape = found(name), SHAPE
    else:
        make, shape, coupling = FAMILIES[name]
        network = make()
        sites = find_sites(network, shape, coupling)
    return network, sites, CostModel(network, sites, shape), shape


def widths_of(model, masks):
    """Units that masks keep, as the cost model counts them."""
    return model.array({name: int(mask.sum()) for name, mask in masks.items()})


def random_scores(sites, seed=0):
    """Random scores of the units of each site."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(width, generator=generator) for name, width in sites.widths.items()}
