"""The prefix of a network: what a forward pass is done with once a module has run, and where there is none."""

import pytest
import torch
from support.networks import SHAPE, conv, head, mlp, residual
from torch import nn
from torch.nn.utils import parametrizations

from bench.errors import RunFailed
from bench.models.layers import Attention
from bench.pruning.prefix import prefix


class Tokens(nn.Module):
    """Owns a class token and positions itself, and scales what its last layer reads."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.positions, self.late = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(8))
        self.first, self.second, self.classify = Attention(8, 2), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.classify(self.second(x + self.first(x)[0]).mean(1) * self.late)


class Branches(nn.Module):
    """Two convolutions of one input, joined; then another."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.last = conv(3, 4), conv(4, 4), conv(4, 4), nn.Sequential(*head(8))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.last(torch.cat([self.left(x), self.right(x)], dim=1))


class Written(Branches):
    """The same, joined by writing into views of one tensor."""

    def forward(self, x):
        x = self.stem(x)
        both = x.new_zeros(len(x), 8, *x.shape[2:])
        both[:, :4] = self.left(x)
        both[:, 4:].copy_(self.right(x))
        return self.last(both)


class Repeated(nn.Module):
    """A layer that runs twice, with another layer in between or without."""

    def __init__(self, between=True):
        super().__init__()
        self.stem, self.twice, self.between, self.last = conv(3, 4), conv(4, 4), conv(4, 4), nn.Sequential(*head(4))
        self.has_between = between

    def forward(self, x):
        x = self.twice(self.stem(x))
        x = self.twice(self.between(x) if self.has_between else torch.relu(x))
        return self.last(x if self.has_between else self.between(x))


class Tied(nn.Module):
    """Its last layer has the weight of its first."""

    def __init__(self):
        super().__init__()
        self.flat, self.first, self.last = nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.first(self.flat(x))))


def normed_weight():
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 4)), nn.ReLU(), parametrizations.spectral_norm(conv(4, 4))
    )


def of(network, upto):
    """Parameters of the prefix, in the network's order."""
    found = prefix(network.eval(), upto, torch.randn(2, *SHAPE))
    return [name for name, _ in network.named_parameters() if name in found.parameters]


BOTH = [f"{layer}.{name}" for layer in ("stem", "left", "right") for name in ("weight", "bias")]
FOUND = {
    "chain": (mlp, "3", ["1.weight", "1.bias", "3.weight", "3.bias"]),
    "inside a residual block": (
        lambda: residual("A"),
        "1.body.0",
        ["0.0.weight", "0.1.weight", "0.1.bias", "1.body.0.weight"],
    ),
    "tokens and positions": (
        Tokens,
        "first.qkv",
        ["token", "positions", "patches.weight", "patches.bias", "first.qkv.weight", "first.qkv.bias"],
    ),
    "last of two branches": (Branches, "right", BOTH),
    "branches written into views": (Written, "right", BOTH),
    "twice in a row": (
        lambda: Repeated(between=False),
        "twice",
        ["stem.weight", "stem.bias", "twice.weight", "twice.bias"],
    ),
    "computed weight": (
        normed_weight,
        "0",
        ["0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"],
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_prefix_is_what_ran_up_to_the_module(case):
    network, upto, names = FOUND[case]
    assert of(network(), upto) == names


REFUSED = {
    "no such module": (Branches, "steam", r"no module of this name; it has stem"),
    "nothing like it": (Branches, "xyz", r"no module of this name; it has stem, left, right"),
    "never runs": (Branches, "unused", "does not run in a forward pass"),
    "open branch": (Branches, "left", "right runs in parallel to it"),
    "open branch written into a view": (Written, "left", "right runs in parallel to it"),
    "open shortcut": (lambda: residual("B"), "2.body", r"2\.shortcut\.0 runs in parallel to it"),
    "another layer in between": (Repeated, "twice", "it runs 2 times, and between runs in between"),
    "runs again afterwards": (Repeated, "between", "twice runs before its end and after it"),
    "tied weights": (Tied, "first", "first runs before its end and after it"),
    "the last layer": (mlp, "5", "nothing would be left to train"),
    "the whole network": (mlp, "", "nothing would be left to train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_prefix_is_refused_in_one_line(case):
    network, upto, why = REFUSED[case]
    with pytest.raises(RunFailed, match=why) as error:
        of(network(), upto)
    assert str(error.value).startswith(f"ctx.freeze('{upto}'): ")
    assert "\n" not in str(error.value)
    assert error.value.blame == "method"


def test_prefix_leaves_no_hook_and_no_change():
    network = residual("A").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    of(network, "1")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
