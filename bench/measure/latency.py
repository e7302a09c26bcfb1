"""Latency of two networks, interleaved in one process so that clock drift affects both; and peak memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.files import write_atomic
from bench.measure import onnx_export
from bench.models.memory_format import LAYOUT, laid_out, place
from bench.spec.near_names import unknown

WARMUP_S, MEASURE_S = 0.5, 2.0
ROUNDS = (20, 300)
"""Least and most rounds; in between, as many as fit in MEASURE_S."""
QUICK_ROUNDS = 6
"""Rounds of a time that is only printed."""


@dataclass(frozen=True)
class Runtime:
    """A program that executes a network.

    Attributes:
        package: whose version is recorded.
        layout: memory format of the images; None for that of the networks.
        device: the only one it runs on here; None for any.
        load: ``(network, shape, device, layout, file)`` -> what binds the network to images; may raise RunFailed. A
            runtime that has to convert the network keeps the result in ``file`` and takes it from there next time.
        require: raises SetupError where it cannot run.
    """

    package: str
    layout: str | None
    device: torch.device | None
    load: Callable[[nn.Module, tuple[int, ...], torch.device, str, Path | None], onnx_export.Bind]
    require: Callable[[], object]


def eager(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, layout: str = LAYOUT, file: Path | None = None
) -> onnx_export.Bind:
    """``network`` itself, layer by layer: eval mode, float32, memory format as in ``bench.models.memory_format``."""
    placed = place(network, device, layout).float().eval()
    return lambda x: partial(placed, laid_out(x, layout))


def _onnxruntime(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, layout: str, file: Path | None = None
) -> onnx_export.Bind:
    if file is not None and file.exists():
        return onnx_export.load(file)
    model = onnx_export.convert(network, shape)
    onnx_export.check_onnx(model, network, shape)
    if file is not None:
        write_atomic(file, lambda temporary: temporary.write_bytes(model))
    return onnx_export.load(model)


RUNTIMES = {
    "eager": Runtime("torch", None, None, eager, lambda: None),
    "onnxruntime": Runtime("onnxruntime", "channels_first", torch.device("cpu"), _onnxruntime, onnx_export.require),
}


def require(runtimes: Iterable[str]) -> None:
    """Raise UsageError for an unknown runtime, SetupError for one that is not installed."""
    for name in runtimes:
        if name not in RUNTIMES:
            raise unknown("runtime", name, RUNTIMES)
        RUNTIMES[name].require()


@torch.inference_mode()
def quick(
    dense: nn.Module,
    final: nn.Module,
    shape: tuple[int, ...],
    batches: Iterable[int],
    device: torch.device,
    layout: str = LAYOUT,
) -> list[tuple[int, float, float]]:
    """Batch size and milliseconds of both networks on ``[batch, *shape]``, eager: the medians of a few rounds.

    It says whether something is slow. It is no measurement: that needs a quiet machine and several processes.
    """
    clock, found = _clock(device), []
    bound = [eager(network, shape, device, layout) for network in (dense, final)]
    for batch in batches:
        calls = [bind(torch.rand(batch, *shape, device=device)) for bind in bound]
        medians = np.median(_timed(calls, clock, QUICK_ROUNDS)[1:], axis=0)  # the first warms up
        found.append((batch, float(medians[0]), float(medians[1])))
    return found


def place_of(runtime: str, device: torch.device, layout: str) -> tuple[torch.device, str]:
    """Device and memory format in which a runtime runs a network, for which these were asked."""
    how = RUNTIMES[runtime]
    return how.device or device, how.layout or layout


def version_of(runtime: str) -> str:
    """Version of the package that executes networks."""
    return metadata.version(RUNTIMES[runtime].package)


@torch.inference_mode()
def interleaved(calls: Sequence[Callable[[], Any]], device: torch.device) -> np.ndarray:
    """Milliseconds ``[rounds, calls]``, to the nanosecond; each round times every call, every second one backward."""
    clock = _clock(device)
    once = _warm_up(calls, clock)
    return _timed(calls, clock, int(np.clip(MEASURE_S * 1000 / max(once, 1e-3), *ROUNDS)))


def _timed(calls: Sequence[Callable[[], Any]], clock: Callable[[Callable[[], Any]], float], rounds: int) -> np.ndarray:
    samples = np.empty((rounds, len(calls)))
    order = range(len(calls))
    for k in range(rounds):
        for which in order if k % 2 == 0 else reversed(order):
            samples[k, which] = clock(calls[which])
    return samples.round(6)  # no clock here is finer


def _clock(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    return _cuda_ms if device.type == "cuda" else _cpu_ms


def _warm_up(calls: Sequence[Callable[[], Any]], clock: Callable[[Callable[[], Any]], float]) -> float:
    """Run until the median of a window no longer falls by 5 %; returns the milliseconds of one round."""
    deadline, window, last = time.perf_counter() + 4 * WARMUP_S, 5, np.inf
    start = time.perf_counter()
    while True:
        now = float(np.median([sum(clock(call) for call in calls) for _ in range(window)]))
        elapsed = time.perf_counter()
        if elapsed > deadline or (now > 0.95 * last and elapsed - start > WARMUP_S):
            return now
        last = min(last, now)


def _cpu_ms(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def _cuda_ms(call: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


@torch.inference_mode()
def peak_memory_bytes(
    network: nn.Module, shape: tuple[int, ...], batch: int, device: torch.device, layout: str = LAYOUT
) -> int:
    """Most memory held at once by tensors during one forward pass, weights included.

    CUDA: the allocator's own peak. CPU: running sum over the profiler's allocation events.
    """
    network = place(network, device, layout).eval()
    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    x = laid_out(torch.rand(batch, *shape, device=device), layout)
    network(x)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        network(x)
        torch.cuda.synchronize(device)
        return weights + torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports a missing GPU on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as trace:
        network(x)
    events = trace.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return weights + int(np.cumsum([0, *changes]).max())
