"""A method whose epochs take as long as a test wants."""

import time
from dataclasses import dataclass

from bench.api import Method, method


@method("sleepy")
class Sleepy(Method):
    """Keeps the larger weights, and sleeps at the end of every epoch before the prune."""

    @dataclass(frozen=True)
    class Config:
        """``seconds``: of sleep."""

        seconds: float = 0.5

    def on_epoch_end(self, ctx):
        """Sleep."""
        time.sleep(self.config.seconds)

    def scores(self, ctx):
        """Sums of absolute weights."""
        return {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
