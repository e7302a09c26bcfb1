"""The optimizer: zero momenta, layers without gradient in some batches, resumed in between."""

import pytest
import torch
from support.plans import carry_out
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


def test_without_momentum_there_is_no_state():
    recipe = load_recipe("digits", {"momentum": "0", "nesterov": "false"})
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), Stage(1, 0.1), recipe)
    assert not optimizer.state


def test_integer_parameter_is_left_out():
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


class StochasticDepth(Parts):
    """Parts at random."""

    def used(self):
        return [k for k in range(3) if torch.rand(()) > 0.5]


class Experts(Parts):
    """One part at random."""

    def used(self):
        return [int(torch.randint(3, ()))]


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


def finish(training, stop_after=None):
    """Train three epochs; stop after so many checkpoints."""
    save, saves = training.save, []

    def counting(position):
        save(position)
        saves.append(position)
        if len(saves) == stop_after:
            raise InterruptedError

    training.save = counting
    try:
        carry_out(training, (Phase(3),))
    except InterruptedError:
        return state_of(training)
    return state_of(training)


def state_of(training):
    return {k: v.clone() for k, v in training.model.network.state_dict().items()}


def resumed(make_training, tmp_path, arch, make_method=Method):
    """Weights of an uninterrupted training, and of one that was stopped after each of its epochs."""

    def start(file):
        torch.manual_seed(0)
        return make_training(make_method(), arch=arch(), shape=SHAPE, checkpoint=tmp_path / file)

    whole = finish(start("whole.pt"))
    for stop in range(2):
        training = start("part.pt")
        assert training.resume() == (stop > 0)
        finish(training, 1)
    training = start("part.pt")
    assert training.resume()
    return whole, finish(training)


@pytest.mark.parametrize("arch", [StochasticDepth, Experts, LatePart, EarlyExit, NeverUsed])
def test_layer_without_gradient_trains_and_resumes(make_training, tmp_path, arch):
    torch.manual_seed(0)
    initial = arch().state_dict()
    whole, again = resumed(make_training, tmp_path, arch)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    moved = {k.split(".")[1] for k in whole if k.startswith("parts.") and not torch.equal(whole[k], initial[k])}
    assert moved == ({"0", "1"} if arch is NeverUsed else {"0", "1", "2"})


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
    finish(training)
    assert len(steps) == 9
    for weight, grad, moment in steps[:3]:
        assert grad is None
        assert torch.equal(weight, start)
        assert not moment.any()
    _, grad, moment = steps[3]
    torch.testing.assert_close(moment, grad + training.recipe.weight_decay * start)


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


@pytest.mark.parametrize("method", [Unfreezing, Alternating])
def test_layer_frozen_for_some_steps_trains_and_resumes(make_training, tmp_path, method):
    class All(Parts):
        def used(self):
            return range(3)

    torch.manual_seed(0)
    initial = All().state_dict()
    whole, again = resumed(make_training, tmp_path, All, method)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    still = {k for k in whole if "running" not in k and torch.equal(whole[k], initial[k])}
    assert still == (
        {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"} if method is Unfreezing else set()
    )
