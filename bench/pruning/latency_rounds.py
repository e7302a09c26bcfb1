"""From a time that is asked for to a network that takes it: solve, measure, correct the target, at most three times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import RunFailed, UsageError
from bench.pruning.costs import Vector
from bench.pruning.latency_model import LatencyModel, Timed, fitted
from bench.pruning.latency_solver import Choices, best, narrowest
from bench.spec.spec import LATENCY_TOLERANCE
from bench.spec.wording import plural

Pick = Callable[[LatencyModel, Choices, float], Vector | None]
"""Chooses a vector that takes at most so many ms; None where it finds none."""
MOST_ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """A network timed next to the dense one: milliseconds of both, and the 95 % interval of their ratio."""

    ms: float
    dense_ms: float
    low: float
    high: float


@dataclass(frozen=True)
class Round:
    """What was looked for, found, and measured: the target in ms, the vector, its predicted ms."""

    target: float
    vector: tuple[int, ...]
    predicted: float
    measured: Measured


@dataclass(frozen=True)
class Asked:
    """A budget of time: a share of the dense network's milliseconds, or milliseconds; and where it is to hold.

    Attributes:
        text: such as ``--keep-latency 0.6``, for messages.
        where: such as ``onnxruntime at batch 1``.
        hint: what makes faster networks possible.
    """

    share: float | None
    ms: float | None
    text: str
    where: str
    hint: str = "--coupling full or --units both"

    def of(self, measured: Measured) -> float:
        """How many times as long as asked it took."""
        return measured.ms / self.target(measured.dense_ms)

    def target(self, dense_ms: float) -> float:
        """The milliseconds that are asked for."""
        return self.ms if self.ms is not None else float(self.share or 1) * dense_ms


def require_possible(asked: Asked, model: LatencyModel, choices: Choices) -> None:
    """Raise UsageError where no widths are fast enough, or the dense network is."""
    dense = model.dense_ms
    if asked.ms is not None and asked.ms >= dense:
        raise UsageError(f"{asked.text}: the dense network takes {dense:.2f} ms already")
    least = model.ms(narrowest(model, choices).tolist())
    if least > asked.target(dense):
        raise UsageError(
            f"{asked.text}: cannot be met in {asked.where}: the narrowest widths take {least / dense:.2f} of the "
            f"dense {dense:.2f} ms; use {asked.hint}"
        )


def rounds(
    asked: Asked,
    model: LatencyModel,
    timed: Sequence[Timed],
    choices: Choices,
    measure: Callable[[Vector], Measured],
    pick: Pick = best,
) -> list[Round]:
    """Rounds that lead to widths which take what was asked, within ``LATENCY_TOLERANCE``; the last one's are chosen.

    After each that does not, the target is scaled by asked / measured, and what was measured joins the fit. A network
    that is faster is chosen, too, where every further step takes too long.

    Args:
        asked: the budget.
        model: fitted to ``timed``.
        timed: networks of the table.
        choices: what may be kept, and its worth.
        measure: times the network of a vector.
        pick: chooses a vector.

    Raises:
        UsageError: no widths are fast enough.
        RunFailed: ``MOST_ROUNDS`` were not enough; it lists them.
    """
    require_possible(asked, model, choices)
    dense_ms, joined, done = model.dense_ms, list(timed), list[Round]()
    target, slow = asked.target(dense_ms), set[tuple[int, ...]]()
    fast: Round | None = None
    while True:
        found = pick(model, choices, target)
        if found is None:  # after a correction
            found = narrowest(model, choices)
        vector = tuple(found.tolist())
        if fast and (vector in slow or vector == fast.vector):
            return [*(each for each in done if each != fast), fast]
        if vector in slow or len(done) == MOST_ROUNDS:
            break
        measured = measure(found)
        done.append(Round(target, vector, model.ms(vector), measured))
        took = asked.of(measured)
        if abs(took - 1) <= LATENCY_TOLERANCE:
            return done
        if took > 1:
            slow.add(vector)
        else:
            fast = done[-1] if fast is None or took > asked.of(fast.measured) else fast
        joined.append(Timed(vector, took * asked.target(dense_ms)))
        model = fitted(model.terms, joined)
        target = (target if took < 1 else min(target, model.ms(vector))) / took
    if fast and not model.terms.names:  # blocks alone: no share is met closely
        return [*(each for each in done if each != fast), fast]
    listed = "; ".join(_listed(number, each) for number, each in enumerate(done, 1))
    raise RunFailed(f"{asked.text} not met in {asked.where} after {plural(len(done), 'round')}: {listed}")


def _listed(number: int, done: Round) -> str:
    took = done.measured
    measured = f"measured {took.ms:.3f}, {took.ms / took.dense_ms:.3f} of the dense"
    return f"round {number}: {done.predicted:.3f} ms predicted, {measured}"


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval of the geometric mean of ratios."""
    from scipy.stats import t

    logs = np.log(ratios)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))
