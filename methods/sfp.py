"""Soft filter pruning: filters are zeroed after every epoch and may grow again in the next; the last ones are cut."""

from dataclasses import dataclass

from bench.api import Method, method, require_ranges
from methods.papers import HE2018


@method("sfp", paper=HE2018)
class SoftFilterPruning(Method):
    """Soft filter pruning: zero what the budget would remove now, after every epoch, and train it on."""

    writes = ("on_epoch_end",)

    @dataclass(frozen=True)
    class Config:
        """Options."""

        every: int = 1  # epochs from one zeroing to the next (code)

        def __post_init__(self):
            require_ranges(self, every="[1, inf)")

    def zero(self, ctx):
        """Weights of units that a PRUNE would remove now become zero; norms, biases and momentum stay."""
        for name, mask in ctx.select().items():
            ctx.sites[name].scale_(mask, "makes")

    on_phase_end = zero  # not before the first epoch: where beta is 0, a filter behind a norm and a ReLU stays dead

    def on_epoch_end(self, ctx):
        """The same after every so many epochs."""
        if (ctx.epoch + 1) % self.config.every == 0:
            self.zero(ctx)
