"""Soft filter pruning; numbers are those of the tests (g) of the specification's section 17."""

import numpy as np
import pytest
import torch
from support.plans import carry_out, prune
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.pruning.gates import Gates
from bench.runs.method_factory import make_method
from methods.sfp import SoftFilterPruning


class Noted(SoftFilterPruning):
    """Notes which rows are zero after each zeroing, and what the rows were before."""

    def zero(self, ctx):
        before = {name: site.rows().detach().double().numpy() for name, site in ctx.sites.items()}
        super().zero(ctx)
        after = {name: site.rows().detach().abs().sum(dim=1) == 0 for name, site in ctx.sites.items()}
        self.noted = [*getattr(self, "noted", []), (before, after)]

    on_phase_end = zero

    def on_step_end(self, ctx):
        self.moved = [*getattr(self, "moved", []), [int((s.rows() == 0).all(dim=1).sum()) for s in ctx.sites.values()]]


def smallest(rows, kept):
    """Units below the ``kept`` largest l2 norms, in float64."""
    order = np.argsort(-np.sqrt((rows**2).sum(axis=1)), kind="stable")
    gone = np.ones(len(rows), dtype=bool)
    gone[order[:kept]] = False
    return gone.tolist()


def alive(training):
    """Biases that keep a neuron of zero weights active, so that it has a gradient."""
    with torch.no_grad():
        for name, parameter in training.model.network.named_parameters():
            parameter.fill_(1.0) if name.endswith("bias") else None
    return training


def test_17g1_zeroed_are_the_smallest_within_the_budget_and_they_grow_again(make_training):
    """MR 17(g)1: not masked: without norms they are non-zero after the next step."""
    training = alive(make_training(method := Noted(), arch="mlp_40_40", keep=0.4))
    kept = training.ctx.equal_widths()
    carry_out(training, (Phase(3),))
    assert len(method.noted) == 4  # after three epochs, at the end
    for before, zero in method.noted:
        for name, rows in before.items():
            assert zero[name].tolist() == smallest(rows, kept[name])
    steps = len(method.moved) // 3
    assert method.moved[0] == method.moved[steps] == [0, 0]  # the first step of the first and of the second epoch


def test_17g1_every_so_many_epochs(make_training):
    training = make_training(method := Noted(SoftFilterPruning.Config(every=3)), arch="mlp_40_40")
    carry_out(training, (Phase(4),))
    assert len(method.noted) == 2  # after the third epoch, at the end
    training = make_training(SoftFilterPruning(SoftFilterPruning.Config(every=3)), arch="mlp_40_40")
    carry_out(training, (Phase(4),))
    assert all((site.rows() == 0).all(dim=1).any() for site in training.ctx.sites.values())


def trained(make_training, method, keep, seed=3):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU())
    network = nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    training = make_training(method, arch=network, keep=keep)
    carry_out(training, (Phase(2),))
    return training.model.network.state_dict()


def test_17g2_with_the_whole_budget_it_is_plain_training_to_the_bit(make_training):
    plain = trained(make_training, Method(), 1.0)
    assert all(torch.equal(v, plain[k]) for k, v in trained(make_training, SoftFilterPruning(), 1.0).items())
    half = trained(make_training, SoftFilterPruning(), 0.5)
    assert not torch.equal(half["0.weight"], plain["0.weight"])


def test_17g3_it_zeroes_and_cuts_by_the_ranking_of_its_composition(make_training):
    """MR 17(g)3: ``fpgm+sfp`` is the published method of FPGM; an oracle of the distances in float64."""
    method = make_method("fpgm+sfp", {})
    part, seen = method.members[1], []

    def zero(ctx, before=SoftFilterPruning.zero):
        rows = {name: site.rows().detach().double().numpy() for name, site in ctx.sites.items()}
        before(part, ctx)
        seen.append((rows, {name: site.rows().detach().abs().sum(dim=1) == 0 for name, site in ctx.sites.items()}))

    part.zero = part.on_phase_end = zero
    training = make_training(method, arch="mlp_40_40", keep=0.4)
    kept, differs = training.ctx.equal_widths(), 0
    carry_out(training, (Phase(2),))
    for rows, zeroed in seen:
        for name, weights in rows.items():
            distances = np.sqrt(((weights[:, None] - weights[None]) ** 2).sum(axis=2)).sum(axis=1)
            gone = sorted(np.argsort(-distances, kind="stable")[kept[name] :].tolist())
            assert zeroed[name].nonzero().flatten().tolist() == gone
            differs += zeroed[name].tolist() != smallest(weights, kept[name])
    assert differs > 0  # and not by the l2 norm, its own


def with_norms(bias=True):
    first, second = nn.Conv2d(1, 8, 3, padding=1, bias=bias), nn.Conv2d(8, 6, 3, bias=bias)
    body = first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


def test_17g1_they_grow_again_behind_norms_which_they_would_not_from_the_start(make_training):
    """Before the first epoch all betas and momenta are 0: a ReLU lets no gradient through to a zeroed filter."""
    training = make_training(method := Noted(), arch=with_norms(bias=False), keep=0.4)
    carry_out(training, (Phase(3),))
    assert all(any(zero.any() for zero in zeros.values()) for _, zeros in method.noted)
    assert method.moved == [[0, 0]] * len(method.moved)
    training = make_training(arch=with_norms(bias=False), keep=0.4)
    sites, masks = training.ctx.sites, training.ctx.select()
    for name, mask in masks.items():
        sites[name].scale_(mask, "makes")
    carry_out(training, (Phase(3),))
    assert all(torch.equal((sites[name].rows() != 0).any(dim=1), mask) for name, mask in masks.items())


def test_17g4_what_is_cut_has_no_weights_but_a_constant_output(make_training):
    """MR 17(g)4: norms, biases and momentum are left alone, so the cut takes ``act(beta)`` away."""
    training = make_training(SoftFilterPruning(), arch=with_norms(), keep=0.4)
    ctx, network = training.ctx, training.model.network
    carry_out(training, (Phase(3),))
    masks, sites = ctx.select(), ctx.sites
    for name, site in sites.items():
        assert (site.rows()[~masks[name]] == 0).all()
        assert (site.rows()[masks[name]] != 0).any(dim=1).all()
        (norm,) = site.affine()
        assert (norm.beta[~masks[name]] != 0).any()
        assert (norm.gamma[~masks[name]] != 0).all()
    network.eval()
    gates = Gates(network, sites)
    with torch.no_grad():
        whole = network(ctx.x)
        gates.set({name: mask.float() for name, mask in masks.items()})
        masked = network(ctx.x)
        gates.remove()
        sliced = sites.slice(network, masks)(ctx.x)
    assert torch.allclose(masked, sliced, atol=1e-5)
    assert (whole - sliced).abs().max() > 1e-3
    training.position = (1, 0)
    carry_out(training, (Phase(3), PRUNE), prune)
    assert all(torch.equal(training.model.sliced_by[name], mask) for name, mask in masks.items())


def test_momentum_of_zeroed_units_stays(make_training):
    """In the code of He et al. too; a momentum of zero would be a mask for a step."""

    class Looks(SoftFilterPruning):
        def on_epoch_end(self, ctx):
            super().on_epoch_end(ctx)
            mask = ctx.select()["1"]
            buffer = ctx._model.optimizer.state[ctx.sites["1"].weights()[0]]["momentum_buffer"]
            self.least = buffer[~mask].abs().amax(dim=1).min().item()

    training = alive(make_training(method := Looks(), arch="mlp_40_40"))
    carry_out(training, (Phase(1),))
    assert method.least > 0


def test_bad_option_is_answered_with_its_range():
    with pytest.raises(ValueError, match="every 0: 1 or more"):
        SoftFilterPruning.Config(every=0)
