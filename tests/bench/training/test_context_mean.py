"""Looking at a network from outside of training: means over the training set, candidates, single units left out."""

import pytest
import torch
from support.networks import GREY, hooks_of, in_forwards, three_sites, two_sites
from support.plans import same, state_of
from torch.nn import functional as F

from bench.api import STATISTICS
from bench.errors import RunFailed
from bench.training.masked_model import AT_ONCE


@pytest.fixture
def ctx(make_ctx):
    """Three sites with batch norms whose statistics are not those of the data."""
    return trained(make_ctx(arch=three_sites(), shape=GREY))


def trained(ctx):
    """As training would leave it: nothing is zero or one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in ctx._model.network.state_dict().items():
            if "running" in name or tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return ctx


def everything(ctx):
    """All that a look must leave as it is."""
    network = ctx._model.network
    state = state_of(network) | {"rng": torch.get_rng_state(), "own rng": ctx.rng.get_state()}
    return state, [p.grad for p in network.parameters()], [m.training for m in network.modules()]


def train_set(ctx):
    parts = list(ctx.batches("train"))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def half(ctx):
    return {n: torch.arange(s.n_units) % 2 == 0 for n, s in ctx.sites.items()}


def act_mean(site, activations):
    return STATISTICS["act_mean"](activations)


# --- means -----------------------------------------------------------------------------------------------------


def test_mean_of_activations_is_that_of_the_whole_training_set_at_once(ctx):
    x, _ = train_set(ctx)
    with ctx.probe(), ctx.activations() as found:
        ctx.forward(x)
    means = ctx.mean(act_mean)
    assert set(means) == set(ctx.sites)
    for name, mean in means.items():
        torch.testing.assert_close(mean, found[name].abs().mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("of", ["activations", "gate_gradients"])
def test_means_do_not_depend_on_the_batch_size(make_ctx, of):
    found = []
    for size in (8, 36, 96):  # 36 leaves a smaller last batch
        torch.manual_seed(0)
        ctx = trained(make_ctx(arch=three_sites(), shape=GREY, batch_size=size))
        statistic = act_mean if of == "activations" else lambda site, g: g.square().mean(dim=0)
        found.append(ctx.mean(statistic, of))
    for other in found[1:]:
        for name, value in found[0].items():
            assert value.abs().max() > 0
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-9)


def test_gate_gradients_are_the_derivative_of_each_examples_loss(ctx):
    x, y = next(ctx.batches("train", limit=1))
    collected = {}
    ctx.mean(lambda site, g: collected.__setitem__(site.name, g) or g.mean(dim=0), "gate_gradients", batches=1)
    step = 1e-6
    for name, site in ctx.sites.items():
        assert collected[name].shape == (len(x), site.n_units)
        assert collected[name].abs().max() > 1e-3
        for unit in (0, site.n_units - 1):
            losses = []
            for value in (1 - step, 1 + step):
                gate = torch.ones(site.n_units, dtype=torch.float64)
                gate[unit] = value
                with ctx.probe():
                    ctx._model.network.double()
                    ctx.gate({name: gate})
                    losses.append(F.cross_entropy(ctx.forward(x.double()), y, reduction="none"))
                ctx._model.network.float()
            slope = ((losses[1] - losses[0]) / (2 * step)).float()
            torch.testing.assert_close(collected[name][:, unit], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("of", ["activations", "gate_gradients"])
def test_masked_units_have_neither_activation_nor_gradient(ctx, of):
    ctx.masks = masks = half(ctx)
    for name, value in ctx.mean(lambda site, v: v.abs().sum(dim=(0, *range(2, v.dim()))), of).items():
        assert value[~masks[name]].abs().max() == 0
        assert value[masks[name]].abs().max() > 0


@pytest.mark.parametrize(("batches", "seen"), [(None, 96), (1, 40), (2, 80), (9, 96)])
@pytest.mark.parametrize(("of", "passes"), [("activations", 1), ("gate_gradients", 3)])
def test_batches_are_limited_and_charged(make_ctx, batches, seen, of, passes):
    ctx, shapes = make_ctx(arch="mlp_40_40", batch_size=40), []
    ctx.mean(lambda site, v: shapes.append(tuple(v.shape)) or v.flatten(1)[0, : site.n_units], of, batches)
    assert sum(shape[0] for shape in shapes) == len(ctx.sites) * seen
    assert {shape[1:] for shape in shapes} == {(40, 1) if of == "activations" else (40,)}  # linear: one position
    assert in_forwards(ctx) == passes * seen
    with pytest.raises(RunFailed, match="batches must be at least 1"):
        ctx.mean(act_mean, batches=0)


LOOKS = {
    "activations": lambda ctx: ctx.mean(act_mean),
    "gate_gradients": lambda ctx: ctx.mean(lambda site, g: g.mean(dim=0), "gate_gradients"),
    "leave_one_out": lambda ctx: ctx.leave_one_out(),
    "evaluate": lambda ctx: ctx.evaluate({n: torch.ones(3, s.n_units) for n, s in ctx.sites.items()}),
    "evaluate_by_batch": lambda ctx: ctx.evaluate(
        {n: torch.ones(3, s.n_units) for n, s in ctx.sites.items()}, batch_statistics=True
    ),
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_leaves_no_trace(ctx, look):
    ctx._model.network.train()
    ctx.masks = half(ctx)
    for parameter in ctx._model.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    (state, *rest), hooks = everything(ctx), len(hooks_of(ctx._model.network))
    with ctx.probe():
        logits = ctx.forward(ctx.x)
    LOOKS[look](ctx)
    after = everything(ctx)
    assert same(state, after[0])
    assert rest == list(after[1:])
    with ctx.probe():
        assert torch.equal(logits, ctx.forward(ctx.x))
    ctx._model.remove_hooks()
    assert hooks > 0 == len(hooks_of(ctx._model.network))


# --- candidates and single units ---------------------------------------------------------------------------------


def test_leave_one_out_is_the_loss_of_each_network_without_a_unit(make_ctx):
    ctx = trained(make_ctx(arch=two_sites(), shape=GREY, batch_size=40))
    x, y = train_set(ctx)
    losses = ctx.leave_one_out()
    assert in_forwards(ctx) == 96 * sum(ctx.sites.widths.values())
    for name, site in ctx.sites.items():
        assert losses[name].shape == (site.n_units,)
        for unit in range(site.n_units):
            masks = ctx.sites.ones() | {name: torch.arange(site.n_units) != unit}
            small = ctx.sites.slice(ctx._model.network, masks).eval()
            with torch.no_grad():
                torch.testing.assert_close(losses[name][unit], F.cross_entropy(small(x), y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_each_candidate_is_evaluated_as_if_alone(ctx, batch_statistics):
    generator = torch.Generator().manual_seed(1)
    candidates = {n: torch.rand(4, s.n_units, generator=generator) < 0.6 for n, s in ctx.sites.items()}
    for c in candidates.values():
        c[:, 0] = True
    x = next(ctx.batches("val"))[0]
    together = ctx.evaluate(candidates, x, batch_statistics)
    assert in_forwards(ctx) == 4 * len(x)
    alone = []
    for k in range(4):
        small = ctx.sites.slice(ctx._model.network, {n: c[k] for n, c in candidates.items()}).train(batch_statistics)
        with torch.no_grad():
            alone.append(small(x))
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)
    other = ctx.evaluate(candidates, x, not batch_statistics)
    assert not torch.allclose(other, together, atol=1e-2)


def test_candidates_are_split_where_they_are_too_many_for_one_forward(ctx):
    sizes = []
    ctx._model.network.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    x = next(ctx.batches("train"))[0]
    count = 2 * AT_ONCE // len(x) + 1
    candidates = {n: torch.ones(count, s.n_units) for n, s in ctx.sites.items()}
    logits = ctx.evaluate(candidates, x)
    assert sizes == [AT_ONCE, AT_ONCE, len(x)]
    torch.testing.assert_close(logits[0], logits[-1], rtol=1e-4, atol=1e-5)
    sizes.clear()
    ctx.evaluate({n: c[:2] for n, c in candidates.items()}, x, batch_statistics=True)
    assert sizes == [len(x), len(x)]


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_masks_of_the_context_hold_for_candidates_too(ctx, batch_statistics):
    ctx.masks = half(ctx)
    with ctx.probe(batch_statistics):
        masked = ctx.forward(ctx.x)
    for count in (1, 3):
        ones = {n: torch.ones(count, s.n_units) for n, s in ctx.sites.items()}
        for logits in ctx.evaluate(ones, batch_statistics=batch_statistics):
            torch.testing.assert_close(logits, masked, rtol=1e-4, atol=1e-5)


def test_some_sites_only(ctx):
    name = next(iter(ctx.sites))
    width = ctx.sites[name].n_units
    some = ctx.evaluate({name: torch.eye(width)})
    rest = {n: torch.ones(width, s.n_units) for n, s in ctx.sites.items()}
    torch.testing.assert_close(some, ctx.evaluate(rest | {name: torch.eye(width)}))
    assert not torch.allclose(some[0], some[1], atol=1e-4)
