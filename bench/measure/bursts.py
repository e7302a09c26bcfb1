"""Milliseconds of many loaded networks, in bursts: a network that has not run for a while has cold weights.

Networks come in shuffled order, again and again; what counts of a network is the lower quartile over its visits, which
other work on the machine hardly moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.measure import latency, runtimes
from bench.measure.quiet import Machine

VISITS = (20, 100)
"""Least and most visits of a network; in between, as many as fit in ``TOTAL_S``."""
TOTAL_S, WINDOW_S = 120.0, 2.0
"""Seconds that all visits may take; least that are timed between two looks at who else uses the machine."""

Call = Callable[[], Any]
Floats = NDArray[np.float64]


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Within the block torch, and what is loaded, has so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def loaded(
    networks: Iterable[nn.Module],
    shape: tuple[int, ...],
    batch: int,
    runtime: str,
    layout: str,
    folder: Path,
    copies: int = 1,
) -> list[list[Call]]:
    """Calls that run each network on one batch of random images, one a copy: a loaded copy has a bias of its own.

    Args:
        networks: on the CPU.
        shape: of one image.
        batch: images of a call.
        runtime: of ``runtimes.RUNTIMES``, one that is ``quick``.
        layout: memory format of the networks, where the runtime has none of its own.
        folder: for files of runtimes that convert networks; each is removed when it is loaded.
        copies: how often each is loaded.

    Raises RunFailed for a network that the runtime cannot take, or computes otherwise than PyTorch.
    """
    device, layout = runtimes.place_of(runtime, runtimes.CPU, layout)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for number, network in enumerate(networks):
        file = folder / f"{number}.onnx"
        each = [runtimes.load(runtime, network, shape, device, layout, file, quick=True) for _ in range(copies)]
        found.append([bind(x) for bind in each])
        file.unlink(missing_ok=True)
    return found


@torch.inference_mode()
def burst_ms(calls: Sequence[Call], machine: Machine, seed: int = 0) -> Floats:
    """Milliseconds ``[visits, calls]``: in each visit those of :func:`bench.measure.latency.burst`.

    Raises :class:`bench.measure.quiet.Busy` where other work runs on the machine.
    """
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    _visit(calls, rng)
    once = max(time.perf_counter() - began, 1e-6)
    visits = int(np.clip(TOTAL_S / once, *VISITS))
    each = max(1, math.ceil(WINDOW_S / once))
    machine.wait()
    found: list[Floats] = []
    while sum(map(len, found)) < visits:
        window, _, _ = machine.undisturbed(lambda: np.array([_visit(calls, rng) for _ in range(each)]))
        found.append(window)
    return np.concatenate(found)


def _visit(calls: Sequence[Call], rng: np.random.Generator) -> Floats:
    found, clock = np.empty(len(calls)), latency.clock_of(runtimes.CPU)
    for k in rng.permutation(len(calls)):
        found[k] = latency.burst(clock, calls[k])
    return found


def lower_quartile(visits: Floats) -> Floats:
    """What a network takes, ``[calls]``, of :func:`burst_ms`."""
    found = np.quantile(visits, 0.25, axis=0)
    return np.asarray(found)
