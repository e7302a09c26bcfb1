"""NISP: importance of the final responses, propagated to every unit by absolute weights; see docs/methods/nisp.md."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.func import functional_call

from bench.api import Method, method, require_ranges
from methods.inf_fs import inf_fs
from methods.papers import YU2018


@method("nisp", paper=YU2018)
class Nisp(Method):
    """Rank the final responses, and give every unit its share of them by absolute weights (Yu et al. 2018)."""

    starts_from = "base"
    needs = ("relu",)

    @dataclass(frozen=True)
    class Config:
        """Options."""

        frl: Literal["inf_fs", "classifier"] = "inf_fs"  # what ranks the final responses (third party)
        alpha: float = 0.5  # weight of deviations against correlations in inf_fs (third party)
        norm: Literal["effective", "identity"] = "effective"  # batch norm by its scale, or left out (ours)
        batches: int = 4  # training batches that inf_fs looks at (ours)

        def __post_init__(self):
            require_ranges(self, alpha="[0, 1]", batches="[1, inf)")

    def scores(self, ctx):
        """Of each unit the sum over all that reads it."""
        return ctx.to_units(self.propagate(ctx, self.final(ctx)))

    def final(self, ctx):
        """What each input of the last layer is worth, ``[F]``."""
        if self.config.frl == "classifier":
            return ctx.head.matrix().detach().abs().sum(dim=0).double()
        samples = ctx.samples([ctx.head], images=self.config.batches * ctx.recipe.batch_size)
        return inf_fs(samples[ctx.head.name], self.config.alpha)

    def propagate(self, ctx, worth):
        """Derivative of the final responses, weighted with ``worth``, by what each reader reads: name -> ``[1, ...]``.

        In the network of :meth:`absolute`, where it does not depend on the image.
        """
        network = next(iter(ctx.sites.values())).network
        state, ones = self.absolute(network), torch.ones_like(next(ctx.batches())[0][:1]).double().requires_grad_()
        with ctx.probe(gradients=True), ctx.inputs([*ctx.readers, ctx.head], gradients=True) as found:
            once = functional_call(network, state, (ones,))
            total = (found[ctx.head.name].movedim(1, -1) * worth).sum()
            inputs = {name: found[name] for name in ctx.readers}
            slopes = torch.autograd.grad(total, list(inputs.values()), materialize_grads=True, allow_unused=True)
            much = functional_call(network, state, (2**20 * ones,))
        if not torch.allclose(much, 2**20 * once, rtol=1e-6, atol=0):
            raise ValueError("nisp: the network has an activation, a norm or a constant that scores do not pass")
        return dict(zip(inputs, slopes))

    def absolute(self, network):
        """State of that network with absolute weights and scales, biases and means of zero.

        In double precision: sums of absolute weights grow with the depth.
        """
        zero = ("bias", "running_mean")
        state = {n: t.double().abs() * (not n.endswith(zero)) for n, t in network.state_dict().items()}
        if self.config.norm == "identity":  # of batch norms the scale and the variance are 1
            for name in [n.removesuffix("running_var") for n in state if n.endswith("running_var")]:
                ones = torch.ones_like(state[f"{name}running_var"])
                state |= {n: ones for n in (f"{name}weight", f"{name}running_var") if n in state}
        return state
