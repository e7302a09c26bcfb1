"""A method that tells which GPU it has, on machines without any: what there is of it is pretended."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.api import PRUNE, Method, Phase, method
from slurm import worker

worker.gpu_memory = lambda: (70, 80)


@method("gpu_user")
class GpuUser(Method):
    """Keeps the larger weights; notes its process and GPU in the folder ``PRETENDED``."""

    @dataclass(frozen=True)
    class Config:
        """``seconds``: of sleep at the end of an epoch; ``epochs``: before the prune."""

        seconds: float = 0.1
        epochs: int = 3

    def plan(self, ctx):
        """As many epochs as a test wants, though its base has few."""
        return (Phase(self.config.epochs), PRUNE, Phase(1, part="finetune"))

    def prepare(self, ctx):
        """Say where this is."""
        told = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "process": os.getpid()}
        with (Path(os.environ["PRETENDED"]) / "seen.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")

    def on_epoch_end(self, ctx):
        """Take time."""
        time.sleep(self.config.seconds)

    def scores(self, ctx):
        """Sums of absolute weights."""
        return {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
