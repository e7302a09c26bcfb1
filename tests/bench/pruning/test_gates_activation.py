"""Which tensor counts as a site's activation: what its activation function puts out, before pooling."""

import gc
import weakref

import pytest
import torch
from support.networks import SHAPE, conv, found, head, hooks_of, images, randomised
from torch import nn
from torch.nn import functional as F

from bench.pruning.gates import Gates
from bench.pruning.site_discovery import find_sites


def observed(network, x, sites=None, times=1):
    """Site -> activation of the last forward."""
    seen = {}
    gates = Gates(network, sites or find_sites(network, tuple(x.shape[1:])))
    gates.observe(seen.__setitem__)
    try:
        with torch.no_grad():
            for _ in range(times):
                network(x)
    finally:
        gates.remove()
    assert not hooks_of(network)
    return seen


def pooled(relu, norm_first=True):
    """Two sites, each normalised, activated and pooled; ``relu`` makes the activation module of each."""
    layers = []
    for inp, out in ((3, 6), (6, 5)):
        middle = (nn.BatchNorm2d(out), relu()) if norm_first else (relu(), nn.BatchNorm2d(out))
        layers += [conv(inp, out), *middle, nn.MaxPool2d(2)]
    return randomised(nn.Sequential(*layers, *head(5)))


def by_hand(network, x, first=(0, 3), second=(4, 7)):
    """What the layers from .. to put out, on fresh memory."""
    with torch.no_grad():
        one = network[first[0] : first[1]](x.clone())
        two = network[second[0] : second[1]](network[3](one.clone()))
    return {"0": one, "4": two}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.PReLU])
def test_it_is_what_the_activation_module_puts_out(activation):
    network, x = pooled(activation), images()
    seen, expected = observed(network, x), by_hand(network, x)
    assert set(seen) == set(expected)
    for name, value in expected.items():
        assert seen[name].shape[2:] == ((8, 8) if name == "0" else (4, 4))
        torch.testing.assert_close(seen[name], value)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_module_may_be_shared_by_all_layers(inplace):
    shared = nn.ReLU(inplace=inplace)
    network, x = pooled(lambda: shared), images()
    expected = by_hand(network, x)
    for name, value in observed(network, x, times=2).items():
        torch.testing.assert_close(value, expected[name])


def test_norm_behind_the_activation_still_belongs_to_it():
    network, x = pooled(nn.ReLU, norm_first=False), images()
    expected = by_hand(network, x)
    seen = observed(network, x)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value)
        norm = network[2 if name == "0" else 6]
        assert (value - norm.bias[:, None, None]).abs().max() > 0.1  # the norm has moved what the ReLU puts out


class Functional(nn.Module):
    """Its activation function is no module."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.next = conv(3, 6), nn.BatchNorm2d(6), conv(6, 5)
        self.head = nn.Sequential(nn.ReLU(), *head(5))

    def forward(self, x):
        return self.head(self.next(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)))


def test_where_the_path_is_not_made_of_modules_it_is_what_the_consumer_reads():
    network, x = randomised(Functional()), images()
    seen = observed(network, x)
    with torch.no_grad():
        read = F.max_pool2d(F.relu(network.norm(network.conv(x))), 2)
        other = network.head[0](network.next(read))
    torch.testing.assert_close(seen["conv"], read)
    torch.testing.assert_close(seen["next"], other)


def test_sums_and_linear_units_are_what_the_consumer_reads():
    x = images()
    network, sites = found("residual_A_full")
    seen = observed(network, x, sites)
    with torch.no_grad():
        torch.testing.assert_close(seen["0.0"], network[0](x))
        torch.testing.assert_close(seen["1.body.0"], network[1].body[:3](network[0](x)))
    network, sites = found("mlp")
    seen = observed(network, x, sites)
    with torch.no_grad():
        torch.testing.assert_close(seen["1"], network[:3](x))
        torch.testing.assert_close(seen["3"], network[:5](x))


class Tokens(nn.Module):
    """Linear layers over the last axis of ``[B, tokens, channels]``."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x):
        return self.second(self.act(self.first(x))).mean(dim=1)


def test_units_of_tokens_come_to_the_second_axis():
    network, x = randomised(Tokens()), images(shape=(5, 4))
    seen = observed(network, x)
    assert seen["first"].shape == (2, 7, 5)
    with torch.no_grad():
        torch.testing.assert_close(seen["first"].movedim(1, -1), F.relu(network.first(x)))


def test_each_forward_is_seen_with_its_own_activations():
    network, sites = found("conv_flatten")
    gates, seen = Gates(network, sites), []
    gates.observe(lambda name, a: seen.append((name, a)))
    with torch.no_grad():
        for seed in (0, 1):
            network(images(seed=seed))
    gates.remove()
    alone = [observed(network, images(seed=seed), sites) for seed in (0, 1)]
    for k, (name, a) in enumerate(seen):
        torch.testing.assert_close(a, alone[k // 3][name])


@pytest.mark.parametrize("case", ["conv_flatten", "residual_A_full"])
def test_nothing_holds_on_to_activations_after_the_forward(case):
    network, sites = found(case)
    gates, held = Gates(network, sites), []
    gates.observe(lambda name, a: held.append(weakref.ref(a)))
    with torch.no_grad():
        network(images())
    gc.collect()
    assert len(held) == len(sites)
    assert [ref() for ref in held] == [None] * len(sites)
    gates.remove()


def test_training_sees_what_evaluation_sees_and_gradients_still_flow():
    network = pooled(lambda: nn.ReLU(inplace=True))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x, seen = images(), {}
    gates = Gates(network, find_sites(network, SHAPE))
    gates.observe(lambda name, a: seen.__setitem__(name, a.detach().clone()))
    network(x).sum().backward()
    gates.remove()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network[0].parameters())
    for name, value in by_hand(network, x).items():
        torch.testing.assert_close(seen[name], value)
