"""A method with state: fade out, over the training, the units that the budget will remove.

    python -m bench run --plugin examples/my_method.py --method fade --arch resnet20 \\
        --epochs 1 --finetune-epochs 1
"""

from dataclasses import dataclass

import torch

from bench.api import Method, method


@method("fade")
class Fade(Method):
    """Multiply the units below the budget by a factor that falls to zero; a unit that grows comes back; then prune."""

    @dataclass(frozen=True)
    class Config:
        """Options, given on the command line as -p KEY=VALUE."""

        closed_at: float = 0.75  # share of the training epochs after which the factor is zero
        momentum: float = 0.8  # weight of the past in the running mean of each unit's norm

    def prepare(self, ctx):
        """One buffer a site. Buffers are the checkpoint: a resumed run finds its running means again."""
        for name, site in ctx.sites.items():
            # A buffer's name may hold no dot; it belongs on the context's device, where the weights are.
            self.register_buffer(name.replace(".", "_"), torch.zeros(site.n_units, device=ctx.device))

    def on_phase_start(self, ctx):
        """Start the running means at the weights as they are."""
        for name, norm in self.norms(ctx).items():
            self.running(name).copy_(norm)

    def on_batch_start(self, ctx):
        """Gate the batch. The prune is at the end of the plan, so all phases before it are this method's own."""
        if ctx.step == 0:
            # Chosen once an epoch: runs are resumed between epochs, so these masks need no buffer.
            self.kept = self.select(ctx, ctx.budget)
        closing = ctx.epoch / max(self.config.closed_at * ctx.recipe.train.epochs, 1e-9)
        factor = max(0.0, 1.0 - closing)
        ctx.gate({name: torch.where(mask, 1.0, factor) for name, mask in self.kept.items()})

    def on_epoch_end(self, ctx):
        """Follow the weights, and note in the record's curve how much the choice still moves."""
        for name, norm in self.norms(ctx).items():
            self.running(name).lerp_(norm, 1 - self.config.momentum)
        chosen = self.select(ctx, ctx.budget)
        ctx.log(units_changed=sum(int((chosen[n] != self.kept[n]).sum()) for n in ctx.sites))

    def scores(self, ctx):
        """The running norm of each unit's weights."""
        return {name: self.running(name) for name in ctx.sites}

    def select(self, ctx, budget):
        """The highest units, the same share of every site; ``ctx.rank`` keeps within the budget."""
        return ctx.rank(self.scores(ctx), "layer")

    def running(self, name):
        """The buffer of a site."""
        return self.get_buffer(name.replace(".", "_"))

    @staticmethod
    def norms(ctx):
        """l2 norm of each unit's weights."""
        return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}
