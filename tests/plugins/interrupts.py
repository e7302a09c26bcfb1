"""A method that does what Ctrl-C does, at an epoch of its choice."""

import os
import signal
from dataclasses import dataclass

from bench.api import Method, method


@method("interrupts")
class Interrupts(Method):
    """Keeps the larger weights, and sends its process the signal of Ctrl-C after some epochs."""

    @dataclass(frozen=True)
    class Config:
        """``after``: epochs that are trained before."""

        after: int = 1

    def prepare(self, ctx):
        """Count the epochs of this process."""
        self.epochs = 0

    def on_epoch_end(self, ctx):
        """On resume the count starts again, so with as many epochs as there are the signal comes once."""
        self.epochs += 1
        if self.epochs == self.config.after:
            os.kill(os.getpid(), signal.SIGINT)
