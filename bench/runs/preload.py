"""What all runs import, read and look up alike, for a process that carries out each in a copy of itself."""

from __future__ import annotations

import torch

import bench.runs.execute  # noqa: F401  (what a run consists of)
from bench.measure import environment
from bench.runs.identity import suite_sha256
from bench.spec.registry import ARCHS, DATASETS, METHODS


def preload() -> None:
    """Do it, so that copies of this process need not. No code of a method, an architecture or a data set runs."""
    torch.set_num_threads(1)  # threads are not copied, and torch would wait for them
    torch.use_deterministic_algorithms(False)  # imports hundreds of modules
    torch.optim.SGD([torch.zeros(1)])  # and hundreds more
    for registry in (METHODS, ARCHS, DATASETS):
        registry.entries()
    suite_sha256()
    environment.packages()
