"""Pruning of large units, and of small ones; numbers are those of the tests (g) of the specification's section 10."""

import math

import numpy as np
import pytest
import torch
from support.plans import carry_out, prune
from torch.nn import functional as F

from bench.api import PRUNE, Phase
from bench.errors import Unsupported
from bench.runs.method_factory import make_method
from methods.prune_large import PruneLarge, PruneSmall

BOTH = pytest.mark.parametrize("kind", [PruneLarge, PruneSmall])


def norms(site):
    """l2 norms of the units' weights, in float64."""
    return np.sqrt((site.rows().detach().double().numpy() ** 2).sum(axis=1))


class Noted:
    """Notes masks before and after each event, and the norms that they are chosen by."""

    def after(self, ctx, done):
        masks = super().after(ctx, done)
        self.noted = [
            *getattr(self, "noted", []),
            (done, dict(ctx.masks), masks, {n: norms(s) for n, s in ctx.sites.items()}),
        ]
        return masks


class Large(Noted, PruneLarge):
    pass


class Small(Noted, PruneSmall):
    pass


def test_10g1_masks_of_both_directions_are_top_and_bottom_of_one_vector(make_ctx):
    """MR 10(g)1: disjoint where at most half of the units go."""
    ctx = make_ctx(arch="mlp_40_40", keep=0.6)
    large, small = (kind().after(ctx, 1.0) for kind in (PruneLarge, PruneSmall))
    for name, site in ctx.sites.items():
        order = np.argsort(norms(site))
        gone = site.n_units - ctx.equal_widths()[name]
        assert 0 < gone <= site.n_units / 2
        assert set((~large[name]).nonzero().flatten().tolist()) == set(order[-gone:].tolist())
        assert set((~small[name]).nonzero().flatten().tolist()) == set(order[:gone].tolist())
        assert not (~large[name] & ~small[name]).any()


@BOTH
@pytest.mark.parametrize(
    ("every", "end", "events"), [(1, 0.75, 4), (2, 0.75, 2), (1, 1.0, 6), (4, 0.2, 1), (7, 1.0, 0)]
)
def test_10g2_counts_follow_the_schedule_and_end_at_the_budget(make_training, kind, every, end, events):
    """MR 10(g)2: ``ceil(final + (N - final)(n - i)/n)`` after event i of n; what is masked stays masked."""
    method = {PruneLarge: Large, PruneSmall: Small}[kind](kind.Config(every=every, end=end))
    training = make_training(method, arch="mlp_40_40", keep=0.4, train__epochs=6)
    final = training.ctx.equal_widths()
    carry_out(training, (Phase(6), PRUNE), prune)
    assert len(method.noted) == events + 1  # and the prune
    for event, (_, before, after, _) in enumerate(method.noted, 1):
        for name in final:
            left = max(events - event, 0) / max(events, 1)
            assert int(after[name].sum()) == math.ceil(final[name] + (40 - final[name]) * left - 1e-9)
            assert not (after[name] & ~before[name]).any()
    assert {name: int(mask.sum()) for name, mask in training.model.sliced_by.items()} == final
    assert ("instability" in {key for entry in training.curve for key in entry}) == (events > 0)


@BOTH
def test_masked_units_stay_masked_whatever_their_size_is(make_ctx, kind):
    ctx = make_ctx(arch="mlp_40_40", keep=0.6)
    best = {name: norms(site).argsort()[0 if kind is PruneLarge else -1] for name, site in ctx.sites.items()}
    ctx.masks = {name: torch.arange(40) != int(best[name]) for name in ctx.sites}
    assert not any(mask[int(best[name])] for name, mask in kind().after(ctx, 0.5).items())


@BOTH
def test_each_event_takes_the_extremes_of_what_is_left(make_training, kind):
    method = {PruneLarge: Large, PruneSmall: Small}[kind]()
    training = make_training(method, arch="mlp_40_40", keep=0.4, train__epochs=4)
    carry_out(training, (Phase(4),))
    for _, before, after, sizes in method.noted:
        for name in sizes:
            gone, stays = sizes[name][before[name] & ~after[name]], sizes[name][after[name]]
            assert len(gone)
            assert gone.min() >= stays.max() if kind is PruneLarge else gone.max() <= stays.min()


def test_10g3_instability_is_the_accuracy_that_an_event_costs(make_training):
    """MR 10(g)3: with the same images and batch-norm statistics, computed from a copy that is masked by hand."""
    expected = []

    class Watched(PruneLarge):
        def after(self, ctx, done):
            masks = super().after(ctx, done)
            network, val = ctx._model.network.eval(), ctx._data.val
            images = torch.cat([x for x, _ in ctx.batches("val")])
            labels = torch.cat([y for _, y in ctx.batches("val")])
            right = []
            with torch.no_grad(), ctx._model.ledger.paused():
                for kept in (ctx.masks, masks):
                    with ctx.masked(kept):
                        right.append((network(images).argmax(dim=1) == labels).double().mean().item())
            expected.append(right[0] - right[1])
            assert len(labels) == len(val.labels)
            network.train()
            return masks

    training = make_training(Watched(), arch="resnet20", shape=(1, 8, 8), keep=0.3, train__epochs=4)
    carry_out(training, (Phase(4),))
    logged = [entry["instability"] for entry in training.curve if "instability" in entry]
    assert logged == pytest.approx(expected, abs=1e-9)
    assert len(logged) == 3
    assert training.model.ledger.forward == 2 * 3 * len(training.data.val.labels)  # two validations an event, charged


def test_only_named_sites_are_pruned_and_the_budget_is_met_by_them(make_training):
    """MR 10(e): the code prunes the last four convolutions only."""
    method = PruneLarge(PruneLarge.Config(only="blocks.7,blocks.8"))
    training = make_training(method, arch="resnet20", keep=0.9)
    ctx = training.ctx
    exempt = [name for name, site in ctx.sites.items() if method.exempt(site)]
    assert exempt == [name for name in ctx.sites if name not in ("blocks.7.conv1", "blocks.8.conv1")]
    ctx._model.costs = ctx._model.costs.exempting(exempt)
    masks = method.select(ctx, ctx.budget)
    assert all(masks[name].all() for name in exempt)
    assert not masks["blocks.8.conv1"].all()
    assert ctx.fits({name: int(mask.sum()) for name, mask in masks.items()})
    assert not any(PruneLarge().exempt(site) for site in ctx.sites.values())


def test_score_ebn_needs_norms(make_ctx):
    method = make_method("prune_large", {"score": "ebn"})
    with pytest.raises(Unsupported, match="prune_large does not work on site 1: it has no batch norm with a scale"):
        method.require(make_ctx(arch="mlp_40_40").sites)
    ctx = make_ctx()
    method.require(ctx.sites)
    for name, site in ctx.sites.items():
        (norm,) = site.affine()
        assert torch.allclose(
            method.scores(ctx)[name], -norm.gamma.detach().abs() / math.sqrt(2 * math.pi)
        )  # beta is 0


def test_scores_of_l1(make_ctx):
    ctx = make_ctx(arch="mlp_40_40")
    for kind, sign in ((PruneLarge, -1), (PruneSmall, 1)):
        for name, score in kind(kind.Config(score="l1")).scores(ctx).items():
            expected = sign * np.abs(ctx.sites[name].rows().detach().double().numpy()).sum(axis=1)
            assert np.allclose(score.numpy(), expected, rtol=1e-5)


def test_bad_options_are_answered_with_their_range():
    for options, why in (
        ({"every": 0}, "every 0: 1 or more"),
        ({"end": 0.0}, "end 0.0: above 0 and at most 1"),
        ({"end": 1.5}, "end 1.5: above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=why):
            PruneLarge.Config(**options)


def test_validate_is_the_curve_s(make_training):
    """Contract 2.4, validate: equals ``val_top1`` and ``val_loss`` of the curve, and is charged."""
    found = []

    class Asks(PruneLarge):
        def on_epoch_end(self, ctx):
            found.append(ctx.validate())

    training = make_training(Asks(), arch="resnet20", keep=0.5)
    training.ctx.masks = training.ctx.rank(training.method.scores(training.ctx), "layer")
    carry_out(training, (Phase(2),))
    assert found == [(entry["val_top1"], entry["val_loss"]) for entry in training.curve]
    assert training.model.ledger.forward == 2 * len(training.data.val.labels)
    assert training.model.network.training
    val = torch.cat([y for _, y in training.ctx.batches("val")])
    images = torch.cat([x for x, _ in training.ctx.batches("val")])
    with torch.no_grad():
        logits = training.model.network.eval()(images)
    assert found[-1][1] == pytest.approx(F.cross_entropy(logits, val).item(), rel=1e-5)
