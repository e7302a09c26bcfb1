"""Measured latencies of rows: looked up by the shapes of their networks, no entry, no number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.records.latency import SAME, Line, Times
from bench.spec.wording import plural
from leaderboard.reader.latency_files import Latencies, Setting
from leaderboard.reader.times import Speed

if TYPE_CHECKING:
    from leaderboard.reader.extract import Values as Record


def settings(latencies: Latencies | None, arch_sha256: str | None) -> list[Setting]:
    """The setting that a board shows, once for its smallest and once for its largest batch; empty without any."""
    found = latencies.settings(arch_sha256) if latencies and arch_sha256 else []
    alike = [one for one in found if replace(one, batch=found[0].batch) == found[0]]
    return [alike[0], *alike[-1:][: len(alike) - 1]] if alike else []


def in_words(shown: Sequence[Setting]) -> str:
    """Such as ``onnxruntime 1.20, 1 thread, float32, on a chip``; empty without any."""
    if not shown:
        return ""
    one = shown[0]
    threads = plural(one.threads, "thread")
    return f"{one.runtime} {one.runtime_version}, {threads}, {one.dtype} {one.layout}, on {one.device}"


def speeds(done: Sequence[Record], shown: Iterable[Setting], latencies: Latencies | None) -> tuple[Speed, ...]:
    """Latency of the networks of some runs, in each setting in which all of them were measured."""
    found = []
    for setting in shown:
        shapes = {(r.arch_sha256, r.shape or "", r.widths_sha256) for r in done}
        lines = [_line(latencies, setting, *shape) for shape in sorted(shapes)] if latencies and done else []
        times = [line.times for line in lines if line is not None]
        if times and len(times) == len(lines):
            found.append(_mean(setting.batch, times))
    return tuple(found)


def _line(latencies: Latencies, setting: Setting, arch_sha256: str, shape: str, widths_sha256: str) -> Line | None:
    sizes = [int(size) for size in shape.split("x") if size]
    return latencies.find(setting, arch_sha256, (sizes[0], sizes[1], sizes[2]), widths_sha256) if sizes else None


def faster(speed: Speed) -> bool:
    """Whether it may be called faster than dense (RULES.md, 7)."""
    return speed.low > 1 + SAME


def _mean(batch: int, times: Sequence[Times]) -> Speed:
    """Geometric means over shapes, of the ends of the interval too: one machine's errors do not cancel out."""

    def mean(value: Callable[[Times], float]) -> float:
        return math.exp(math.fsum(math.log(value(one)) for one in times) / len(times))

    return Speed(
        *(batch, mean(lambda t: t.dense_ms), mean(lambda t: t.final_ms), mean(lambda t: t.final_p90)),
        *(mean(lambda t: t.speedup), mean(lambda t: t.speedup_ci95[0]), mean(lambda t: t.speedup_ci95[1])),
    )
