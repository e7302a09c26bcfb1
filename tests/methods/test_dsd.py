"""Dense, sparse, dense; numbers are those of the tests (g) of the specification's section 5."""

import numpy as np
import pytest
import torch
from support.block_networks import Scaled
from support.networks import conv, head
from support.plans import carry_out, check_resume, prune
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.errors import RunFailed
from bench.runs.execute import execute
from bench.training.plan import check_plan
from methods.dsd import DSD, DSDFilter


def small():
    torch.manual_seed(3)
    body = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


def state(network):
    return {n: t.clone() for n, t in network.state_dict().items()}


class Noted(DSD):
    """Notes the weights after every step and around every start of a phase."""

    steps, starts = (), ()

    def on_phase_start(self, ctx):
        before = state(ctx._model.network)
        super().on_phase_start(ctx)
        self.starts = (*self.starts, (before, state(ctx._model.network)))

    def on_step_end(self, ctx):
        self.steps = (*self.steps, (ctx.phase, {n: p.detach().clone() for n, p in ctx.parameters.items()}))


def masked(weight, sparsity):
    """Entries below the k-th largest of their layer, ``M = 1[|w| >= k-th largest]``, by numpy."""
    size = np.sort(np.abs(weight.numpy()).ravel())
    return np.abs(weight.numpy()) < size[int(sparsity * size.size + 1e-9)]


@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_5g1_masked_weights_are_zero_after_every_sparse_step(make_training, sparsity):
    """MR 5(g)1: with momentum and weight decay on; the others, and all in the dense phase, are trained."""
    method = Noted(DSD.Config(sparsity=sparsity))
    training = make_training(method, arch=small(), finetune__epochs=4)
    start = state(training.model.network)
    carry_out(training, method.plan(training.ctx))
    assert training.recipe.momentum > 0 < training.recipe.weight_decay
    weights = [name for name, p in training.ctx.parameters.items() if p.dim() > 1]
    assert weights == ["0.weight", "3.weight", "8.weight"]
    for name in weights:
        gone = torch.from_numpy(masked(start[name], sparsity))
        assert int(gone.sum()) == int(sparsity * gone.numel() + 1e-9)
        for phase, now in method.steps:
            assert (now[name][gone] == 0).all() == (phase == 0)
            assert (now[name][~gone] != start[name][~gone]).all()


def test_what_is_no_layer_s_weight_is_left_alone(make_ctx):
    """ConvNeXt's scales are ``[channels, 1, 1]``."""
    ctx = make_ctx(arch=nn.Sequential(conv(1, 6), Scaled(6, 7), *head(6, 10)))
    names = {id(p): name for name, p in ctx.parameters.items()}
    found = [names[id(w)] for w in DSD().weights(ctx)]
    assert found == ["0.weight", "1.inner.0.weight", "1.inner.2.weight", "4.weight"]
    assert ctx.parameters["1.scale"].dim() == 3


def test_5g2_released_weights_are_those_of_before_or_zero(make_training):
    """MR 5(g)2: bit for bit those at the end of the first phase; or zero, and then the network is the same."""
    for release in ("saved", "zero"):
        method = Noted(DSD.Config(release=release))
        training = make_training(method, arch=small(), finetune__epochs=2)
        start = state(training.model.network)
        carry_out(training, method.plan(training.ctx))
        (_, sparse), (before, after) = method.starts
        for name in ("0.weight", "3.weight", "8.weight"):
            gone = sparse[name] != start[name]
            assert torch.equal(after[name][gone], start[name][gone] if release == "saved" else 0 * start[name][gone])
            assert torch.equal(after[name][~gone], before[name][~gone])


def test_5g3_without_sparsity_it_is_plain_training_to_the_bit(make_training):
    """MR 5(g)3: with the same rates; and rate 1 is that of the recipe (contract 2.5, rate)."""

    def trained(method, plan):
        training = make_training(method, arch=small(), finetune__epochs=4)
        carry_out(training, plan)
        return state(training.model.network)

    plan = (Phase(2, "finetune"), Phase(2, "finetune", rate=0.1))
    plain = trained(Method(), plan)
    found = trained(DSD(DSD.Config(sparsity=0.0)), plan)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert not torch.equal(trained(DSD(), plan)["0.weight"], plain["0.weight"])
    one, none = (trained(Method(), (Phase(2, "finetune", **rate),)) for rate in ({"rate": 1.0}, {}))
    assert all(torch.equal(one[name], none[name]) for name in one)


def test_rate_of_a_phase_is_a_factor_on_the_recipe_s(make_training):
    """Contract 2.5: of one step of plain gradient descent the change is in proportion."""
    changes = []
    for rate in (1.0, 0.25):
        training = make_training(arch=small(), batch_size=96, momentum=0, nesterov="false", weight_decay=0)
        before = state(training.model.network)["0.weight"]
        carry_out(training, (Phase(1, rate=rate),))
        changes.append(training.model.network[0].weight.detach() - before)
    assert torch.allclose(changes[1], 0.25 * changes[0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_phase_with_an_impossible_rate_is_refused(rate):
    with pytest.raises(RunFailed, match=f"Phase of rate {rate}: above 0"):
        check_plan((Phase(1, rate=rate), PRUNE), prunes=True)
    assert check_plan((Phase(1, rate=0.5), PRUNE), prunes=True)


def test_resumed_after_every_epoch_it_is_the_same(make_training, tmp_path):
    def start(file):
        return make_training(DSD(), arch=small(), checkpoint=file, finetune__epochs=4)

    check_resume(start, DSD().plan(start(None).ctx), tmp_path / "state.pt")


def test_run_has_everyones_epochs_and_stays_dense(make_run):
    done = execute(*make_run("dsd", finetune__epochs=3))
    assert done.cost.final == done.cost.dense
    assert done.training.epochs == 4
    assert [(phase.epochs, phase.rate) for phase in done.training.plan] == [(2, None), (1, 0.1)]


# --- filters ---------------------------------------------------------------------------------------------------------


class NotedFilters(DSDFilter):
    """Notes parameters after every step, and at every start of a phase."""

    steps, starts = (), ()

    def on_phase_start(self, ctx):
        before = state(ctx._model.network)
        super().on_phase_start(ctx)
        self.starts = (*self.starts, (before, {n: m.clone() for n, m in ctx.masks.items()}, state(ctx._model.network)))

    def on_step_end(self, ctx):
        with ctx.probe(), ctx.activations() as found:
            ctx.forward(ctx.x)
        self.steps = (*self.steps, (ctx.phase, {n: a.abs().amax(dim=(0, 2, 3)) for n, a in found.items()}))


def test_5g1_what_readers_read_of_masked_units_is_zero_in_the_sparse_phases(make_training):
    """MR 5(g)1, and the units are the smallest by the l1 norm."""
    training = make_training(method := NotedFilters(), arch=small(), keep=0.4, finetune__epochs=3)
    start, plan = state(training.model.network), method.plan(training.ctx)
    assert plan == (Phase(1, "finetune"), Phase(1, "finetune", rate=0.1), Phase(1, "finetune"), PRUNE)
    found = method.scores(training.ctx)["0"].numpy()
    carry_out(training, plan, prune)
    first, last = method.starts[0][1], method.starts[2][1]
    sizes = np.abs(start["0.weight"].double().numpy()).sum(axis=(1, 2, 3))
    assert np.allclose(found, sizes, rtol=1e-5)
    assert sizes[first["0"].numpy()].min() > sizes[~first["0"].numpy()].max()
    for phase, read in method.steps:
        for name, largest in read.items():
            gone = ~{0: first, 1: {n: torch.ones_like(m) for n, m in first.items()}, 2: last}[phase][name]
            assert (largest[gone] == 0).all()
    assert all(torch.equal(training.model.sliced_by[name], last[name].cpu()) for name in last)


def test_5g2_released_units_have_all_their_parameters_of_the_first_phase(make_training):
    """MR 5(g)2: weights, gamma, beta and the columns that read them, bit for bit."""
    training = make_training(method := NotedFilters(), arch=small(), keep=0.4, finetune__epochs=3)
    start = state(training.model.network)
    carry_out(training, (Phase(1, "finetune"), Phase(1, "finetune", rate=0.1)))
    gone = ~method.starts[0][1]["0"]
    _, masks, now = method.starts[1]
    assert all(mask.all() for mask in masks.values())
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert torch.equal(now[name][gone], start[name][gone])
        assert not torch.equal(now[name][~gone], start[name][~gone])
    assert torch.equal(now["3.weight"][:, gone], start["3.weight"][:, gone])
    assert not torch.equal(training.model.network.state_dict()["0.weight"][gone], start["0.weight"][gone])  # regrown


def test_5g3_with_the_whole_budget_it_is_plain_training_to_the_bit(make_training):
    plan = (Phase(1, "finetune"), Phase(1, "finetune", rate=0.1), Phase(1, "finetune"))
    states = []
    for method in (DSDFilter(), Method()):
        training = make_training(method, arch=small(), keep=1.0, finetune__epochs=3)
        carry_out(training, plan)
        states.append(state(training.model.network))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_filters_run_has_everyones_epochs_and_meets_the_budget(make_run):
    done = execute(*make_run("dsd_filter", finetune__epochs=3))
    assert done.training.epochs == 4
    assert 0.3 < done.cost.final.macs / done.cost.dense.macs <= 0.5


def test_bad_options_are_answered_with_their_range():
    for method, options, why in (
        (DSD, {"sparsity": 1.0}, "sparsity 1.0: at least 0 and below 1"),
        (DSD, {"rate": 0.0}, "rate 0.0: above 0 and at most 1"),
        (DSDFilter, {"rate": 1.5}, "rate 1.5: above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=why):
            method.Config(**options)
