"""Methods that fail, each in another way; a data set and a network that do, in the same file."""

import numpy as np
import torch
from torch import nn

from bench.api import Method, importance, method
from bench.data.loading import dataset
from bench.models.build import architecture


@importance("divides")
def divides(site):
    """Fails in its own line."""
    return site.rows().sum(dim=1) / (1 // 0)


@method("feeds_nonsense")
class FeedsNonsense(Method):
    """Calls the network with something that is no batch of images."""

    starts_from = "base"

    def scores(self, ctx):
        ctx.forward(torch.zeros(2, 7, 3, 3))


@method("unknown_site")
class UnknownSite(Method):
    """Asks the context for what is not there."""

    starts_from = "base"

    def scores(self, ctx):
        return ctx.sites["nowhere"]


@method("gates_too_few")
class GatesTooFew(Method):
    """Gates a unit too few, which shows in the network's forward."""

    def on_batch_start(self, ctx):
        ctx.gate({name: torch.ones(site.n_units - 1) for name, site in ctx.sites.items()})


@method("no_penalty")
class NoPenalty(Method):
    """Returns no number."""

    def penalty(self, ctx):
        ctx.rate  # noqa: B018


@method("penalty_in_place")
class PenaltyInPlace(Method):
    """Its penalty cannot be differentiated."""

    def penalty(self, ctx):
        rows = next(iter(ctx.sites.values())).rows().exp()
        total = rows.exp().sum()
        rows.mul_(2)
        return (rows * rows).sum() + total


class Gives(nn.Module):
    """What a method inserts."""

    def forward(self, x):
        """Fails."""
        raise IndexError("nothing inserted")


@method("inserts")
class Inserts(Method):
    """Inserts a module that fails."""

    def prepare(self, ctx):
        self.layer = Gives()
        ctx.insert(next(iter(ctx.sites)), self.layer)


@dataset("breaks", shape=(1, 8, 8), classes=10, sizes=(200, 40))
def breaks(part, folder, download):
    """Cannot read its test images."""
    if part == "test":
        raise EOFError("the file ends early")
    labels = np.arange(200) % 10
    return np.random.default_rng(0).integers(0, 255, (200, 8, 8)).astype(np.uint8), labels


class OwnNetwork(nn.Module):
    """A network in the file of methods, which fails when it was called so often."""

    most = 1000

    def __init__(self, shape, num_classes):
        super().__init__()
        self.one, self.two = nn.Conv2d(shape[0], 6, 3), nn.Conv2d(6, 5, 3)
        self.fc, self.calls = nn.Linear(5, num_classes), 0

    def forward(self, x):
        """Logits."""
        self.calls += 1
        if self.calls > self.most:
            raise RuntimeError("no more")
        return self.fc(self.two(self.one(x).relu()).relu().mean((2, 3)))


@architecture("own_network")
def own_network(shape, num_classes):
    """Fails late."""
    return OwnNetwork(shape, num_classes)
