"""What goes with a layer's channels, as followed through a forward pass."""

import pytest
import torch
from support.joined_networks import HARD, JOINED, Joined, attention, down, gated_by_chunk
from support.networks import CASES, SHAPE, Excitation, conv, excited, excited_stream, head, made, mlp, residual
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.pruning.channel_groups import Member
from bench.pruning.channel_tracing import trace
from bench.pruning.dependency_graph import graph_of
from bench.pruning.site_discovery import find_sites
from bench.pruning.slicing import channels


def sides(traced, layer):
    """Side by layer of the members, in alphabetical order."""
    return {member.layer: member.side for member in sorted(traced.members(layer), key=lambda m: m.layer)}


def theirs(graph, layer):
    """Torch-pruning's group: (layer, whether at its input) -> pairs of position and unit."""
    names = {module: name for name, module in graph.layers.items()}
    found = {}
    for item in graph.group(layer).items:
        if item.dep.target.module in names:
            at_input = not graph.graph.is_out_channel_pruning_fn(item.dep.handler)
            pairs = found.setdefault((names[item.dep.target.module], at_input), set())
            pairs.update(zip(item.idxs, item.root_idxs, strict=True))
    return found


UNITED = {"grouped", "grouped_twice", "multiplied", *JOINED} - {"branches", "swiglu", "instance_norm"}
"""Networks with units of several channels, of which torch-pruning knows nothing."""


@pytest.mark.parametrize("case", sorted(set(CASES) - UNITED))
def test_members_are_torch_prunings_group(case):
    """In networks that it can follow, torch-pruning's walk through the graph of autograd finds the same."""
    traced, graph = trace(made(case), SHAPE), graph_of(made(case), SHAPE)
    for layer in (layer for layer in traced.roots() if traced.fixed(layer) is None):
        ours = {}
        for member in traced.members(layer):
            pairs = ours.setdefault((member.layer, member.side == "in"), set())
            pairs.update(zip(member.positions, member.units, strict=True))
        shared = {key for key in theirs(graph, layer) if isinstance(graph.layers[key[0]], nn.PReLU)} - set(ours)
        assert ours == {key: pairs for key, pairs in theirs(graph, layer).items() if key not in shared}


def test_members_by_hand():
    """Of a chain; of a flattened map, with several positions a unit; of channels that meet; of heads."""
    traced = trace(made("conv_bn"), SHAPE)
    whole = list(range(6))
    assert traced.members("0") == [
        Member("0", "out", whole, whole),
        Member("1", "both", whole, whole),
        Member("3", "in", whole, whole),
    ]
    assert traced.roots() == ["0", "3", "8"]
    reader = next(m for m in trace(made("conv_flatten"), SHAPE).members("3") if m.side == "in")
    assert reader == Member("7", "in", list(range(20)), [k // 4 for k in range(20)])
    assert trace(gated_by_chunk(), SHAPE).members("up") == [
        Member("up", "out", list(range(12)), 2 * list(range(6))),
        Member("rest.0", "in", list(range(6)), list(range(6))),
    ]
    traced, heads = trace(attention(), SHAPE), [channel // 4 for channel in range(12)]
    assert traced.members("attend.qkv") == [
        Member("attend.qkv", "out", list(range(36)), 3 * heads),
        Member("attend.proj", "in", list(range(12)), heads),
    ]
    assert traced.is_attention("attend.qkv")
    assert not traced.is_attention("patches")


def test_a_layer_that_makes_the_output_is_fixed():
    traced = trace(nn.Sequential(*mlp(), nn.Sigmoid()), SHAPE)
    assert traced.fixed("5") == "it makes the network's output"
    assert traced.fixed("1") is None


def test_a_layer_called_twice_has_one_width():
    """Its channels are the same units in both calls, and what it reads in them goes together."""
    layers = {"left": conv(3, 4), "right": conv(3, 4), "same": conv(4, 6), "rest": down(6)}
    network = Joined(lambda self, x: self.rest(self.same(self.left(x)) + self.same(self.right(x).relu())), **layers)
    traced = trace(network, SHAPE)
    assert sides(traced, "left") == {"left": "out", "right": "out", "same": "in"}
    assert sides(traced, "same") == {"same": "out", "rest.0": "in"}


def test_the_order_of_computation_is_known():
    traced = trace(residual("B"), SHAPE)
    assert traced.behind("1.body.3", "0.0")
    assert not traced.behind("0.0", "1.body.3")
    assert not traced.behind("2.body.3", "2.shortcut.0")


# --- what only scales ------------------------------------------------------------------------------------------


def scaling(function, **layers):
    """What ``function`` makes of ``layers`` and an image, six channels, and a classifier."""
    return Joined(lambda self, x: self.head(function(self, x)), **layers, head=nn.Sequential(*head(6)))


def square(self, x):
    x = self.main(x)
    return x * x


def swish(self, x):
    """Multiplied with what a norm and a sigmoid make of it: no layer lies between."""
    x = self.main(x)
    return x * self.norm(x).sigmoid()


def one_activation(self, x):
    """A residual block with an excitation whose one ReLU stands before and behind it, as in most code."""
    x = self.relu(self.stem(x))
    return self.relu(self.excitation(self.second(self.relu(self.first(x)))) + x)


SHARED = {"stem": lambda: conv(3, 6), "first": lambda: conv(6, 4), "second": lambda: conv(4, 6), "relu": nn.ReLU}


@pytest.mark.parametrize(
    ("network", "layer", "expected"),
    [
        (
            lambda: scaling(one_activation, **{n: make() for n, make in SHARED.items()}, excitation=Excitation(6, 3)),
            "stem",
            {"excitation.fc1": "in", "excitation.fc2": "scale", "first": "in", "head.2": "in"}
            | {"second": "out", "stem": "out"},
        ),
        (excited, "0", {"0": "out", "1": "both", "3.fc1": "in", "3.fc2": "scale", "4": "in"}),
        (
            lambda: scaling(lambda self, x: self.scale(self.main(x)), scale=Excitation(6, 3), main=conv(3, 6)),
            "main",
            {"scale.fc1": "in", "scale.fc2": "scale", "head.2": "in", "main": "out"},
        ),
        (
            lambda: scaling(lambda self, x: self.value(x) * self.gate(x).sigmoid(), value=conv(3, 6), gate=conv(3, 6)),
            "value",
            {"gate": "out", "head.2": "in", "value": "out"},
        ),
        (lambda: scaling(square, main=conv(3, 6)), "main", {"head.2": "in", "main": "out"}),
        (
            lambda: scaling(swish, main=conv(3, 6), norm=nn.BatchNorm2d(6)),
            "main",
            {"head.2": "in", "main": "out", "norm": "both"},
        ),
        (
            excited_stream,
            "0",
            {"0": "out", "2.body.0": "in", "2.body.2": "out", "2.body.3.fc1": "in", "2.body.3.fc2": "scale", "5": "in"},
        ),
    ],
)
def test_only_what_lies_behind_the_other_factor_scales(network, layer, expected):
    traced = trace(network(), SHAPE)
    assert sides(traced, layer) == expected
    assert not {name for name, side in expected.items() if side == "scale"} & set(traced.roots())


# --- what cannot be removed ----------------------------------------------------------------------------------------


def with_function(function, **layers):
    """A convolution, what ``function`` makes of its six channels, and a classifier."""
    return Joined(lambda self, x: self.rest(function(self, self.first(x))), first=conv(3, 6), rest=down(6), **layers)


class Recurrent(nn.Module):
    """A recurrent layer over the rows of a map."""

    def __init__(self):
        super().__init__()
        self.conv, self.cell, self.fc = conv(3, 6), nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.cell(self.conv(x).mean(3).mT)[0][:, -1])


@pytest.mark.parametrize(
    ("network", "layer", "why"),
    [
        (lambda: with_function(lambda self, x: x - x.mean(1, keepdim=True)), "first", "network depends on all"),
        (lambda: with_function(lambda self, x: x.softmax(1)), "first", "network depends on all its units at once"),
        (lambda: with_function(lambda self, x: F.normalize(x, dim=1)), "first", "network depends on all its units"),
        (
            lambda: with_function(lambda self, x: x * self.scale, scale=nn.Parameter(torch.ones(6, 8, 8))),
            "first",
            "the parameter scale",
        ),
        (lambda: with_function(lambda self, x: x * self.scale, scale=nn.Parameter(torch.ones(6, 1, 1))), "first", None),
        (lambda: with_function(lambda self, x: x + self.plane, plane=nn.Parameter(torch.ones(8, 8))), "first", None),
        (lambda: with_function(lambda self, x: x * self.one(x).sigmoid(), one=conv(6, 1)), "first", None),
        (lambda: with_function(lambda self, x: x * self.one(x).sigmoid(), one=conv(6, 1)), "one", "several units"),
        (
            lambda: with_function(lambda self, x: F.conv2d(x, self.w), w=nn.Parameter(torch.ones(6, 6, 1, 1))),
            "first",
            "the network reads its units with a weight that it computes",
        ),
        (
            lambda: with_function(lambda self, x: (x.movedim(1, 3) @ self.w).movedim(3, 1), w=nn.Linear(6, 6).weight),
            "first",
            "a matrix that is no layer's weight",
        ),
        (
            lambda: with_function(
                lambda self, x: x * self.band(x.mean((2, 3))[:, None]).sigmoid()[0, 0, :, None, None],
                band=nn.Conv1d(1, 1, 3, padding=1),
            ),
            "first",
            r"band \(Conv1d\) depends on all its units at once",
        ),
        (Recurrent, "conv", r"slicing does not know \w+ in cell \(LSTM\)"),
        (
            lambda: Joined(
                lambda self, x: self.rest(torch.cat([self.first(x), x], 1).flip(1) * 2 + x.repeat(1, 3, 1, 1)),
                first=conv(3, 6),
                rest=down(9),
            ),
            "first",
            "channels of the image",
        ),
    ],
)
def test_why_units_are_fixed(network, layer, why):
    found = trace(network(), SHAPE).fixed(layer)
    if why is None:
        assert found is None
    else:
        with pytest.raises(RunFailed, match=why):
            raise RunFailed(found)


class Standardised(nn.Conv2d):
    """Makes its weight of all inputs of a filter (Qiao et al. 2019)."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, self.weight - mean, self.bias, self.stride, self.padding)


class SamePadding(nn.Conv2d):
    """Pads by hand and convolves with its own weight."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def test_a_convolution_with_a_forward_of_its_own():
    first = conv(3, 6), nn.ReLU()
    traced = trace(nn.Sequential(*first, Standardised(6, 5, 3, padding=1), *head(5)), SHAPE)
    assert "weight that it computes" in traced.fixed("0")
    assert traced.fixed("2") is None
    traced = trace(nn.Sequential(*first, SamePadding(6, 5, 3), *head(5)), SHAPE)
    assert sides(traced, "0") == {"0": "out", "2": "in"}
    assert sides(traced, "2") == {"2": "out", "5": "in"}


# --- networks that others cannot follow ----------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "layer", "reader"), HARD)
def test_shuffled_and_merged_channels(network, layer, reader):
    network = network()
    assert sides(trace(network, (3, 32, 32)), layer)[reader] == "in"
    assert layer in find_sites(network, (3, 32, 32))


# --- the copy ------------------------------------------------------------------------------------------------------


def test_traced_copy_keeps_names_and_replaces_untraceable_layers():
    network = residual("A")
    traced = trace(network, SHAPE)
    assert sides(traced, "0.0")["2.shortcut"] == "in"  # a pad, traced as a convolution
    reader = next(m for m in traced.members("0.0") if m.layer == "2.body.0")
    assert len(reader.units) == channels(network[2].body[0])[0]
    assert traced.layers == [name for name, _ in network.named_modules()]
    assert not isinstance(network[2].shortcut, nn.Conv2d)
