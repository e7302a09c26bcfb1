"""GAL on residual blocks: weights, steps, labels and refusals (MR 4 by number)."""

import pytest
import torch
from support.block_networks import Added
from support.networks import GREY, residual
from support.plans import carry_out, prune, same, state_of
from support.soft_masks import start
from torch import nn

from bench.api import PRUNE, Phase
from bench.conformance.tiny_networks import depth
from bench.errors import Unsupported
from bench.runs.method_factory import make_method
from methods.gal import Gal, SoftMaskFista


def blocks(make_training, method=SoftMaskFista, **options):
    torch.manual_seed(1)
    return start(make_training, method, arch=depth("A", shape=GREY, num_classes=10), units="depth", **options)


def test_mr_4e_weights_are_those_of_what_is_masked(make_training):
    """MR 4(e): mu and lam of the code, lam 1e-3 for channels, (1, 0.6) for blocks; an option wins, 0 too."""
    of_channels, of_blocks = start(make_training, Gal, mu=0.0).method, blocks(make_training, Gal).method
    assert (of_channels.mu, of_channels.lam) == (0.0, 1e-3)
    assert (of_blocks.mu, of_blocks.lam) == (1.0, 0.6)


def test_mr_4g1_blocks_reach_zero_and_leave(make_training):
    """MR 4(g)1, (d): one mask a block, over all sites; in the native track a block at zero goes, one a site stays."""
    training = blocks(make_training, lam=20.0)
    carry_out(training, (Phase(2, "finetune"),))
    masks = training.method.scores(training.ctx)
    assert [len(mask) for mask in masks.values()] == [3, 2] and all((mask >= 0).all() for mask in masks.values())
    assert (training.ctx.flat(masks) == 0).any()
    training.ctx._budget = None
    for name, kept in training.method.select(training.ctx, training.ctx.budget).items():
        assert kept.any() and torch.equal(kept, (masks[name] > 0) | (masks[name] == masks[name].max()))


def test_mr_4g4_blocks_without_labels_are_the_same(make_training):
    """MR 4(g)4, of blocks; the teacher is the base, with all blocks."""
    one, two = (blocks(make_training, Gal, lam=0.1) for _ in range(2))
    object.__setattr__(two.data.train, "labels", torch.zeros_like(two.data.train.labels))
    for each in (one, two):
        carry_out(each, (Phase(2, "finetune"), PRUNE), prune)
    assert same(one.model.sliced_by, two.model.sliced_by) and not one.model.sliced_by["1"].all()
    assert same(state_of(one.model.network), state_of(two.model.network))


def test_blocks_without_a_last_norm_are_refused(make_training):
    """What a mask multiplies must be able to take it in; so must what a padded shortcut reads."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Added(nn.Conv2d(4, 4, 1)), Added(nn.Conv2d(4, 4, 1)))
    network = nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    ctx = make_training(None, arch=network, shape=GREY, units="depth").ctx
    with pytest.raises(Unsupported, match="does not work on site 2: a branch of it ends in no batch norm with"):
        make_method("gal", {}).require(ctx.sites)
    streams = make_training(
        None, arch=residual(option="A", shape=GREY, num_classes=10), shape=GREY, coupling="full"
    ).ctx
    with pytest.raises(Unsupported, match=r"reads it and has no weight that could be scaled"):
        make_method("gal", {}).require(streams.sites)
