"""What a board is made of: plain values, computed once, that tables, pages and the linter read.

Derived numbers are rounded where they enter (``leaderboard.reader.numbers``), so that all that is made of them agrees.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from leaderboard.reader.numbers import derived, settle

CONTROLS = ("dense", "random", "l1_norm", "uniform_thin", "uniform_thin_long")
"""Compulsory controls (RULES.md, 9), by name."""
CONTROLS_OF = {"spectral": ("spectral_energy",)}
"""What else a method has to be compared with, by its name."""
REFERENCES = ("dense", "random", "uniform_thin")
"""Controls that every row's difference is taken to."""
LEAST_SHOWN, LEAST_RANKED = 3, 5
"""Seeds that a row needs for an interval that is worth reading, and for a rank (RULES.md, 8.2)."""
ALPHA = 0.05
KEY = (
    *("dataset", "arch", "recipe_sha256", "coupling", "precision", "rules", "schema", "counter"),
    *("device", "device_type", "threads", "arch_sha256", "train_sha256", "test_sha256"),
    *("images", "dense_macs", "dense_params"),
)
"""What records of one board have in common (RULES.md, 1); with the device, so that no table mixes latencies, and with
all that the rows' numbers are relative to."""
KEY_SHOWN = (*KEY, "recipe")
"""What a board says of itself: the same, and the recipe in words: its name, epochs of training and of fine-tuning."""

VOID = "void"
"""Status of a run that failed or diverged by no fault of its method (``error.blame`` of its record)."""
AS_MISSING = ("interrupted", VOID)
"""A run that ended so is as good as not there."""

Track = Literal["matched", "native", "like", "dense"]
TableKind = Literal["macs", "params", "native", "like"]


@dataclass(frozen=True)
class Mean:
    """Mean over seeds and half the width of its 95 % interval; None with one seed."""

    mean: float
    half: float | None

    def __post_init__(self) -> None:
        settle(self, "mean", "half")


@dataclass(frozen=True)
class Difference:
    """Paired difference of top-1, in points, to another row, by moderated t tests (``stats.statistics.family``).

    Attributes:
        to: the other row's method.
        seeds: how many seeds both have.
        p: of this comparison alone; None with one common seed.
        p_holm: corrected for all rows that are compared with the same one; None likewise.
    """

    to: str
    mean: float
    half: float | None
    seeds: int
    p: float | None
    p_holm: float | None

    def __post_init__(self) -> None:
        settle(self, "mean", "half", "p", "p_holm")

    @property
    def clear(self) -> bool:
        """Whether it is told from zero after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Speed:
    """Latency at one batch size over a row's seeds.

    Attributes:
        dense_ms, final_ms: medians over seeds of the runs' medians.
        times: geometric mean of the runs' speed-ups.
        low, high: its 95 % interval, over seeds; with one seed the run's own.
        busy: whether the machine had other work in any of the runs: no basis for a claim (RULES.md, 7.5).
    """

    batch: int
    dense_ms: float
    final_ms: float
    times: float
    low: float
    high: float
    busy: bool

    def __post_init__(self) -> None:
        settle(self, "dense_ms", "final_ms", "times", "low", "high")


class Run(NamedTuple):
    """One record as a row holds it.

    Attributes:
        id: name of the run.
        page: name of its page and of anything else that is written for it: unique, safe in a path.
        file: where the record lies, relative to the folder that was loaded, with ``/``.
        status: ``ok``, ``failed``, ``diverged``, ``interrupted`` or ``void``.
        wrong: test images that the final network gets wrong; None where the run did not finish.
        macs, params: of the final network; None likewise.
        times: speed-up at the smallest and at the largest batch; None where it was not measured.
        ms: latency of the final network there, milliseconds.
        training_macs: of its training; None where it did not finish.
        images: test images of the run.
    """

    id: str
    page: str
    file: str
    seed: int
    status: str
    wrong: int | None
    macs: int | None
    params: int | None
    times: tuple[float | None, float | None]
    ms: tuple[float | None, float | None] = (None, None)
    training_macs: int | None = None
    images: int = 0


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seed.

    Attributes:
        spec: first 12 digits of their specification's hash.
        name: method, and what differs from its defaults: ``l1l2 share=30``.
        runs: by seed.
        missing: seeds that most rows of the table have and this one has not.
        test_images: of each run; None where seeds are tested on different images.
        top1: per cent of the test images; None where a run failed or none finished.
        pruned: the same before fine-tuning.
        macs, params: means over seeds of the final network.
        macs_percent, params_percent: of the dense network.
        differences: to the references, where both have a mean.
        rank: 1 and the number of ranked rows that are better after Holm's correction; None where it is not ranked.
        unranked: why not; empty where it is.
        group: letters; two ranked rows share one exactly where they cannot be told apart.
        seeds_needed: paired seeds to tell it from the row with the highest mean with 80 % power, at the correction
            that is due; None for that row itself, without ranks, and beyond 1,000.
        speeds: at the smallest and largest batch that was timed in eager mode; may be empty.
        epochs: trained in all, the base's included; the most of its runs.
        training_macs: mean over seeds.
        cost: training MACs over those of dense; None without a dense row.
        step_cost: seconds of training an image over dense's, hooks included, and the base's where it starts from one.
        shares: of ``base``, ``epochs``, ``finetune``, ``cost`` those that it has in common with ``random``.
        level: the same on the ladder of Wang et al. 2023 (S1, S2, S3.1, S3.2, SX-A, SX-B).
        controls_missing: compulsory controls that are not there with the same seeds.
        notes: what else a reader must know, one sentence each.
    """

    spec: str
    method: str
    name: str
    track: Track
    runs: tuple[Run, ...]
    missing: tuple[int, ...]
    test_images: int | None
    top1: Mean | None
    pruned: Mean | None
    macs: float | None
    params: float | None
    macs_percent: float | None
    params_percent: float | None
    differences: dict[str, Difference] = field(default_factory=dict)
    rank: int | None = None
    unranked: str = ""
    group: str = ""
    seeds_needed: int | None = None
    speeds: tuple[Speed, ...] = ()
    epochs: int | None = None
    training_macs: float | None = None
    cost: float | None = None
    step_cost: float | None = None
    shares: tuple[str, ...] = ()
    level: str = ""
    controls_missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self, "macs", "params", "macs_percent", "params_percent", "training_macs", "cost", "step_cost")

    @property
    def control(self) -> bool:
        """Whether it is one of the compulsory controls."""
        return self.method in CONTROLS

    @functools.cached_property
    def wrong(self) -> dict[int, int | None]:
        """Seed -> test images that the final network gets wrong; None where the run did not finish."""
        return {run.seed: run.wrong for run in self.runs}

    @functools.cached_property
    def finished(self) -> dict[int, Run]:
        """Seed -> run, of those that finished."""
        return {run.seed: run for run in self.runs if run.wrong is not None}


@dataclass(frozen=True)
class Table:
    """All rows at one budget of one board, best first; the dense row stands first of all.

    Attributes:
        kind: what is kept a share of: ``macs``, ``params``; ``native`` and ``like`` have none.
        keep: the share, or None.
        dense_macs, dense_params: of the dense network.
    """

    kind: TableKind
    keep: float | None
    rows: tuple[Row, ...]
    dense_macs: int | None
    dense_params: int | None

    @property
    def title(self) -> str:
        """Such as ``keep 0.5 of the MACs``."""
        if self.keep is None:
            return {"native": "native track", "like": "widths of another run"}[self.kind]
        return f"keep {self.keep:g} of the {'MACs' if self.kind == 'macs' else 'params'}"

    @property
    def slug(self) -> str:
        """The same as a name for files and anchors: ``macs-0.5``."""
        return self.kind if self.keep is None else f"{self.kind}-{self.keep:g}"


@dataclass(frozen=True)
class Point:
    """One row on a curve over budgets."""

    keep: float
    row: Row


@dataclass(frozen=True)
class Reach:
    """Largest factor (dense over final) at which top-1 stays within ``points`` of the dense network's.

    Attributes:
        what: ``macs``, ``small`` or ``large`` (measured latency at the smallest and the largest batch).
        times: mean over seeds, each interpolated between its budgets up to the first that falls below; None without
            a dense row.
        half: of the 95 % interval; None where it is a bound.
        bound: some seed is still within ``points`` at the smallest budget, so that ``times`` is at least so much.
    """

    what: str
    points: float
    times: float | None
    half: float | None
    bound: bool

    def __post_init__(self) -> None:
        settle(self, "times", "half")


@dataclass(frozen=True)
class Curve:
    """One method with one configuration over all budgets of a kind, from the most to the least kept.

    Attributes:
        area: mean over seeds of the area under top-1 (per cent) over the share kept, divided by the width of the
            range, so that it is a mean accuracy; None where it lacks a budget of the board.
        reach: see :class:`Reach`.
        front: budgets at which no other row is both smaller and more accurate, by ``macs``, ``params``, ``small``,
            ``large``, ``cost``.
    """

    name: str
    method: str
    kind: str
    points: tuple[Point, ...]
    area: Mean | None
    reach: tuple[Reach, ...]
    front: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Board:
    """Everything that may stand side by side.

    Attributes:
        key: what all of its records have in common, by name of the key.
        differs: keys in which it differs from the other boards of the same data set and network.
        tables: by falling share; the native track and ``like`` last.
        notes: what else a reader must know of all of it.
    """

    key: dict[str, str]
    differs: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Such as ``resnet20 on digits``, with what tells it from its like: ``(recipe mnist 10+5 0a1b2c3d)``."""
        words = self.key | {"recipe_sha256": f"{self.key.get('recipe')} {self.key.get('recipe_sha256', '')[:8]}"}
        extra = ", ".join(f"{key.removesuffix('_sha256')} {words[key][:24]}" for key in self.differs)
        return f"{self.key['arch']} on {self.key['dataset']}" + (f" ({extra})" if extra else "")


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
        critical: difference of mean ranks that is needed to tell two names apart.
        groups: names that cannot be told apart, each a stretch of ``ranks``.
    """

    ranks: tuple[tuple[str, float], ...]
    critical: float
    groups: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        settle(self, "critical")
        object.__setattr__(self, "ranks", tuple((name, derived(rank)) for name, rank in self.ranks))
