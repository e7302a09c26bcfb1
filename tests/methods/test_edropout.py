"""EDropout against its specification; test numbers and traps are those of the method's page."""

import copy
import dataclasses
from itertools import product

import pytest
import torch
from support.networks import in_forwards, three_sites, two_sites
from support.plans import carry_out, native
from torch import nn
from torch.nn import functional as F

from bench.api import Phase
from bench.models.build import build
from bench.pruning.gates import gate_slice_difference
from bench.training.prefix_cache import PrefixCache
from methods.edropout import EDropout, energy_loss


@pytest.fixture
def make(make_training):
    """Training and context of an EDropout with these options, whose network has seen some data."""

    def prepared(arch="mlp_40_40", track="matched", options=None, **settings):
        network = build(arch, (1, 8, 8), 10) if isinstance(arch, str) else arch
        untouched = copy.deepcopy(network)
        training = make_training(EDropout(EDropout.Config(**(options or {}))), arch=network, **settings)
        training.ctx._untouched = untouched
        training.model.network.train()
        return native(training) if track == "native" else training

    return prepared


def coins(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def state_of(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def sliced(ctx, masks):
    """The physically smaller network that ``masks`` leave, in training mode, without any gate."""
    network = copy.deepcopy(ctx._untouched)
    network.load_state_dict(ctx._model.network.state_dict())
    return ctx.sites.slice(network, masks).train()


@torch.no_grad()
def energies(ctx, states):
    """What the present network's energy loss is under each state, on the present batch."""
    return energy_loss(torch.stack([sliced(ctx, ctx.split(state))(ctx.x) for state in states]), ctx.y)


def generations(ctx, method, count):
    """So many batches as training does them, without its steps; yields after each."""
    for _ in range(count):
        method.on_batch_start(ctx)
        yield


# --- 3(g) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [two_sites, three_sites])
def test_3g02_all_units_are_the_network_and_weights_come_back(make, network):
    training = make(network())
    ctx = training.ctx
    before = state_of(ctx._model.network)
    every = torch.ones(1, training.method.states.shape[1])
    with torch.no_grad():
        plain = ctx._model.network(ctx.x)
    ctx._model.network.load_state_dict(before)
    assert torch.equal(ctx.evaluate(ctx.split(every), batch_statistics=True)[0], plain)
    list(generations(ctx, training.method, 2))
    assert all(torch.equal(before[k], v) for k, v in ctx._model.network.state_dict().items())


@pytest.mark.parametrize("stale", [False, True])
def test_3g03_selection(make, stale):
    training = make(options={"stale_costs": stale, "early": 1.0})
    ctx, method = training.ctx, training.method
    list(generations(ctx, method, 1))
    replaced = 0
    for batch in [*ctx.batches("train")] * 3:
        ctx._now.x, ctx._now.y = batch
        states = method.states.clone()
        costs = method.costs.clone() if stale else energies(ctx, states)
        list(generations(ctx, method, 1))
        assert (method.costs <= costs + 1e-5).all()  # so the best cost does not rise either
        changed = (states != method.states).any(dim=1)
        assert (method.costs[changed] < costs[changed]).all()
        torch.testing.assert_close(method.costs[~changed], costs[~changed], rtol=1e-4, atol=1e-5)
        replaced += int(changed.sum())
    assert replaced > 5


def test_3g03_ties_keep_the_parent(make):
    training = make()
    ctx, method = training.ctx, training.method
    with torch.no_grad():  # every network answers the same
        ctx._model.network[5].weight.zero_()
    states = method.states.clone()
    list(generations(ctx, method, 3))
    assert torch.equal(method.states, states)
    assert (method.costs == method.costs[0]).all()


@pytest.mark.parametrize("arch", ["mlp_40_40", three_sites()])
def test_3g07_only_the_best_states_network_is_trained(make, arch):
    constant = {"train__lr": 0.1, "train__schedule": "constant", "train__warmup": 0}
    training = make(arch, momentum=0.0, nesterov="false", weight_decay=0.0, train__epochs=1, **constant)
    ctx, train = training.ctx, training.data.train
    one_batch = dataclasses.replace(train, pixels=train.pixels[:32], labels=train.labels[:32])
    training.data = dataclasses.replace(training.data, train=one_batch)
    training.cache = PrefixCache(ctx._model, one_batch, training.recipe, training.seed)
    before, start = state_of(ctx._model.network), copy.deepcopy(ctx._untouched)
    carry_out(training, (Phase(1),))
    masks, after = ctx.masks, state_of(ctx._model.network)
    alone = ctx.sites.slice(start, masks).train()
    F.cross_entropy(alone(ctx.x), ctx.y).backward()
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    trained = sliced(ctx, masks).state_dict()
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-4, atol=1e-5)
    for name, site in ctx.sites.items():
        assert not masks[name].all()
        for key in (f"{layer}.{k}" for layer in (*site.producers, *site.norms) for k in ("weight", "bias")):
            if key in after:
                assert torch.equal(after[key][~masks[name]], before[key][~masks[name]])
                assert not torch.equal(after[key], before[key])


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_3g08_3h03_candidates_see_batch_statistics_and_leave_none(make, statistics):
    training = make(three_sites(), options={"statistics": statistics, "population": 4})
    ctx, method = training.ctx, training.method
    before = {k: v.clone() for k, v in training.model.network.named_buffers()}
    list(generations(ctx, method, 2))
    assert all(torch.equal(before[k], v) for k, v in training.model.network.named_buffers())
    same = torch.allclose(method.costs, energies(ctx, method.states), rtol=1e-3, atol=1e-4)
    assert same == (statistics == "batch")
    assert EDropout.Config().statistics == "batch"


def test_3g09_the_best_of_all_states_is_found(make):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    with torch.no_grad():
        network[3].weight[:, [1, 3]] = 0
    training = make(network, "native", options={"early": 1.0, "patience": 1000})
    ctx, method = training.ctx, training.method
    every = torch.tensor([s for s in product([False, True], repeat=4) if any(s)])
    best = energies(ctx, every).min()
    for seed in range(3):
        ctx.rng.manual_seed(seed)
        method.prepare(ctx)
        list(generations(ctx, method, 30))
        torch.testing.assert_close(method.costs.min(), best)
        torch.testing.assert_close(energies(ctx, ctx.flat(ctx.masks)[None])[0], best)


def test_3g10_units_are_those_that_can_be_removed_alone(make):
    training = make("resnet20")  # of whose residual streams the paper counts the units too
    ctx, method = training.ctx, training.method
    assert method.states.shape == (8, sum(ctx.sites.widths.values()))
    list(generations(ctx, method, 1))
    masks, network = method.select(ctx, ctx.budget), ctx._untouched
    assert gate_slice_difference(network, ctx.sites.slice(network, masks), ctx.sites, masks, ctx.x) < 1e-4


# --- 3(h): what is ours where paper and code differ ------------------------------------------------------------


@pytest.mark.parametrize(("keep", "op"), [(0.5, "bde"), (0.2, "code")])
def test_3h02_every_state_meets_the_budget_exactly(make, keep, op):
    training = make(options={"op": op, "early": 1.0}, keep=keep)
    ctx, method = training.ctx, training.method
    widths = ctx.equal_widths()
    assert ctx.fits(widths) and not ctx.fits({name: width + 1 for name, width in widths.items()})
    first = method.states.clone()
    for _ in generations(ctx, method, 12):
        for name, states in ctx.split(method.states).items():
            assert (states.sum(dim=1) == widths[name]).all()
    assert not torch.equal(first, method.states)


@pytest.mark.parametrize("p0", [0.2, 0.8])
def test_3h02_without_a_budget_states_have_their_own_density(make, p0):
    method = make(track="native", options={"p0": p0, "population": 200}).method
    assert method.states.float().mean().item() == pytest.approx(p0, abs=0.02)


@pytest.mark.parametrize("track", ["matched", "native"])
def test_3h04_costs_are_those_of_this_batch_and_these_weights(make, track):
    training = make(track=track, options={"early": 1.0})
    ctx, method = training.ctx, training.method
    for batch in ctx.batches("train"):
        ctx._now.x, ctx._now.y = batch
        list(generations(ctx, method, 1))  # each state's own units, whatever the best one of the last batch lacks
        torch.testing.assert_close(method.costs, energies(ctx, method.states), rtol=1e-4, atol=1e-5)
        assert torch.equal(ctx.flat(ctx.masks), method.states[method.costs.argmin()])
        with torch.no_grad():
            for parameter in ctx._model.network.parameters():
                parameter.mul_(1.1)
    assert not EDropout.Config().stale_costs


def test_3h04_stale_costs_are_of_the_batch_a_state_was_born_on(make):
    training = make(options={"stale_costs": True, "early": 1.0})
    ctx, method = training.ctx, training.method
    list(generations(ctx, method, 3))
    best, costs = ctx.flat(ctx.masks), method.costs.clone() - 1000  # lucky once
    method.costs.copy_(costs)
    before = in_forwards(ctx)
    for batch in ctx.batches("train"):
        ctx._now.x, ctx._now.y = batch
        list(generations(ctx, method, 1))
    assert torch.equal(method.costs, costs) and torch.equal(ctx.flat(ctx.masks), best)  # they rule for ever
    assert in_forwards(ctx) - before == 96 * 8  # only children are evaluated


def test_3h05_settled_population_stops_once_agreement_lasts(make):
    training = make(options={"patience": 20, "early": 1.0, "population": 10})
    ctx, method = training.ctx, training.method
    list(generations(ctx, method, 1))
    method.calm.fill_(19)
    list(generations(ctx, method, 1))  # costs still differ
    assert method.costs.mean() - method.costs.min() > 1e-6
    assert int(method.calm) == 0
    method.states.copy_(method.states[:1].expand(10, -1))
    calm = []
    for _ in generations(ctx, method, 22):
        calm.append(int(method.calm))
        with torch.no_grad():
            ctx._model.network[5].weight.mul_(1.4)  # so that the mean of ten equal costs is not always exactly that
    assert calm == [*range(1, 21), 20, 20]
    before = in_forwards(ctx)
    list(generations(ctx, method, 1))
    assert in_forwards(ctx) == before


def test_3h05_or_evolution_ends_at_its_share_of_the_epochs(make):
    training = make(options={"early": 0.5}, train__epochs=4)
    ctx, method = training.ctx, training.method
    states = []
    for ctx._now.epoch in range(4):
        list(generations(ctx, method, 2))
        states.append(method.states.clone())
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2]) and torch.equal(states[2], states[3])
    assert torch.equal(ctx.flat(ctx.masks), method.states[method.costs.argmin()])


def test_3h08_a_dropped_unit_reads_zero_whatever_its_shift(make):
    training = make(three_sites(), track="native")
    ctx, method = training.ctx, training.method
    with torch.no_grad():
        for module in ctx._model.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(5.0)
    list(generations(ctx, method, 1))
    read = {}
    for name, site in ctx.sites.items():
        consumer = ctx._model.network.get_submodule(site.consumers[0].layer)
        consumer.register_forward_hook(lambda m, args, out, name=name: read.update({name: args[0]}))
    ctx._model.network(ctx.x)
    for name, mask in ctx.masks.items():
        assert not mask.all()
        assert read[name][:, ~mask].count_nonzero() == 0
        assert read[name][:, mask].abs().sum() > 0


def test_3h09_decay_and_momentum_spare_what_is_dropped(make):
    training = make(three_sites(), options={"early": 0.0}, weight_decay=0.1, momentum=0.9, train__epochs=2)
    ctx, before = training.ctx, state_of(training.model.network)
    carry_out(training, (Phase(2),))
    for name, site in ctx.sites.items():
        gone = ~ctx.masks[name]
        for key in (f"{name}.weight", *(f"{norm}.{k}" for norm in site.norms for k in ("weight", "bias"))):
            assert torch.equal(ctx._model.network.state_dict()[key][gone], before[key][gone])
            assert not torch.equal(ctx._model.network.state_dict()[key][~gone], before[key][~gone])


def test_3h10_every_state_keeps_a_unit_of_every_site(make):
    training = make(track="native", options={"p0": 0.0, "op": "code", "early": 1.0})
    ctx, method = training.ctx, training.method
    for states in ctx.split(method.states).values():
        assert (states.sum(dim=1) == 1).all()
    for _ in generations(ctx, method, 15):
        assert all((states.sum(dim=1) >= 1).all() for states in ctx.split(method.states).values())
    empty = torch.zeros(50, 80, dtype=torch.bool)
    firsts = {int(s.int().argmax()) for s in ctx.split(ctx.repair(empty))["1"]}
    assert len(firsts) > 10  # not always the same one
    full = coins(50, 80) | (torch.arange(80) % 40 == 0)
    assert torch.equal(ctx.repair(full), full)  # and no more than it takes


def test_3h11_states_share_forwards_and_may_see_a_share_of_the_batch(make):
    """Of batch statistics two images at least: batch norm over single values has no deviation."""

    def normed():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))

    for network, options, images in (
        ("mlp_40_40", {"share": 0.25}, 8),  # a quarter of 32
        (normed(), {"share": 0.01, "statistics": "batch"}, 2),
        (normed(), {"share": 0.01, "statistics": "running"}, 1),
    ):
        training = make(network, options=options)
        ctx, method, sizes = training.ctx, training.method, []
        before = in_forwards(ctx)
        handle = ctx._model.network.register_forward_pre_hook(lambda m, args, sizes=sizes: sizes.append(len(args[0])))
        list(generations(ctx, method, 1))
        handle.remove()
        assert sum(sizes) == in_forwards(ctx) - before == 16 * images  # 8 parents and 8 children
        assert method.costs.isfinite().all()
        if images == 8:
            assert len(sizes) == 1
            ctx._now.x, ctx._now.y = ctx.x[:8], ctx.y[:8]
            torch.testing.assert_close(method.costs, energies(ctx, method.states), rtol=1e-4, atol=1e-5)
    assert EDropout.Config().share == 1.0


def test_a_better_child_of_the_best_state_is_a_change(make_training, monkeypatch):
    """All costs are equal, so that only the comparison of states says whether the population has settled."""
    method = EDropout()
    ctx = make_training(method, arch="mlp_40_40").ctx
    method.costs.zero_()
    before = method.states.clone()
    halves = len(method.states)
    monkeypatch.setattr("methods.edropout.energy_loss", lambda *_: torch.tensor([0.0] * halves + [-1.0] * halves))
    method.evolve(ctx)
    assert not torch.equal(method.states[0], before[0])
    assert method.calm == 0
    monkeypatch.setattr("methods.edropout.energy_loss", lambda *_: torch.tensor([-1.0] * 2 * halves))
    method.evolve(ctx)
    assert method.calm == 1
