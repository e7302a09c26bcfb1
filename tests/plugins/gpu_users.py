"""A method that tells which GPU it has, on machines without any: what there is of it is pretended."""

import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.api import PRUNE, Method, Phase, method
from slurm import worker
from slurm.place import REPORT, WORKER


def here():
    """The worker, whose copy this process is, as it is noted in the folder ``PRETENDED``."""
    gpu, number = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ.get(WORKER)
    worker_process = multiprocessing.parent_process()
    process = worker_process.pid if worker_process else os.getpid()
    return {"gpu": gpu, "process": process, "worker": None if number is None else int(number)}


def note(name):
    """Add the worker to a file of that folder."""
    with (Path(os.environ["PRETENDED"]) / name).open("a") as file:
        file.write(json.dumps(here()) + "\n")


def begun():
    """The workers that have begun."""
    file = Path(os.environ["PRETENDED"]) / "begun.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def processes(gpu=None):
    """How many workers have begun, of all GPUs or of one."""
    return sum(gpu in (None, one["gpu"]) for one in begun())


def epoch(self, kind, seconds, _epoch=worker.Reports.epoch):
    """An epoch takes a second; on a busy GPU one for each process that ever had it."""
    busy = os.environ.get("PRETENDED_GPU") == "busy"
    _epoch(self, kind, float(processes(here()["gpu"])) if busy else 1.0)


if REPORT in os.environ:  # before the first epoch of this process
    if here() not in begun():
        note("begun.jsonl")
    worker.Reports.epoch = epoch
    worker.gpu_memory = lambda: (70, 80)


@method("gpu_user")
class GpuUser(Method):
    """Keeps the larger weights; notes its process and GPU in the folder ``PRETENDED``."""

    @dataclass(frozen=True)
    class Config:
        """``seconds``: of sleep after an epoch; ``epochs``: before the prune; ``together``: workers that must have
        begun before an epoch ends."""

        seconds: float = 0.1
        epochs: int = 3
        together: int = 0

    def plan(self, ctx):
        """As many epochs as a test wants, though its base has few."""
        return (Phase(self.config.epochs), PRUNE, Phase(1, part="finetune"))

    def prepare(self, ctx):
        """Say where this is."""
        note("seen.jsonl")

    def on_epoch_end(self, ctx):
        """Take time."""
        time.sleep(self.config.seconds)
        while self.config.together and processes() < self.config.together:
            time.sleep(0.05)

    def scores(self, ctx):
        """Sums of absolute weights."""
        return {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
