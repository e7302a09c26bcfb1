"""Networks that become smaller while they are trained: everything in a context follows."""

import pytest
import torch
from support.networks import GREY, hooks_of, three_sites
from support.plans import carry_out, check_resume, prune, same, state_of
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.errors import RunFailed
from bench.measure import flops


def start(make_training, method=None, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


@pytest.fixture
def ctx(make_training):
    return start(make_training).ctx


def kept(ctx, share=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(s.n_units, generator=generator) < share for n, s in ctx.sites.items()}
    for mask in masks.values():
        mask[-1] = True
        mask[0] = False
    return masks


def logits(ctx):
    with ctx.probe():
        return ctx.forward(ctx.x)


def test_a_shrunk_network_computes_what_the_masked_one_would(ctx):
    masks = kept(ctx)
    with ctx.probe(), ctx.masked(masks):
        pass
    masked = ctx.evaluate({n: m[None] for n, m in masks.items()})[0]
    dense = ctx._model.network
    ctx.shrink(masks)
    torch.testing.assert_close(logits(ctx), masked, rtol=1e-4, atol=1e-5)
    assert ctx._model.network is not dense
    assert ctx.sites.widths == {n: int(m.sum()) for n, m in masks.items()}
    assert all(site.network is ctx._model.network for site in ctx.sites.values())
    assert {n: m.tolist() for n, m in ctx.masks.items()} == {n: [True] * w for n, w in ctx.sites.widths.items()}
    assert not hooks_of(dense)
    assert not hooks_of(ctx._model.network)
    assert ctx.share(ctx.sites.widths) == flops.count(ctx._model.network, GREY).total / flops.count(dense, GREY).total


def test_shrinking_twice_is_slicing_once_by_the_composed_masks(make_training):
    once, twice = (start(make_training).ctx for _ in range(2))
    first = kept(twice)
    given = {n: m.clone() for n, m in first.items()}
    twice.shrink(first)
    twice.shrink(kept(twice, 0.5, 1))
    twice._model.slice(kept(twice, 0.5, 2))
    assert all(torch.equal(first[n], given[n]) for n in given)  # what a method holds stays as it is
    assert list(twice._model.sliced_by) == list(once.sites)
    assert {n: len(m) for n, m in twice._model.sliced_by.items()} == once.sites.widths
    assert {n: int(m.sum()) for n, m in twice._model.sliced_by.items()} == twice.sites.widths
    assert all(not (m & ~given[n]).any() for n, m in twice._model.sliced_by.items())
    once._model.slice(twice._model.sliced_by)
    assert same(state_of(once._model.network), state_of(twice._model.network))
    assert same(once._model.snapshots["init"], twice._model.snapshots["init"])
    torch.testing.assert_close(logits(once), logits(twice))


def test_masks_that_are_already_there_follow(ctx):
    """What is masked and not taken out stays masked."""
    masked = kept(ctx, 0.7, seed=3)
    ctx.masks = masked
    before = logits(ctx)
    gone = {n: m.clone() for n, m in masked.items()}
    for name, mask in gone.items():
        back = (~mask).nonzero()[0]
        mask[back] = True  # one masked unit of each site stays in the network
        assert int(mask.sum()) < ctx.sites[name].n_units or mask.all()
    ctx.shrink(gone)
    assert {n: int((~m).sum()) for n, m in ctx.masks.items()} == dict.fromkeys(ctx.sites, 1)
    torch.testing.assert_close(logits(ctx), before, rtol=1e-4, atol=1e-5)


def test_snapshots_are_sliced_along(make_training):
    training = start(make_training)
    ctx = training.ctx
    init, dense, sites = state_of(ctx._model.network), ctx._model.network, ctx.sites
    carry_out(training, (Phase(1),))
    ctx.snapshot("early")
    early = state_of(ctx._model.network)
    training.position = (0, 0)
    carry_out(training, (Phase(1),))
    now, masks = state_of(ctx._model.network), kept(ctx)
    ctx.shrink(masks)
    assert same(state_of(dense), now)  # the network it was is left as it was
    for tag, state in {"early": early, "init": init}.items():
        ctx.rewind(tag)
        dense.load_state_dict(state)
        assert same(state_of(ctx._model.network), state_of(sites.slice(dense, masks)))
    assert not same(ctx._model.snapshots["early"], ctx._model.snapshots["init"])
    ctx.rewind("fresh")
    assert not same(state_of(ctx._model.network), ctx._model.snapshots["init"])
    assert {k: v.shape for k, v in ctx._model.network.state_dict().items()} == {
        k: v.shape for k, v in ctx._model.snapshots["init"].items()
    }


def mean_of_units(a):
    return a.mean(dim=(0, *range(2, a.dim())))


def test_tracked_statistics_follow_the_shrink_and_continue(ctx):
    for name in list(ctx.sites)[:2]:
        ctx.track(name, mean_of_units, momentum=0.5)
    with ctx._model.tracking(), torch.no_grad():
        ctx._model.network.eval()(ctx.x)
    before, masks = {n: v.clone() for n, v in ctx.tracked.items()}, kept(ctx)
    ctx.shrink(masks)
    assert set(ctx.tracked) == set(before)
    for name, value in ctx.tracked.items():
        assert torch.equal(value, before[name][masks[name]])
    with ctx.activations() as found, ctx.probe():
        ctx.forward(ctx.x)
    with ctx._model.tracking(), torch.no_grad():
        ctx._model.network(ctx.x)
    for name, value in ctx.tracked.items():
        expected = (before[name][masks[name]] + mean_of_units(found[name])) / 2
        torch.testing.assert_close(value, expected)


def test_inserted_modules_and_gates_go(ctx):
    class Zero(nn.Module):
        def forward(self, a):
            return a * 0

    masks = kept(ctx)
    expected = ctx.evaluate({n: m[None] for n, m in masks.items()})[0]
    ctx.insert(next(iter(ctx.sites)), Zero())
    ctx.gate({n: torch.zeros(s.n_units) for n, s in ctx.sites.items()})
    ctx.shrink(masks)
    assert ctx._model.inserted == {}
    torch.testing.assert_close(logits(ctx), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: {}, "no mask for site 0"),
        (lambda m: m | {"0": m["0"].float()}, "not torch.bool"),
        (lambda m: m | {"0": m["0"] & False}, "keeps 0 units"),
        (lambda m: m | {"0": m["0"][1:]}, r"not torch.bool \[12\]"),
    ],
)
def test_masks_are_checked_before_anything_goes(ctx, change, match):
    before = ctx._model.network
    with pytest.raises(RunFailed, match=match):
        ctx.shrink(change(kept(ctx)))
    assert ctx._model.network is before
    assert ctx._model.sliced_by is None
    ctx.shrink(kept(ctx) | {"of another network": torch.ones(2, dtype=torch.bool)})  # does no harm
    ctx.shrink(kept(ctx, seed=1))
    assert set(ctx._model.sliced_by) == set(ctx.sites)


class Shrinking(Method):
    """Looks at the training set after each phase, takes a third out, goes back to the start."""

    def prepare(self, ctx):
        self.register_buffer("worth", torch.zeros(40))
        ctx.track("0", mean_of_units, 0.9)
        with ctx.probe():
            ctx.forward(next(ctx.batches())[0])

    def on_phase_start(self, ctx):
        ctx.log(start_phase=ctx.phase, start_epoch=ctx.epoch, start_step=ctx.step, start_progress=ctx.progress)

    def on_epoch_end(self, ctx):
        ctx.log(progress=ctx.progress, epochs=len(ctx.curve), seen=ctx.tracked["0"].sum(), drawn=ctx.draw()["0"].sum())
        if ctx.epoch == 0:
            ctx.snapshot("first")

    def on_phase_end(self, ctx):
        worth = ctx.mean(lambda site, a: a.abs().mean(dim=(0, 2, 3)))
        self.worth[: sum(ctx.sites.widths.values())] = ctx.flat(worth)
        ctx.shrink(ctx.prune_worst(worth, 0.3, "layer"))

    def select(self, ctx, budget):
        ctx.log(select_phase=ctx.phase, select_epoch=ctx.epoch)
        return ctx.rank(ctx.mean(lambda site, a: a.abs().mean(dim=(0, 2, 3))), "layer")


PLAN = (Phase(2), Phase(2, rewind="init"), Phase(1, rewind="first"), PRUNE, Phase(1, "finetune", rewind="init"))


def test_looks_before_a_shrink_cost_what_the_network_then_did(make_training):
    training = start(make_training, Shrinking(), keep=0.1)
    sizes = [training.model.macs]
    shrink = training.model.slice

    def noting(masks, **named):
        done = shrink(masks, **named)
        sizes.append(training.model.macs)
        return done

    training.model.slice = noting
    carry_out(training, PLAN, prune)
    assert len(sizes) == len(set(sizes)) == 5
    assert sizes == sorted(sizes, reverse=True)
    first, second, third, last, final = sizes
    steps = 3 * 96 * (2 * first + 2 * second + third + final)
    looks = 32 * first + 96 * (first + second + third + last)  # prepare, then after each phase and at the prune
    assert training.train_macs == steps + looks
    assert training.epochs == 6
    assert training.curve[-1]["units_left"] == sum(training.ctx.sites.widths.values()) / 40


def test_shrinking_plan_resumes_with_its_clocks(make_training, tmp_path):
    def make(checkpoint):
        return start(make_training, Shrinking(), keep=0.1, checkpoint=checkpoint)

    curve = check_resume(make, PLAN, tmp_path / "c.pt").curve
    clocks = ("start_phase", "start_epoch", "start_step", "start_progress")
    starts = [tuple(e[clock] for clock in clocks) for e in curve if "start_phase" in e]
    assert starts == [(0, 0, 0, 0.0), (1, 0, 0, 0.0), (2, 0, 0, 0.0)]
    assert [e["progress"] for e in curve if "progress" in e] == [1, 2, 1, 2, 1]
    assert [e["epochs"] for e in curve if "epochs" in e] == [0, 1, 2, 3, 4]
    assert [(e["phase"], e["epoch"]) for e in curve] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (4, 1)]
    assert (curve[-1]["select_phase"], curve[-1]["select_epoch"]) == (3, 0)
    left = [e["units_left"] for e in curve]
    assert left == sorted(left, reverse=True)
    assert left[0] == left[1] == 1 > left[2] > left[4] > left[5]
