"""Milliseconds of many loaded networks, in bursts: a network that has not run for a while has cold weights.

Networks come in shuffled order. A visit discards a few calls, then times a few; what counts is the median of these, and
of all visits the lower quartile, which other work on the machine hardly moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.errors import RunFailed
from bench.files import write_atomic
from bench.measure import latency, onnx_export
from bench.measure.quiet import Machine

DISCARDED, TIMED = 2, 5
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
    """Calls that run each network on one batch of random images, one a copy.

    Args:
        networks: on the CPU; a runtime that converts them gets files of torch's former exporter, which takes a tenth
            of the time of the one that :func:`bench.measure.onnx_export.to_onnx` uses. Both run equally fast.
        shape: of one image.
        batch: images of a call.
        runtime: one of ``latency.RUNTIMES``.
        layout: memory format of the networks, where the runtime has none of its own.
        folder: for these files.
        copies: how often each is loaded.

    Raises RunFailed for a network that the runtime cannot take.
    """
    device, layout = latency.place_of(runtime, torch.device("cpu"), layout)
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for number, network in enumerate(networks):
        file = folder / f"{number}.{runtime}"
        if runtime != "eager":
            write_atomic(file, partial(_write, network, (batch, *shape)))
        load = latency.RUNTIMES[runtime].load
        found.append([load(network, shape, device, layout, file)(x) for _ in range(copies)])
        file.unlink(missing_ok=True)
    return found


def _write(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    names: dict[str, Any] = {"input_names": [onnx_export.INPUT], "output_names": [onnx_export.OUTPUT]}
    names |= {"opset_version": onnx_export.OPSET}
    try:
        with onnx_export._silent():
            torch.onnx.export(onnx_export._frozen(network), (torch.zeros(shape),), str(path), dynamo=False, **names)
    except Exception as error:  # whatever the exporter and the network's own code raise
        lines = str(error).strip().splitlines() or [""]
        name = type(network).__name__
        raise RunFailed(f"{name} cannot be exported to ONNX: {type(error).__name__}: {lines[0]}") from error


@torch.inference_mode()
def burst_ms(calls: Sequence[Call], machine: Machine, seed: int = 0) -> Floats:
    """Milliseconds ``[visits, calls]``: in each visit the median of a burst of calls.

    Raises :class:`bench.measure.quiet.Busy` where other work runs on the machine.
    """
    rng = np.random.default_rng(seed)
    for call in calls:
        call()
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
    found = np.empty(len(calls))
    for k in rng.permutation(len(calls)):
        call = calls[k]
        for _ in range(DISCARDED):
            call()
        burst = []
        for _ in range(TIMED):
            start = time.perf_counter()
            call()
            burst.append(time.perf_counter() - start)
        found[k] = sorted(burst)[TIMED // 2] * 1000
    return found


def lower_quartile(visits: Floats) -> Floats:
    """What a network takes, ``[calls]``, of :func:`burst_ms`."""
    found = np.quantile(visits, 0.25, axis=0)
    return np.asarray(found)
