"""Learn & Drop and its control; numbers are those of the tests (g) of section 6 of methods_related.md."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from support.networks import GREY, three_sites
from support.plans import carry_out, check_resume, same, state_of
from support.whole_runs import verified, without_budget

from bench.api import Phase
from bench.errors import UsageError
from bench.measure import flops
from bench.runs.method_factory import make_method
from methods.freezing import FreezeSchedule, LearnAndDrop

LAYERS = ("0", "4", "7", "12")
"""Convolutions and the head of three_sites, in the order in which they run."""


def start(make_training, cls=LearnAndDrop, checkpoint=None, **options):
    torch.manual_seed(0)
    return make_training(cls(cls.Config(**options)), arch=three_sites(), shape=GREY, checkpoint=checkpoint)


def decisions(weights, tau, patience, momentum):
    """Layers that are done after each epoch, by the equations, float64: a list of numbers of layers."""
    mean, calm, done = [None] * len(LAYERS), [0] * len(LAYERS), []
    for before, now in pairwise(weights):
        for k, (a, b) in enumerate(zip(now, before)):
            c = np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-12)
            mean[k] = c if mean[k] is None else momentum * mean[k] + (1 - momentum) * c
            calm[k] = calm[k] + 1 if mean[k] < tau else 0
        count = 0
        while count < len(LAYERS) and calm[count] >= patience:
            count += 1
        done.append(count)
    return done


@pytest.mark.parametrize(
    ("tau", "patience", "momentum"), [(0.05, 1, 0.0), (0.08, 2, 0.5), (1.0, 1, 0.9), (0.0, 1, 0.5)]
)
def test_layers_are_frozen_by_the_equations(make_training, monkeypatch, tau, patience, momentum):
    """The oracle sees the weights after each epoch and nothing else."""
    training = start(make_training, tau=tau, patience=patience, momentum=momentum)
    weights, network = [], training.model.network

    def note():
        weights.append([network.get_submodule(n).weight.detach().double().numpy().copy().ravel() for n in LAYERS])

    end = LearnAndDrop.on_epoch_end
    monkeypatch.setattr(LearnAndDrop, "on_epoch_end", lambda self, ctx: (note(), end(self, ctx)))
    note()
    carry_out(training, (Phase(5), Phase(1, "finetune")))
    expected = decisions(weights, tau, patience, momentum)
    assert [entry["calm"] for entry in training.curve] == expected
    frozen = [
        max((k for k in range(count) if k < 3), default=-1) for count in expected
    ]  # never the head: all is frozen
    names = [LAYERS[k] for k in frozen if k >= 0]
    assert [entry["upto"] for entry in training.model.frozen.log] == list(dict.fromkeys(names))
    assert all(a <= b for a, b in pairwise(frozen))


@pytest.mark.parametrize("cache", [0, 1, 2])
def test_mr_6g2_frozen_layers_stay_to_the_bit(make_training, monkeypatch, cache):
    """MR 6(g)2: from the epoch in which they are frozen, over both phases."""
    training, states = start(make_training, tau=0.08, patience=1, cache=cache), []
    end = LearnAndDrop.on_epoch_end

    def watched(self, ctx):
        end(self, ctx)
        states.append((set(ctx._model.frozen.parameters), state_of(ctx._model.network)))

    monkeypatch.setattr(LearnAndDrop, "on_epoch_end", watched)
    carry_out(training, (Phase(4), Phase(2, "finetune")))
    assert states[0][0] or states[1][0]
    final = state_of(training.model.network)
    for frozen, state in states:
        assert all(torch.equal(state[name], final[name]) for name in frozen)
        others = set(dict(training.model.network.named_parameters())) - frozen
        assert state is states[-1][1] or any(not torch.equal(state[name], final[name]) for name in others)


def test_mr_6g3_ledger_is_the_count_by_hand_and_never_above_dense_and_a_pass(make_training):
    """MR 6(g)3."""
    training = start(make_training, tau=0.08, patience=1)
    carry_out(training, (Phase(4), Phase(2, "finetune")))
    total, images = flops.count(three_sites(), GREY).total, 96
    log, steps, kept = training.model.frozen.log, 0, 0
    assert log
    for phase, epochs in ((0, 4), (1, 2)):
        for epoch in range(epochs):
            part = max((e["macs"] for e in log if (e["phase"], e["epoch"]) <= (phase, epoch)), default=0)
            steps, kept = steps + 3 * images * (total - part), max(kept, part)
    assert training.step_macs == steps
    assert training.model.ledger.macs_by["cache"] == images * kept
    assert training.train_macs <= 3 * 6 * images * total + images * kept


class Compared(LearnAndDrop):
    """Compares the logits of each step that took kept outputs with those of all layers: frozen ones in eval mode."""

    compared = 0

    def on_backward_end(self, ctx):
        if log := ctx._model.frozen.log:
            network, cut = ctx._model.network, int(log[-1]["upto"]) + 1
            with torch.no_grad(), ctx.probe():
                kept = network[:cut](ctx.x)
            with torch.no_grad(), ctx.probe(batch_statistics=True):
                assert torch.allclose(network[cut:](kept), ctx.logits, atol=1e-5)
            self.compared += 1


def test_mr_6g1_steps_with_kept_outputs_are_those_of_all_layers(make_training):
    """MR 6(g)1: prefix o suffix in each such step; the network at the end is whole, and learns everywhere again."""
    training = start(make_training, Compared, tau=0.08, patience=1, cache=2)
    carry_out(training, (Phase(4),))
    assert training.method.compared >= 3
    assert state_of(training.model.network).keys() == state_of(three_sites()).keys()
    assert all(p.requires_grad for p in training.model.network.parameters())


@pytest.mark.parametrize("cls", [LearnAndDrop, FreezeSchedule])
def test_resumes_to_the_bit(make_training, tmp_path, cls):
    options = {"tau": 0.08, "patience": 1} if cls is LearnAndDrop else {"start": 0.25}
    plan = (Phase(4), Phase(2, "finetune"))
    whole = check_resume(lambda c: start(make_training, cls, c, **options), plan, tmp_path / "c.pt")
    assert whole.model.frozen.log and not whole.model.frozen


def test_calm_epochs_are_counted_from_zero_after_a_move(make_training):
    class Scripted(LearnAndDrop):
        values = iter((1.0, 1.01, 2.01, 2.02, 2.03))

        def weights(self, ctx):
            value = next(self.values)
            return [torch.tensor([value]), *(torch.tensor([10.0**value]) for _ in LAYERS[1:])]

    training = start(make_training, Scripted, tau=0.02, patience=2, momentum=0.0, cache=0)
    carry_out(training, (Phase(4),))
    assert [entry["calm"] for entry in training.curve] == [0, 0, 0, 1]


def test_schedule_freezes_by_the_clock(make_training):
    """One, two and all of four layers, but for the head: something is left to train."""
    torch.manual_seed(0)
    method = FreezeSchedule(FreezeSchedule.Config(start=0.25, cache=0))
    training = make_training(method, arch=three_sites(), shape=GREY, train__epochs=4)
    carry_out(training, (Phase(4),))
    assert [(e["epoch"], e["upto"]) for e in training.model.frozen.log] == [(2, "0"), (3, "4"), (4, "7")]


def test_without_calm_layers_it_is_plain_training(make_training):
    one, two = start(make_training, tau=0.0), make_training(arch=fresh(), shape=GREY)
    for training in (one, two):
        carry_out(training, (Phase(2),))
    assert same(state_of(one.model.network), state_of(two.model.network))


def fresh():
    torch.manual_seed(0)
    return three_sites()


@pytest.mark.parametrize("name", ["learn_and_drop", pytest.param("freeze_schedule", marks=pytest.mark.slow)])
def test_run_on_a_residual_network_freezes_at_the_ends_of_blocks(name, make_run):
    """Skips pass around the layers of a block, so that their outputs alone cannot be kept."""
    options = {"tau": "1", "patience": "1"} if name == "learn_and_drop" else {"start": "0.0"}
    made = without_budget(make_run(name, "resnet20", "tiny8", train__epochs=3, options=options))
    spec, run_options = made
    done = verified((spec, run_options))
    ends = [entry.upto for entry in done.training.freeze]
    assert ends and done.training.macs_by["cache"] > 0
    assert done.structure.units_after == done.structure.units_before
    dense = 3 * done.training.examples * done.cost.dense.macs
    assert done.training.macs < dense + done.training.macs_by["cache"]
    assert done.training.extras is not None and done.training.epochs == 4


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("learn_and_drop", {"tau": "-1"}, "tau -1.0: 0 or more"),
        ("learn_and_drop", {"momentum": "1"}, "momentum 1.0: at least 0 and below 1"),
        ("learn_and_drop", {"patience": "0"}, "patience 0: 1 or more"),
        ("freeze_schedule", {"start": "1"}, "start 1.0: at least 0 and below 1"),
        ("freeze_schedule", {"cache": "-1"}, "cache -1: 0 or more"),
    ],
)
def test_bad_options_are_answered_with_the_range(name, options, said):
    with pytest.raises(UsageError, match=said):
        make_method(name, options)
