"""The optimizer: zero momenta, layers without gradient in some batches, resumed in between."""

import pytest
import torch
from support.plans import carry_out, check_resume
from torch import nn

from bench.api import Method, Phase
from bench.spec.recipe import Stage, load_recipe
from bench.training.optimizer import make_optimizer

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("settings", [{}, {"nesterov": "true"}, {"weight_decay": "0"}, {"momentum": "0.5"}])
def test_momenta_of_zero_are_bit_equal_to_none(settings):
    recipe = load_recipe("digits", settings)
    ours, plain = (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 5)) for _ in range(2)
    )
    for network in (ours, plain):
        network[0].weight = nn.Parameter(network[0].weight.to(memory_format=torch.channels_last))
    plain.load_state_dict(ours.state_dict())
    optimizer = make_optimizer(ours.parameters(), Stage(1, 0.1), recipe)
    other = torch.optim.SGD(
        plain.parameters(),
        lr=0.1,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    for _ in range(4):
        x = torch.randn(7, *SHAPE)
        for network, sgd in ((ours, optimizer), (plain, other)):
            sgd.zero_grad()
            network(x).square().mean().backward()
            sgd.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    momenta = [[s["momentum_buffer"] for s in sgd.state.values()] for sgd in (optimizer, other)]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_neither_momentum_of_zero_nor_integers_have_a_state():
    recipe = load_recipe("digits", {"momentum": "0", "nesterov": "false"})
    assert not make_optimizer(nn.Linear(2, 2).parameters(), Stage(1, 0.1), recipe).state
    table = nn.Parameter(torch.arange(3), requires_grad=False)
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([table, weight], Stage(1, 0.1), load_recipe("digits", {}))
    assert [p is weight for p in optimizer.param_groups[0]["params"]] == [True]


# --- layers without gradient ---------------------------------------------------------------------------------------


class Parts(nn.Module):
    """A stem, three parts of which each batch uses some, a head; subclasses say which."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.parts = nn.ModuleList(self.part() for _ in range(3))
        self.head = nn.Linear(6, 10)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def part():
        return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1))

    def used(self):
        """Indices of the parts of this batch."""
        raise NotImplementedError

    def forward(self, x):
        x = self.stem(x)
        parts = self.used() if self.training else range(3)
        if self.training:
            self.batches += 1
        for k in parts:
            x = (x + self.parts[k](x)).relu()
        return self.head(x.mean((2, 3)))


class AtRandom(Parts):
    """Parts at random, as stochastic depth does."""

    def used(self):
        return [k for k in range(3) if torch.rand(()) > 0.5]


class LatePart(Parts):
    """The last part from the second epoch on: its first gradient comes after a checkpoint."""

    def used(self):
        return range(3) if self.batches >= 3 else range(2)


class EarlyExit(Parts):
    """Every other batch leaves after the first part."""

    def used(self):
        return range(1 + 2 * (int(self.batches) % 2))


class NeverUsed(Parts):
    """A part that training does not reach."""

    def used(self):
        return range(2)


class Every(Parts):
    """All parts in every batch."""

    def used(self):
        return range(3)


class Unfreezing(Method):
    """Trains the head alone at first, and one layer more in every epoch."""

    def on_batch_start(self, ctx):
        network = ctx._model.network
        for layer in (network.stem, *network.parts)[: 3 - ctx.epoch]:
            layer.requires_grad_(False)
        for layer in (network.stem, *network.parts)[3 - ctx.epoch :]:
            layer.requires_grad_(True)


class Alternating(Method):
    """Freezes the first part in every other step."""

    def on_batch_start(self, ctx):
        ctx._model.network.parts[0].requires_grad_(ctx.step % 2 == 0)


@pytest.mark.parametrize(
    ("arch", "method", "still"),
    [
        *((arch, Method, set()) for arch in (AtRandom, LatePart, EarlyExit)),
        (NeverUsed, Method, {"parts.2"}),
        (Every, Unfreezing, {"stem.0", "stem.1"}),
        (Every, Alternating, set()),
    ],
)
def test_layer_without_gradient_trains_and_resumes(make_training, tmp_path, arch, method, still):
    def start(checkpoint):
        torch.manual_seed(0)
        return make_training(method(), arch=arch(), shape=SHAPE, checkpoint=checkpoint)

    initial = dict(start(None).model.network.named_parameters())
    trained = check_resume(start, (Phase(3),), tmp_path / "c.pt").model.network
    moved, unmoved = set(), set()
    for name, p in trained.named_parameters():
        (unmoved if torch.equal(p, initial[name]) else moved).add(".".join(name.split(".")[:2]))
    assert unmoved == still
    assert not moved & still


def test_late_first_gradient_steps_as_if_the_layer_were_new(make_training, tmp_path):
    """Its first step has no momentum of the batches that left it out, and no decay either."""
    steps = []

    class Watching(Method):
        def on_step_end(self, ctx):
            weight = ctx._model.network.parts[2][0].weight
            moment = ctx._model.optimizer.state[weight]["momentum_buffer"].clone()
            steps.append((weight.detach().clone(), weight.grad, moment))

    training = make_training(Watching(), arch=LatePart(), shape=SHAPE, nesterov=False)
    start = training.model.network.parts[2][0].weight.detach().clone()
    carry_out(training, (Phase(3),))
    assert len(steps) == 9
    for weight, grad, moment in steps[:3]:
        assert grad is None
        assert torch.equal(weight, start)
        assert not moment.any()
    _, grad, moment = steps[3]
    torch.testing.assert_close(moment, grad + training.recipe.weight_decay * start)
