"""Torch-Pruning's importances as shipped in 1.6.1, defects included: what a user of that library gets.

A name that begins with ``tp_`` is never a name of the paper that its importance cites;
docs/methods/torch_pruning.md says what each one computes and where it differs.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_pruning as tp

from bench.api import Method, method, require_ranges
from bench.errors import RunFailed
from bench.pruning.dependency_graph import graph_of
from methods.papers import FANG2023


class TorchPruning(Method):
    """Scores each site by a torch-pruning importance of its group, on a traced copy of the network."""

    starts_from = "base"
    importance: Any = None  # makes the torch-pruning importance, which maps a group to its score

    def supports(self, site):
        """Sites whose units are channels."""
        several = len(site.network.get_submodule(site.name).weight) != site.n_units
        return "torch-pruning ranks channels, and a unit of it is several" if several else None

    def feed(self, ctx, importance, traced):
        """Give the importance the gradients or activations it reads; those of weights need none."""

    def scores(self, ctx):
        """The importance of each site's group; everything happens on the copy, so the network stays as it is."""
        network = next(iter(ctx.sites.values())).network
        with ctx.probe(gradients=True):  # gives the global generator back, from which two importances draw
            torch.manual_seed(int(torch.randint(2**31, (), generator=ctx.rng, device=ctx.device)))
            traced = graph_of(network, ctx.shape)
            traced.network.to(ctx.device)
            importance = self.importance()
            self.feed(ctx, importance, traced)
            return {n: self.score(n, w, importance, traced).to(ctx.device) for n, w in ctx.sites.widths.items()}

    def score(self, site, units, importance, traced):
        """Score ``[n_units]`` of one site; where torch-pruning has none, the run fails and says so."""
        try:
            score = importance(traced.group(site))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise RunFailed(f"{self.name}: torch-pruning fails on site {site} ({why})") from error
        if score is None:
            raise RunFailed(f"{self.name}: torch-pruning skips site {site}, it has no layer of the kind this reads")
        score = score.detach()
        if score.shape != (units,) or not bool(score.isfinite().all()):
            raise RunFailed(f"{self.name}: torch-pruning gives no number for each of the {units} units of site {site}")
        return score


class FromImages(TorchPruning):
    """An importance that reads gradients or activations of training images."""

    @dataclass(frozen=True)
    class Config:
        """Options."""

        batches: int = 10  # training batches to look at (code: Torch-Pruning's reproduce scripts)

        def __post_init__(self):
            require_ranges(self, batches="[1, inf)")

    def feed(self, ctx, importance, traced):
        """Show it the batches, in eval mode and float32 as Torch-Pruning's scripts do."""
        for x, y in ctx.batches("train", limit=self.config.batches):
            self.show(ctx, importance, traced.network, x, y)

    def show(self, ctx, importance, network, x, y):
        """One batch; by default its mean gradient adds up in the copy's parameters."""
        ctx.loss(network(x), y).backward()


@method("tp_magnitude", paper=FANG2023)
class Magnitude(TorchPruning):
    """Torch-Pruning's GroupMagnitudeImportance: mean squared l2 norm of all layers in the group."""

    importance = tp.importance.GroupMagnitudeImportance


@method("tp_l1_first", paper=FANG2023)
class L1First(TorchPruning):
    """Torch-Pruning's GroupMagnitudeImportance set to l1 of the group's first layer: l1_norm on inner sites."""

    importance = staticmethod(
        partial(tp.importance.GroupMagnitudeImportance, p=1, group_reduction="first", normalizer=None)
    )


@method("tp_bn_scale", paper=FANG2023)
class BNScale(TorchPruning):
    """Torch-Pruning's BNScaleImportance: mean |gamma| of the group's batch norms; needs one at every site."""

    importance = tp.importance.BNScaleImportance
    needs = ("scaled_norm",)


@method("tp_lamp", paper=FANG2023)
class Lamp(TorchPruning):
    """Torch-Pruning's LAMPImportance: group magnitude over that of all units at least as large."""

    importance = tp.importance.LAMPImportance


@method("tp_fpgm", paper=FANG2023)
class Fpgm(TorchPruning):
    """Torch-Pruning's FPGMImportance as shipped: distances between squared weights, not between filters."""

    importance = tp.importance.FPGMImportance

    def supports(self, site):
        """Sites of several units."""
        return super().supports(site) or ("its one unit has no distance to others" if site.n_units == 1 else None)


@method("tp_random", paper=FANG2023)
class Random(TorchPruning):
    """Torch-Pruning's RandomImportance: uniform random numbers."""

    importance = tp.importance.RandomImportance


@method("tp_taylor", paper=FANG2023)
class Taylor(FromImages):
    """Torch-Pruning's GroupTaylorImportance as shipped: sum of |weight x gradient|, batch norms left out."""

    importance = tp.importance.GroupTaylorImportance


@method("tp_hessian", paper=FANG2023)
class Hessian(FromImages):
    """Torch-Pruning's GroupHessianImportance as shipped: weight² x gradient² of the last image alone."""

    importance = tp.importance.GroupHessianImportance

    def show(self, ctx, importance, network, x, y):
        """Image by image; in eval mode each image's gradient is its own whatever the batch."""
        for image, label in zip(x.split(1), y.split(1), strict=True):
            network.zero_grad()
            super().show(ctx, importance, network, image, label)
            importance.accumulate_grad(network)


@method("tp_obdc", paper=FANG2023)
class Obdc(FromImages):
    """Torch-Pruning's OBDCImportance: weight² x Fisher diagonal of the producers; fails on layers with a bias."""

    importance = tp.importance.OBDCImportance

    def supports(self, site):
        """Sites that are made without a bias."""
        biased = [p for p in site.producers if getattr(site.network.get_submodule(p), "bias", None) is not None]
        why = f"{biased[0]} has a bias, for which torch-pruning has no weight" if biased else None
        return super().supports(site) or why

    def feed(self, ctx, importance, traced):
        """Hook all layers it may meet, then show the batches. Its own set-up wants a whole pruner for that, and a
        kind of backward hook that torch gives up."""

        def watch(layer, given, output):
            output.register_hook(lambda gradient: importance._save_grad_output(layer, None, (gradient,)))

        for layer in traced.graph.module2node:
            if isinstance(layer, tuple(importance.target_types)):
                importance.modules.append(layer)
                layer.register_forward_pre_hook(importance._save_input)
                layer.register_forward_hook(watch)
        super().feed(ctx, importance, traced)

    def show(self, ctx, importance, network, x, y):
        """Labels are drawn from the network's own prediction, as the Fisher information wants them."""
        logits = network(x)
        importance.num_classes = logits.shape[1]  # linear layers of this width are skipped
        super().show(ctx, importance, lambda _: logits, x, logits.detach().softmax(dim=1).multinomial(1).squeeze(1))
        importance.step()


@method("tp_activation", paper=FANG2023)
class Activation(FromImages):
    """Torch-Pruning's ActivationImportance as shipped: mean |input| of the readers in the last batch alone."""

    importance = tp.importance.ActivationImportance

    def supports(self, site):
        """Sites of which each reader reads a unit once."""
        flat = [tap.layer for tap in site.consumers if len(tap.positions) > site.n_units]
        why = f"{flat[0]} reads a unit at several inputs, of which torch-pruning keeps each" if flat else None
        return super().supports(site) or why

    def show(self, ctx, importance, network, x, y):
        """Its hooks record the inputs of every layer."""
        with torch.no_grad(), importance.compute_importance(network):
            network(x)
