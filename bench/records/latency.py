"""Latency of shapes: the one definition of its fields, and the arithmetic from samples to a verdict. Needs no torch.

A key is a network of certain widths, measured in a certain way. What a line says of its samples can be computed again
from them; what it says of its own numbers is computed again whenever it is read.
"""

from __future__ import annotations

import functools
import hashlib
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from bench.records.schema import Environment, Part, Structure
from bench.records.values import (
    Amount,
    Count,
    Label,
    Moment,
    Name,
    Positive,
    Sha256,
    Share,
    Size,
    said,
)
from bench.spec.digest import widths_sha256
from bench.spec.quiet_limits import OTHERS_CORES, STOLEN

RESTARTS, LEAST_ROUNDS = 5, 20
"""Least number of processes that time a key, and of samples in each."""
SAME = 0.03
"""A network and its copy may differ by so much; a network is faster than another where the interval is above it."""
ALPHA = 0.05
CLOSE = 1e-9


class Key(Part, frozen=True, order=True):
    """What a latency depends on; ``shape`` is that of one image, a version that of the runtime's package.

    ``timed`` says of what: single calls in turns, or several in a row (:func:`bench.measure.latency.burst`).
    """

    arch_sha256: Sha256
    shape: tuple[Size, Size, Size]
    widths_sha256: Sha256
    runtime: Label
    runtime_version: Label
    device: Name
    threads: Size
    batch: Size
    dtype: Literal["float32"]
    layout: Literal["channels_last", "channels_first"]
    timed: Literal["turns", "bursts"] = "turns"


class Restart(Part, frozen=True):
    """Samples of one process in nanoseconds, in the order in which they were taken: of the base and its partner."""

    dense_ns: list[Size]
    final_ns: list[Size]


class Samples(Part, frozen=True):
    """A line of the file of samples; its hash is its name."""

    restarts: list[Restart]


class Times(Part, frozen=True):
    """What samples say. The lists have one value a restart; medians and 90 % quantiles, ratios of the medians.

    ``speedup`` is the geometric mean of the ratios, ``speedup_ci95`` its t interval over restarts (logarithms).
    """

    rounds: list[Size]
    dense_p50_ms: list[Positive]
    dense_p90_ms: list[Positive]
    final_p50_ms: list[Positive]
    final_p90_ms: list[Positive]
    ratio: list[Positive]
    speedup: Positive
    speedup_ci95: tuple[Positive, Positive]
    samples_sha256: Sha256

    @property
    def dense_ms(self) -> float:
        """Geometric mean over restarts of the dense network's median, milliseconds."""
        return statistics.geometric_mean(self.dense_p50_ms)

    @property
    def final_ms(self) -> float:
        """Geometric mean over restarts of the final network's median, milliseconds."""
        return statistics.geometric_mean(self.final_p50_ms)

    @property
    def final_p90(self) -> float:
        """Geometric mean over restarts of the final network's 90 % quantile, milliseconds."""
        return statistics.geometric_mean(self.final_p90_ms)

    @property
    def faster(self) -> bool:
        """Whether the final network may be called faster than the dense one."""
        return self.speedup_ci95[0] > 1 + SAME


class Quiet(Part, frozen=True):
    """The busiest of the windows: cores that others used, stolen share of all cores; windows that were repeated."""

    others_cores: Amount
    stolen: Share
    repeated: Count


class Line(Part, frozen=True):
    """Latency of one key. ``control`` is a dense network against its copy in the same pass, ``controls`` their number.

    ``arch`` and ``widths`` (site -> units before and after) say in words what the hashes of the key mean. ``settings``
    are those of the runtime.
    """

    kind: Literal["bench.latency"]
    schema: Literal[1]
    arch: Label
    key: Key
    widths: dict[Name, tuple[Size, Size]]
    times: Times
    control: Times
    controls: Size
    quiet: Quiet
    environment: Environment
    measured_at: Moment
    settings: dict[Label, Label] = {}
    line_sha256: str = ""  # last in the line, of the bytes before it


_ENCODER = msgspec.json.Encoder(order="sorted")


# --- arithmetic -------------------------------------------------------------------------------------------------


def speedup(ratios: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float, float]:
    """Geometric mean of ratios and its t interval, computed of logarithms; without width where all are equal."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = math.fsum(logs) / len(logs)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (len(logs) - 1) / len(logs))
    half = _student(len(logs) - 1, level) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


@functools.cache
def _student(freedom: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def times_of(samples: Samples) -> Times:
    """What samples of at least two restarts say."""
    import numpy as np

    of_each = [[np.quantile(ns, (0.5, 0.9)) / 1e6 for ns in (r.dense_ns, r.final_ns)] for r in samples.restarts]
    d50, d90, f50, f90 = ([float(restart[which][q]) for restart in of_each] for which in (0, 1) for q in (0, 1))
    ratios = [dense / final for dense, final in zip(d50, f50, strict=True)]
    mean, low, high = speedup(ratios)
    rounds = [len(restart.final_ns) for restart in samples.restarts]
    return Times(rounds, d50, d90, f50, f90, ratios, mean, (low, high), samples_sha256(samples))


def samples_sha256(samples: Samples) -> str:
    """The name of samples: the hash of their line."""
    return hashlib.sha256(_ENCODER.encode(samples)).hexdigest()


def refused(control: Times, controls: int) -> str:
    """Why a pass with this control, one of so many, is not believed; empty where it is.

    The intervals of all controls of a pass cover 1 together with 95 % where nothing is wrong (Bonferroni).
    """
    mean, low, high = speedup(control.ratio, 1 - ALPHA / controls)
    found = f"a dense network against its copy: {mean:.3f} ({low:.3f} to {high:.3f})"
    if not low <= 1 <= high:
        return f"{found}, an interval without 1"
    return "" if abs(math.log(mean)) <= math.log(1 + SAME) else f"{found}, more than {100 * SAME:g} % apart"


def shape_of(structure: Structure) -> dict[str, tuple[int, int]]:
    """Units before and after of each site, and of each block by itself: those of one site may differ."""
    of_blocks = structure.blocks or {}
    blocks = {f"{site} {k}": (1, int(bit)) for site, text in of_blocks.items() for k, bit in enumerate(text)}
    return {site: widths for site, widths in structure.widths.items() if site not in of_blocks} | blocks


# --- rules between fields ---------------------------------------------------------------------------------------


def contradictions(line: Line) -> Iterator[str]:
    """What cannot be true in a line, one sentence each."""
    key, environment, quiet = line.key, line.environment, line.quiet
    if key.widths_sha256 != widths_sha256(line.widths):
        yield "key.widths_sha256 is not the hash of widths"
    for site, (before, after) in line.widths.items():
        if after > before:
            yield f"widths: {said(site)} has {after} of {before} units"
    for name in ("device", "threads"):
        if getattr(key, name) != getattr(environment, name):
            yield f"key.{name} is {said(getattr(key, name))}, of the environment {said(getattr(environment, name))}"
    if key.runtime == "eager" and key.runtime_version != environment.packages.get("torch"):
        yield f"key.runtime_version is {said(key.runtime_version)}, environment.packages.torch another"
    if quiet.others_cores > OTHERS_CORES or quiet.stolen > STOLEN:
        yield f"quiet: others used {quiet.others_cores:g} cores, {100 * quiet.stolen:g} % was stolen"
    wrong = [f"{name}.{why}" for name in ("times", "control") for why in _of_times(getattr(line, name))]
    yield from wrong
    if not wrong and (why := refused(line.control, line.controls)):
        yield f"control: {why}"
    if line.measured_at.utcoffset():
        yield f"measured_at is {line.measured_at.isoformat()}, not in UTC"


def _of_times(times: Times) -> Iterator[str]:
    lists = ("rounds", "dense_p50_ms", "dense_p90_ms", "final_p50_ms", "final_p90_ms", "ratio")
    lengths = {len(getattr(times, name)) for name in lists}
    if len(lengths) > 1 or min(lengths) < RESTARTS:
        yield f"rounds: there are {min(lengths)} restarts, and {RESTARTS} are needed in each list"
        return
    if min(times.rounds) < LEAST_ROUNDS:
        yield f"rounds: {min(times.rounds)} samples in a restart, less than {LEAST_ROUNDS}"
    for which in ("dense", "final"):
        if any(p50 > p90 for p50, p90 in zip(getattr(times, f"{which}_p50_ms"), getattr(times, f"{which}_p90_ms"))):
            yield f"{which}_p90_ms is below {which}_p50_ms"
    if not close(times.ratio, [d / f for d, f in zip(times.dense_p50_ms, times.final_p50_ms)]):
        yield "ratio is not dense_p50_ms over final_p50_ms"
    if not close((times.speedup, *times.speedup_ci95), speedup(times.ratio)):
        low, high = times.speedup_ci95
        yield f"speedup is {times.speedup:g} ({low:g} to {high:g}), not that of ratio"


def close(some: Iterable[float], others: Iterable[float]) -> bool:
    """Whether numbers are equal but for rounding."""
    return all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(some, others, strict=True))
