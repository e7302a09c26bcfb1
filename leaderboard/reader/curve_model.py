"""What is made of several tables of a board: curves over the budgets, profiles and mean ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leaderboard.reader.model import Difference, Row
from leaderboard.reader.numbers import derived, settle


@dataclass(frozen=True)
class Point:
    """One row on a curve over budgets."""

    keep: float
    row: Row


@dataclass(frozen=True)
class Reach:
    """How much smaller a network can be within a margin of dense, in factors (dense over final) and budgets.

    Attributes:
        points: the margin.
        passed: last budget down to which the row is non-inferior to dense at every budget; None at none.
        failed: first budget from which on it is worse than dense by more than the margin; None at none.
        times: factor at which the falling fit to the curve leaves the margin; None where a budget has no test.
        low, high: its 95 % interval; no upper end at a bound.
        bound: it does not leave the margin, so that ``times`` is at least so much.
    """

    points: float
    passed: float | None
    failed: float | None
    times: float | None = None
    low: float | None = None
    high: float | None = None
    bound: bool = False

    def __post_init__(self) -> None:
        settle(self, "times", "low", "high")


@dataclass(frozen=True)
class Curve:
    """One method with one configuration over all budgets of a kind, from the most to the least kept.

    Attributes:
        error: wrong test images, per cent: geometric mean over budgets and seeds, half an image added to each; None
            where the row lacks a mean at a budget of the board.
        pooled: by endpoint (``top1``, ``loss``), then reference: logarithm of the reference's error over the row's,
            mean over the budgets; planned rows only.
        reach: by margin; planned rows only.
        front: budgets at which no other row is no worse in both and better in cost or accuracy, by ``macs``,
            ``params``, ``ms``, ``cost``, ``small``, ``large``.
    """

    name: str
    method: str
    kind: str
    points: tuple[Point, ...]
    error: float | None
    pooled: Mapping[str, dict[str, Difference]]
    reach: tuple[Reach, ...]
    front: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        settle(self, "error")


@dataclass(frozen=True)
class Profile:
    """A performance profile: for each name, the share of tables in which it lies within tau of the best row.

    Attributes:
        axis: what tau is, with its unit.
        lines: (name, ((tau, share), ...)) with rising tau.
    """

    axis: str
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


@dataclass(frozen=True)
class Ranking:
    """A critical-difference diagram (Demsar 2006).

    Attributes:
        ranks: (name, mean rank), best first.
        critical: least difference of mean ranks that is significant.
        groups: names without a significant difference, each a stretch of ``ranks``.
    """

    ranks: tuple[tuple[str, float], ...]
    critical: float
    groups: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        settle(self, "critical")
        object.__setattr__(self, "ranks", tuple((name, derived(rank)) for name, rank in self.ranks))
