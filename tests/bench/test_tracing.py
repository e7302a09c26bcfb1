"""What goes with a layer's channels: torch-pruning's own groups, and where ours know more."""

import pytest
from networks import CASES, SHAPE, Excitation, conv, excited, excited_stream, head, made, mlp, residual
from torch import nn
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import SwinTransformer

from bench.discovery import find_sites
from bench.slicing import channels
from bench.tracing import Member, Untraceable, trace


def sides(traced, layer):
    """Side by layer of the members, in alphabetical order."""
    return {member.layer: member.side for member in sorted(traced.members(layer), key=lambda m: m.layer)}


def theirs(traced, layer):
    """Torch-pruning's group: (layer, whether at its input) -> pairs of position and unit."""
    names = {module: name for name, module in traced._layers.items()}
    found = {}
    for item in traced.group(layer).items:
        if item.dep.target.module in names:
            at_input = not traced.graph.is_out_channel_pruning_fn(item.dep.handler)
            pairs = found.setdefault((names[item.dep.target.module], at_input), set())
            pairs.update(zip(item.idxs, item.root_idxs, strict=True))
    return found


@pytest.mark.parametrize("case", CASES)
def test_members_are_torch_prunings_group(case):
    """In networks that it can follow, our walk finds what torch-pruning's own finds."""
    traced = trace(made(case), SHAPE)
    for layer in traced.roots():
        ours = {}
        for member in traced.members(layer):
            pairs = ours.setdefault((member.layer, member.side == "in"), set())
            pairs.update(zip(member.positions, member.units, strict=True))
        assert ours == theirs(traced, layer)


def test_members_of_a_chain():
    traced = trace(made("conv_bn"), SHAPE)
    whole = list(range(6))
    assert sorted(traced.members("0"), key=lambda m: m.layer) == [
        Member("0", "out", whole, whole),
        Member("1", "both", whole, whole),
        Member("3", "in", whole, whole),
    ]
    assert traced.roots() == ["0", "3", "8"]


def test_members_of_a_flattened_map_have_several_positions_a_unit():
    traced = trace(made("conv_flatten"), SHAPE)
    reader = next(m for m in traced.members("3") if m.side == "in")
    assert reader == Member("7", "in", list(range(20)), [k // 4 for k in range(20)])


def test_a_layer_that_makes_the_output_has_no_members():
    with pytest.raises(Untraceable, match="network's output"):
        trace(nn.Sequential(*mlp(), nn.Sigmoid()), SHAPE).members("5")


# --- what only scales ------------------------------------------------------------------------------------------


class Scaling(nn.Module):
    """Layers in the order given, and a classifier of six channels."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nn.Sequential(*head(6))


class DefinedFirst(Scaling):
    def __init__(self):
        super().__init__(excitation=Excitation(6, 3), main=conv(3, 6))

    def forward(self, x):
        return self.head(self.excitation(self.main(x)))


class GatedUnit(Scaling):
    def __init__(self):
        super().__init__(value=conv(3, 6), gate=conv(3, 6))

    def forward(self, x):
        return self.head(self.value(x) * self.gate(x).sigmoid())


class Squared(Scaling):
    def __init__(self):
        super().__init__(main=conv(3, 6))

    def forward(self, x):
        x = self.main(x)
        return self.head(x * x)


class Swish(Scaling):
    """Multiplied with what a norm and a sigmoid make of it: no layer lies between."""

    def __init__(self):
        super().__init__(main=conv(3, 6), norm=nn.BatchNorm2d(6))

    def forward(self, x):
        x = self.main(x)
        return self.head(x * self.norm(x).sigmoid())


class SharedActivation(Scaling):
    """A residual block with an excitation whose one ReLU stands before and behind it, as in most code."""

    def __init__(self):
        super().__init__(stem=conv(3, 6), first=conv(6, 4), second=conv(4, 6), relu=nn.ReLU())
        self.excitation = Excitation(6, 3)

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.head(self.relu(self.excitation(self.second(self.relu(self.first(x)))) + x))


@pytest.mark.parametrize(
    ("network", "layer", "expected"),
    [
        (
            SharedActivation,
            "stem",
            {"excitation.fc1": "in", "excitation.fc2": "scale", "first": "in", "head.2": "in"}
            | {"second": "out", "stem": "out"},
        ),
        (excited, "0", {"0": "out", "1": "both", "3.fc1": "in", "3.fc2": "scale", "4": "in"}),
        (DefinedFirst, "main", {"excitation.fc1": "in", "excitation.fc2": "scale", "head.2": "in", "main": "out"}),
        (GatedUnit, "value", {"gate": "out", "head.2": "in", "value": "out"}),
        (Squared, "main", {"head.2": "in", "main": "out"}),
        (Swish, "main", {"head.2": "in", "main": "out", "norm": "both"}),
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


# --- walks that do not end -----------------------------------------------------------------------------------------


def test_a_mapping_that_goes_round_in_circles_ends():
    """Swin's patch merging (Liu et al. 2021) puts slices of a map side by side, which torch-pruning never stops
    dividing."""
    traced = trace(SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=4), (3, 16, 16))
    with pytest.raises(Untraceable, match="cannot follow its units"):
        traced.members("features.2.reduction")
    assert sides(traced, "features.3.0.mlp.0") == {"features.3.0.mlp.0": "out", "features.3.0.mlp.3": "in"}


def shuffling():
    """Three blocks deep, torch-pruning divides by zero where a channel shuffle begins."""
    return ShuffleNetV2([3, 1, 1], [8, 16, 32, 32, 32], num_classes=4)


def merging():
    """Behind eight blocks torch-pruning adds None to a number where patches are merged."""
    return SwinTransformer([4, 4], 8, [1, 8, 1], [2, 2, 2], [2, 2], num_classes=4)


@pytest.mark.parametrize(
    ("network", "layer", "reader"),
    [
        (shuffling, "stage2.1.branch2.0", "stage2.1.branch2.5"),
        (merging, "features.3.5.mlp.0", "features.3.5.mlp.3"),
    ],
)
def test_one_node_without_a_mapping_leaves_the_others(network, layer, reader):
    network = network()
    assert sides(trace(network, (3, 32, 32)), layer)[reader] == "in"
    assert layer in find_sites(network, (3, 32, 32))


# --- the copy ------------------------------------------------------------------------------------------------------


def test_the_copy_is_named_as_the_original_and_stands_in_for_what_cannot_be_traced():
    network = residual("A")
    traced = trace(network, SHAPE)
    assert sides(traced, "0.0")["2.shortcut"] == "in"  # a pad, traced as a convolution
    reader = next(m for m in traced.members("0.0") if m.layer == "2.body.0")
    assert len(reader.units) == channels(network[2].body[0])[0]
    assert isinstance(traced.network[2].shortcut, nn.Conv2d)
    assert not isinstance(network[2].shortcut, nn.Conv2d)
