"""Latency of two networks, interleaved in one process so that clock drift affects both; and peak memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure.runtimes import eager
from bench.models.memory_format import LAYOUT, laid_out, place

WARMUP_S, MEASURE_S = 0.5, 2.0
ROUNDS = (20, 300)
"""Least and most rounds; in between, as many as fit in MEASURE_S."""
QUICK_ROUNDS = 6
"""Rounds of a time that is only printed."""
DISCARDED, TIMED = 2, 5
"""Calls of a burst: the first bring weights into the cache, the median of the others is the burst's time."""

Clock = Callable[[Callable[[], Any]], float]


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
    clock, found = clock_of(device), []
    bound = [eager(network, device, layout) for network in (dense, final)]
    for batch in batches:
        calls = [bind(torch.rand(batch, *shape, device=device)) for bind in bound]
        medians = np.median(_timed(calls, clock, QUICK_ROUNDS)[1:], axis=0)  # the first warms up
        found.append((batch, float(medians[0]), float(medians[1])))
    return found


@torch.inference_mode()
def interleaved(calls: Sequence[Callable[[], Any]], device: torch.device, in_bursts: bool = False) -> np.ndarray:
    """Milliseconds ``[rounds, calls]``, to the nanosecond; each round times every call, every second one backward.

    In bursts, a round times several calls in a row, see :func:`burst`.
    """
    clock: Clock = partial(burst, clock_of(device)) if in_bursts else clock_of(device)
    once = _warm_up(calls, clock) * (DISCARDED + TIMED if in_bursts else 1)
    return _timed(calls, clock, int(np.clip(MEASURE_S * 1000 / max(once, 1e-3), *ROUNDS)))


def burst(clock: Clock, call: Callable[[], Any]) -> float:
    """Milliseconds of a call by several in a row: weights are in the cache, as of a network that runs alone."""
    for _ in range(DISCARDED):
        call()
    return float(np.median([clock(call) for _ in range(TIMED)]))


def _timed(calls: Sequence[Callable[[], Any]], clock: Clock, rounds: int) -> np.ndarray:
    samples = np.empty((rounds, len(calls)))
    order = range(len(calls))
    for k in range(rounds):
        for which in order if k % 2 == 0 else reversed(order):
            samples[k, which] = clock(calls[which])
    return samples.round(6)  # no clock here is finer


def clock_of(device: torch.device) -> Clock:
    """What says how many milliseconds a call takes; on CUDA by events."""
    return _cuda_ms if device.type == "cuda" else _cpu_ms


def _warm_up(calls: Sequence[Callable[[], Any]], clock: Clock) -> float:
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
