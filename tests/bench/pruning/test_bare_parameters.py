"""Parameters that belong to no layer and have an entry for each unit: layer scales, tokens, a factor for each head."""

import pytest
import torch
from support.joined_networks import Joined, down
from support.networks import SHAPE, conv, images, randomised
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites
from bench.training.held_parameters import Held


def scaled_stream(*shape):
    """``x + gamma * body(x)``, as in ConvNeXt, with batch norm on the stream."""

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.gamma * self.two(self.one(x).relu())
        return self.rest(self.norm(x))

    layers = {"stem": conv(3, 6), "one": conv(6, 5), "two": conv(5, 6), "norm": nn.BatchNorm2d(6), "rest": down(6)}
    return Joined(forward, **layers, gamma=nn.Parameter(torch.rand(shape) + 0.5))


def token():
    """A class token in front of those of the image; linear layers on each."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.fc(self.mix(x).relu().mean(1))

    layers = {"patches": nn.Conv2d(3, 6, 4, 4), "mix": nn.Linear(6, 8), "fc": nn.Linear(8, 4)}
    return Joined(forward, **layers, token=nn.Parameter(torch.rand(1, 1, 6)))


def tempered():
    """Attention whose heads have a factor each."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * self.factor).softmax(-1)
        return self.fc(self.proj((weights @ v).transpose(1, 2).flatten(2)).mean(1))

    layers = {"patches": nn.Conv2d(3, 12, 4, 4), "qkv": nn.Linear(12, 36), "proj": nn.Linear(12, 7)}
    return Joined(forward, **layers, fc=nn.Linear(7, 4), factor=nn.Parameter(torch.rand(4, 1, 1)), num_heads=4)


def twice():
    """One parameter of two modules."""
    network = scaled_stream(6, 1, 1)
    network.rest[0].gamma = network.gamma
    return network


class Standardised(nn.Conv2d):
    """Its weight has mean zero in each filter (Qiao et al. 2019), times a gain; inputs cannot be removed."""

    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight * self.gain, self.bias, self.stride, self.padding)


def standardised():
    return nn.Sequential(conv(3, 6), nn.ReLU(), Standardised(6, 5, 3, padding=1), nn.ReLU(), *down(5))


def sliced(network, sites, masks):
    """The network without what the masks remove; gate, slice and cost agree."""
    found = sites.slice(network, masks)
    x = images().double()
    assert gate_slice_difference(network.double(), found.double(), sites, masks, x, 1e-30) <= 1e-13
    model, found = CostModel(network, sites, SHAPE), found.float()
    kept = model.array({name: int(mask.sum()) for name, mask in masks.items()})
    assert (model.macs(kept), model.params(kept)) == (flops.count(found, SHAPE).total, flops.parameters(found))
    return found


@pytest.mark.parametrize(
    ("network", "coupling", "site", "parameter"),
    [
        (lambda: scaled_stream(6, 1, 1), "full", "stem", "gamma"),
        (lambda: scaled_stream(1, 6, 1, 1), "full", "stem", "gamma"),
        (token, "inner", "patches", "token"),
        (tempered, "inner", "qkv", "factor"),
    ],
)
def test_parameter_is_cut_with_the_units_once_and_again(network, coupling, site, parameter):
    network = randomised(network())
    sites = find_sites(network, SHAPE, coupling)
    before = network.get_parameter(parameter)
    assert (parameter, "both") in {(cut.layer, cut.side) for cut in sites[site].cuts}
    masks = {name: torch.arange(width) % 3 != 1 for name, width in sites.widths.items()}
    smaller = sliced(network, sites, masks)
    expected = before.flatten().double()[masks[site]]
    after = smaller.get_parameter(parameter)
    assert torch.equal(after.flatten().double(), expected)
    assert sorted(after.shape) == [1] * (before.dim() - 1) + [len(expected)]
    again = sites.reindex_after(masks, smaller)
    fewest = {name: torch.arange(width) == 1 for name, width in again.widths.items()}
    assert torch.equal(sliced(smaller, again, fewest).get_parameter(parameter).flatten().double(), expected[1:2])


def test_gain_of_a_layer_is_cut_with_its_outputs():
    network = randomised(standardised())
    sites = find_sites(network, SHAPE)
    assert "weight that it computes" in sites.rejected["0"]
    masks = sites.ones() | {"2": torch.arange(5) > 1}
    assert torch.equal(sliced(network, sites, masks)[2].gain, network[2].gain[2:].float())


def test_stream_with_a_scale_has_several_producers_and_is_not_inner():
    network = scaled_stream(6, 1, 1)
    assert "see --coupling full" in find_sites(network, SHAPE).rejected["stem"]
    assert find_sites(network, SHAPE, "full")["stem"].producers == ("stem", "two")


@pytest.mark.parametrize("network", [twice, lambda: scaled_stream(6, 8, 8)])
def test_parameter_of_two_modules_or_of_several_axes_stays_whole(network):
    sites = find_sites(network(), SHAPE, "full")
    assert sites.rejected["stem"] == "its units also index the parameter gamma, which a slice cannot follow"
    assert "one" in sites


def test_two_sites_do_not_share_a_number():
    """Talking heads (Shazeer et al. 2020): who makes the weights and who is weighted could keep other numbers."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = (part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = self.after(self.before(q @ k.mT).softmax(-1))
        return self.fc(self.proj((weights @ v).transpose(1, 2).flatten(2)).mean(1))

    layers = {name: nn.Linear(12, 12) for name in "qkv"} | {name: conv(4, 4, 1) for name in ("before", "after")}
    layers |= {"patches": nn.Conv2d(3, 12, 4, 4), "proj": nn.Linear(12, 7), "fc": nn.Linear(7, 4)}
    sites = find_sites(Joined(forward, **layers, num_heads=4), SHAPE)
    assert not {"q", "v"} & set(sites)
    assert any("num_heads also counts the units of q" in why for why in sites.rejected.values())


def test_axes_that_meet_crosswise_make_no_units():
    """Each unit is multiplied by the whole parameter."""

    def forward(self, x):
        x = self.first(x).mean((2, 3))
        table = (x[:, :, None] * self.scale.expand(len(x), 6, 5)).flatten(1)
        return self.fc(table)

    network = Joined(forward, first=conv(3, 6), fc=nn.Linear(30, 4), scale=nn.Parameter(torch.ones(5)))
    with pytest.raises(RunFailed, match="first: the network combines each of its channels with several units"):
        find_sites(network, SHAPE)


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1)])
def test_masked_units_keep_their_entries_and_lose_their_momentum(shape):
    network = scaled_stream(*shape)
    sites = find_sites(network, SHAPE, "full")
    mask = torch.tensor([True, False, True, True, False, True])
    before = network.gamma.detach().clone().flatten()
    held = Held(sites, {"stem": mask})
    optimizer = torch.optim.SGD([network.gamma], lr=1, momentum=0.9)
    network.gamma.grad = torch.ones_like(network.gamma)
    optimizer.step()
    held.restore(optimizer)
    now, momentum = network.gamma.detach().flatten(), optimizer.state[network.gamma]["momentum_buffer"].flatten()
    assert torch.equal(now, torch.where(mask, before - 1, before))
    assert torch.equal(momentum, mask.float())
