"""Masked units are held: what makes them and what reads them stays, whatever momentum and decay do."""

import pytest
import torch
from support.plans import carry_out

from bench.api import Phase
from bench.conformance import tiny_networks


@pytest.mark.parametrize("build", [tiny_networks.chain, tiny_networks.conv_flatten, tiny_networks.mlp])
def test_weights_that_read_masked_units_stay(make_training, build):
    training = make_training(arch=build(num_classes=10), shape=tiny_networks.SHAPE, batch_size=32)
    carry_out(training, (Phase(1),))  # so that there is something to decay
    model = training.model
    model.masks = {name: torch.arange(site.n_units) != 1 for name, site in model.sites.items()}
    held = [
        (weight, cut.positions[cut.units == 1], weight.detach().clone())
        for site in model.sites.values()
        for weight, cut in site.reader_weights()
    ]
    assert len(held) == len(model.sites)
    training.position = (0, 0)
    carry_out(training, (Phase(2),))
    for weight, columns, before in held:
        assert torch.equal(weight[:, columns], before[:, columns])
        assert not torch.equal(weight, before)
