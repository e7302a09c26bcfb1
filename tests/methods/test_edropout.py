"""EDropout against its specification; test numbers and traps are those of the method's page."""

import copy
import dataclasses
from itertools import product

import pytest
import torch
from support.networks import in_forwards
from support.plans import carry_out
from torch import nn
from torch.nn import functional as F

from bench.api import Phase
from bench.models.build import build
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites
from methods.edropout import EDropout, cross, donors, energy_loss, mutate


def native(training):
    """``training`` with a method that chooses its own sparsity, prepared for that."""
    training.ctx._budget = None
    training.method.prepare(training.ctx)
    return training


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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coins(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed)) < 0.5


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


def test_3g01_energy():
    logits = torch.tensor([[[2.0, 5.0, 1.0]]])
    assert energy_loss(logits, torch.tensor([1]), kappa=1).item() == -3
    assert energy_loss(logits, torch.tensor([1])).item() == -30
    assert energy_loss(logits, torch.tensor([0]), kappa=1).item() == 3
    some, y = torch.randn(4, 50, 10), torch.randint(10, (50,))
    torch.testing.assert_close(energy_loss(some + 100, y), energy_loss(some, y), rtol=1e-4, atol=1e-3)
    each = torch.stack([energy_loss(some[:, k : k + 1], y[k : k + 1]) for k in range(50)], dim=1)
    assert torch.equal(each < 0, some.argmax(dim=2) == y)
    torch.testing.assert_close(each.mean(dim=1), energy_loss(some, y))


@pytest.mark.parametrize("arch", ["mlp_40_40", "resnet20"])
def test_3g02_all_units_are_the_network_and_evaluation_gives_weights_back(make, arch):
    training = make(arch)
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


@pytest.mark.parametrize("count", [4, 8, 20])
def test_3g04_donors_are_three_others(count):
    seen = set()
    for seed in range(200):
        for i, three in enumerate(donors(count, generator(seed)).tolist()):
            assert len({i, *three}) == 4 and set(three) <= set(range(count))
            seen.add((i, *three))
    if count == 4:
        assert len(seen) == 4 * 6  # all of them come up


def test_3g05_settled_populations():
    same = coins(60).expand(8, 60)
    assert torch.equal(cross(same, mutate(same, "bde", 0.9, generator()), 0.9, generator(1)), same)
    ones = torch.ones(500, 2000, dtype=torch.bool)
    rng = generator()
    after = cross(ones, mutate(ones, "code", 0.9, rng), 0.9, rng)
    assert (~after).float().mean().item() == pytest.approx(0.09, abs=0.002)


@pytest.mark.parametrize(("op", "crossover", "ones", "changed"), [("code", 0.9, 0.4775, 0.45), ("bde", 0.5, 0.5, 0.25)])
def test_3g06_one_generation_of_coins(op, crossover, ones, changed):
    states, rng = coins(1000, 2000), generator(1)
    after = cross(states, mutate(states, op, 0.9, rng), crossover, rng)
    assert after.float().mean().item() == pytest.approx(ones, abs=0.003)
    assert (after != states).float().mean().item() == pytest.approx(changed, abs=0.003)


@pytest.mark.parametrize("arch", ["mlp_40_40", "resnet20"])
def test_3g07_only_the_best_states_network_is_trained(make, arch):
    constant = {"train__lr": 0.1, "train__schedule": "constant", "train__warmup": 0}
    training = make(arch, momentum=0.0, nesterov="false", weight_decay=0.0, train__epochs=1, **constant)
    ctx, train = training.ctx, training.data.train
    one_batch = dataclasses.replace(train, pixels=train.pixels[:32], labels=train.labels[:32])
    training.data = dataclasses.replace(training.data, train=one_batch)
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
def test_3g08_candidates_leave_no_trace_in_batch_norm(make, statistics):
    training = make("resnet20", options={"statistics": statistics, "population": 4})
    before = {k: v.clone() for k, v in training.model.network.named_buffers()}
    list(generations(training.ctx, training.method, 2))
    assert all(torch.equal(before[k], v) for k, v in training.model.network.named_buffers())


@pytest.mark.parametrize("seed", range(3))
def test_3g09_the_best_of_all_states_is_found(make, seed):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    with torch.no_grad():
        network[3].weight[:, [1, 3]] = 0
    training = make(network, "native", options={"early": 1.0, "patience": 1000})
    ctx, method = training.ctx, training.method
    ctx.rng.manual_seed(seed)
    method.prepare(ctx)
    every = torch.tensor([s for s in product([False, True], repeat=4) if any(s)])
    best = energies(ctx, every).min()
    list(generations(ctx, method, 30))
    torch.testing.assert_close(method.costs.min(), best)
    torch.testing.assert_close(energies(ctx, ctx.flat(ctx.masks)[None])[0], best)


def test_3g10_units_that_the_paper_counts():
    from torchvision import models

    for name, expected in (("resnet18", 6208), ("resnet34", 9920), ("resnet50", 32448), ("resnet101", 58560)):
        with torch.device("meta"):
            network = getattr(models, name)(num_classes=102)
        convs = {n: m.out_channels for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        shortcuts = sum(width for n, width in convs.items() if "downsample" in n)
        assert sum(convs.values()) - shortcuts + 2 * shortcuts + network.fc.in_features == expected


def test_3g10_units_that_can_be_removed_alone_are_fewer(make):
    from torchvision import models

    network = models.resnet18(num_classes=10)
    sites = find_sites(network, (3, 32, 32))
    assert sum(sites.widths.values()) == 2 * (64 + 128 + 256 + 512) < 6208  # those inside the blocks
    training = make("resnet20")
    ctx, method = training.ctx, training.method
    assert method.states.shape == (8, sum(ctx.sites.widths.values()))
    list(generations(ctx, method, 1))
    masks, network = method.select(ctx, ctx.budget), ctx._untouched
    assert gate_slice_difference(network, ctx.sites.slice(network, masks), ctx.sites, masks, ctx.x) < 1e-4


# --- 3(h): what is ours where paper and code differ ------------------------------------------------------------


@pytest.mark.parametrize("op", ["bde", "code"])
@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_3h02_every_state_of_every_generation_meets_the_budget_exactly(make, keep, op):
    training = make(options={"op": op, "early": 1.0}, keep=keep)
    ctx, method = training.ctx, training.method
    widths = ctx.equal_widths()
    assert ctx.fits(widths) and not ctx.fits({name: width + 1 for name, width in widths.items()})
    first = method.states.clone()
    for _ in generations(ctx, method, 12):
        for name, states in ctx.split(method.states).items():
            assert (states.sum(dim=1) == widths[name]).all()
    assert not torch.equal(first, method.states)


@pytest.mark.parametrize("p0", [0.2, 0.5, 0.8])
def test_3h02_without_a_budget_states_start_at_their_own_density(make, p0):
    method = make(track="native", options={"p0": p0, "population": 200}).method
    assert method.states.float().mean().item() == pytest.approx(p0, abs=0.02)


@pytest.mark.parametrize("options", [{"statistics": "batch"}, {"statistics": "running"}])
def test_3h03_candidates_are_normalised_by_the_batch(make, options):
    training = make("resnet20", options=options | {"population": 4})
    ctx, method = training.ctx, training.method
    list(generations(ctx, method, 2))
    same = torch.allclose(method.costs, energies(ctx, method.states), rtol=1e-3, atol=1e-4)
    assert same == (options["statistics"] == "batch")
    assert EDropout.Config().statistics == "batch"


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


def test_3h05_a_settled_population_stops(make):
    training = make(options={"patience": 20, "early": 1.0, "population": 10})
    ctx, method = training.ctx, training.method
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


def test_3h05_agreement_must_last(make):
    training = make(options={"early": 1.0})
    ctx, method = training.ctx, training.method
    list(generations(ctx, method, 1))
    method.calm.fill_(50)
    list(generations(ctx, method, 1))  # costs still differ
    assert method.costs.mean() - method.costs.min() > 1e-6
    assert int(method.calm) == 0


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


def test_3h06_donors_that_disagree():
    """Of three donors a, b and c: ours flips a where b and c differ, the code says 0 there."""
    rng = generator()
    for a, b, c in product([False, True], repeat=3):
        states = torch.tensor([a, b, c])[:, None].expand(3, 1)
        states = torch.cat([states, states[:1]])  # member 3's donors are 0, 1 and 2 in some order
        for _ in range(20):
            order = donors(4, torch.Generator().set_state(rng.get_state()))[3]
            x, y, z = states[order].flatten().tolist()
            keep = torch.Generator().set_state(rng.get_state())
            assert mutate(states, "bde", 1.0, keep)[3].item() == (not x if y != z else x)
            assert mutate(states, "code", 0.0, rng)[3].item() == (not x and y == z)
    assert EDropout.Config().op == "bde"


def test_3h08_a_dropped_unit_reads_zero_whatever_its_shift(make):
    training = make("resnet20", track="native")
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
    training = make("resnet20", options={"early": 0.0}, weight_decay=0.1, momentum=0.9, train__epochs=2)
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
    training = make(options={"share": 0.25})
    ctx, method = training.ctx, training.method
    sizes = []
    ctx._model.network.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    list(generations(ctx, method, 1))
    assert sizes == [16 * 8]  # 8 parents and 8 children, a quarter of 32 images
    assert in_forwards(ctx) == 16 * 8
    ctx._now.x, ctx._now.y = ctx.x[:8], ctx.y[:8]
    torch.testing.assert_close(method.costs, energies(ctx, method.states), rtol=1e-4, atol=1e-5)
    assert EDropout.Config().share == 1.0


@pytest.mark.parametrize(("statistics", "images"), [("batch", 2), ("running", 1)])
def test_3h11_the_least_share_of_a_batch_has_a_deviation(make, statistics, images):
    """Batch norm over single values cannot take the batch statistics of one image."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    training = make(network, options={"share": 0.01, "statistics": statistics})
    sizes = []
    training.model.network.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    list(generations(training.ctx, training.method, 1))
    assert sum(sizes) == 16 * images
    assert training.method.costs.isfinite().all()


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
