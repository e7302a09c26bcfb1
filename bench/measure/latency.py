"""Latency of two networks, interleaved in one process so that clock drift hits both alike; and peak memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.environment import device_name, place

WARMUP_S, MEASURE_S = 0.5, 2.0
ROUNDS = (20, 300)
"""Least and most rounds; in between, as many as fit in MEASURE_S."""


@torch.inference_mode()
def compare(
    dense: nn.Module, sliced: nn.Module, shape: tuple[int, ...], batch: int, device: torch.device
) -> dict[str, Any]:
    """Time ``dense`` and ``sliced`` on ``[batch, *shape]``: eval mode, float32, channels-last, eager.

    Returns all samples in milliseconds, medians, and the speed-up (ratio of medians) with a 95 % bootstrap
    interval over rounds. Each round times both once, in alternating order.
    """
    x = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
    networks = [place(n, device).float().eval() for n in (dense, sliced)]
    clock = _cuda_ms if device.type == "cuda" else _cpu_ms
    calls: list[Callable[[], Any]] = [partial(n, x) for n in networks]
    once = _warm_up(calls, clock)
    rounds = int(np.clip(MEASURE_S * 1000 / max(once, 1e-3), *ROUNDS))
    samples = np.empty((rounds, 2))
    for k in range(rounds):
        for which in (0, 1) if k % 2 == 0 else (1, 0):
            samples[k, which] = clock(calls[which])
    median = np.median(samples, axis=0)
    picks = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    resampled = np.median(samples[picks], axis=1)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], (0.025, 0.975))
    return {
        "batch": batch,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "runtime": "eager",
        "layout": "channels_last",
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "dense_ms": float(median[0]),
        "sliced_ms": float(median[1]),
        "speedup": float(median[0] / median[1]),
        "speedup_ci95": [float(low), float(high)],
        "dense_samples_ms": samples[:, 0].tolist(),
        "sliced_samples_ms": samples[:, 1].tolist(),
    }


def _warm_up(calls: list[Callable[[], Any]], clock: Callable[[Callable[[], Any]], float]) -> float:
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
def peak_memory_bytes(network: nn.Module, shape: tuple[int, ...], batch: int, device: torch.device) -> int:
    """Most memory held at once by tensors during one forward pass, weights included.

    CUDA: the allocator's own peak. CPU: running sum over the profiler's allocation events.
    """
    network = place(network, device).eval()
    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    x = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
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
