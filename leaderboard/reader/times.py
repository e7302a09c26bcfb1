"""Measured times of a row's networks."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboard.reader.numbers import derived, settle


@dataclass(frozen=True)
class Speed:
    """Latency of a row's networks in one setting, from the files of ``bench latency``; over the shapes of its seeds.

    Attributes:
        dense_ms, final_ms, final_p90_ms: medians and 90 % quantile, geometric means over restarts and shapes.
        times: geometric mean of the speed-ups.
        low, high: its 95 % interval over restarts.
    """

    batch: int
    dense_ms: float
    final_ms: float
    final_p90_ms: float
    times: float
    low: float
    high: float

    def __post_init__(self) -> None:
        settle(self, "dense_ms", "final_ms", "final_p90_ms", "times", "low", "high")


@dataclass(frozen=True)
class Milliseconds:
    """How a budget of milliseconds was met, from the records: geometric means over seeds.

    Attributes:
        asked: of an inference; of a share, that of ``dense``.
        taken: by the pruned network.
        dense: by the dense network next to it.
    """

    asked: float
    taken: float
    dense: float

    def __post_init__(self) -> None:
        settle(self, "asked", "taken", "dense")

    @property
    def percent(self) -> float:
        """What was taken, per cent of dense."""
        return derived(100 * self.taken / self.dense)
