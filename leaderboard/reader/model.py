"""What a board is made of: plain values, computed once, that tables, pages and the linter read.

Derived numbers are rounded where they enter (``leaderboard.reader.numbers``), so that all that is made of them agrees.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from leaderboard.reader.controls import CONTROLS, L1_OF
from leaderboard.reader.numbers import settle
from leaderboard.reader.times import Milliseconds, Speed

REFERENCES = ("dense", "random", "uniform_thin")
"""Controls that every row's difference is taken to."""
LEAST_SHOWN, LEAST_RANKED = 3, 5
"""Seeds that a row needs for an interval that is worth reading, and for a test or a rank (RULES.md, 8.2)."""
PRIMARY = "top1"
SECONDARY = ("loss", "pruned_top1")
"""Endpoints: top-1 of the final network; its test loss and top-1 before fine-tuning."""
ALPHA = 0.05
KEY = (
    *("dataset", "arch", "recipe_sha256", "coupling", "precision", "rules", "schema", "counter"),
    *("arch_sha256", "train_sha256", "test_sha256", "images", "dense_macs", "dense_params"),
    "submitter",
)
"""What records of one board have in common (RULES.md, 1): all that the rows' numbers are relative to."""
KEY_SHOWN = (*KEY, "recipe")
"""What a board says of itself: the same, and the recipe in words: its name, epochs of training and of fine-tuning."""


VOID = "void"
"""Status of a run that failed or diverged by no fault of its method (``error.blame`` of its record)."""
AS_MISSING = ("interrupted", VOID)
"""A run that ended so counts as missing."""

Track = Literal["matched", "native", "like", "training", "dense"]
TableKind = Literal["macs", "params", "latency", "ms", "native", "like", "training"]
OF_MS = ("latency", "ms")
"""Kinds of tables whose budget is milliseconds."""
SHARES = {"macs": "MACs", "params": "params", "latency": "milliseconds"}
NO_BUDGET = {"native": "native track", "like": "widths of another run", "training": "training cost, all units kept"}


@dataclass(frozen=True)
class Terms:
    """What a plan settles before the first run (``bench.spec.sweep.Plan``): rows outside of it are exploratory.

    Attributes:
        sha256: of the file with the plan.
        references: names of the rows that every row is compared with.
        margins: in points of top-1, the smallest first.
        endpoints: ``PRIMARY``, and those of ``SECONDARY`` that are compared too.
    """

    sha256: str
    references: tuple[str, ...] = REFERENCES
    margins: tuple[float, ...] = (0.5, 1.0)
    endpoints: tuple[str, ...] = (PRIMARY, *SECONDARY)


@dataclass(frozen=True)
class Mean:
    """Mean over seeds and half the width of its 95 % interval; None with one seed."""

    mean: float
    half: float | None

    def __post_init__(self) -> None:
        settle(self, "mean", "half")


@dataclass(frozen=True)
class Difference:
    """Paired difference to a reference by seed; positive where the row is better (``stats.contrasts``).

    Attributes:
        to: name of the reference.
        mean: points of top-1; of errors and losses the natural logarithm of a ratio.
        error, freedom: moderated standard error of the mean, degrees of freedom; None with one common seed.
        half: of the 95 % interval over other seeds, uncorrected; None with one common seed.
        seeds: that both have.
        won: seeds at which the row is better, ties count half.
        images_half: the same as ``half`` over other seeds and other test images; None where the records do not say
            which images are right, or where each seed has test images of its own.
        refit_half: ``half`` for test images that rotate with the seed, training sets that overlap included.
        p: of this comparison alone; None where it was not tested.
        p_holm: corrected for all rows that are compared with the same one; None without a test.
        p_board: corrected for all comparisons of the board with primary endpoints; None without a test.
        smallest: true difference that this design finds with 80 % power, corrected; None without a test.
        verdicts: for each margin of the plan what holds (``stats.verdicts.WORDS``); one for what has no margin.
    """

    to: str
    mean: float
    error: float | None
    freedom: float | None
    half: float | None
    seeds: int
    won: float
    images_half: float | None = None
    refit_half: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_board: float | None = None
    smallest: float | None = None
    verdicts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        halves = ("half", "images_half", "refit_half")
        settle(self, "mean", "error", "freedom", *halves, "p", "p_holm", "p_board", "smallest")

    @property
    def clear(self) -> bool:
        """Whether it is significantly different from zero after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def shown_half(self) -> float | None:
        """Half of the 95 % interval that includes other test images, as far as the records allow it."""
        return self.half if self.images_half is None else self.images_half


class Run(NamedTuple):
    """One record as a row holds it.

    Attributes:
        id: name of the run.
        page: name of its page and of anything else that is written for it: unique, safe in a path.
        file: where the record lies, relative to the folder that was loaded, with ``/``.
        status: ``ok``, ``failed``, ``diverged``, ``interrupted`` or ``void``.
        wrong: test images that the final network gets wrong; None where the run did not finish.
        images: test images of this seed; 0 where the run did not finish.
        pruned: ``wrong`` before fine-tuning; None also without a prune.
        loss: of the test images, nats; None where the run did not finish.
        macs, params: of the final network; None where the run did not finish.
        training_macs: of its training; None where it did not finish.
    """

    id: str
    page: str
    file: str
    seed: int
    status: str
    wrong: int | None
    images: int = 0
    pruned: int | None = None
    loss: float | None = None
    macs: int | None = None
    params: int | None = None
    training_macs: int | None = None


class Copy(NamedTuple):
    """Another specification that made the same networks as a row, seed by seed."""

    name: str
    spec: str = ""
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seed.

    Attributes:
        spec: first 12 digits of their specification's hash.
        name: method, and what differs from its defaults: ``l1l2 share=30``.
        runs: by seed; of a planned row those at seeds of the plan.
        missing: seeds of the plan that this row does not have.
        planned: whether the plan names it; else it is exploratory, and has no mark, verdict, rank or sentence.
        copies: specifications that made the same networks on every seed.
        top1: per cent of the test images; None where a run failed or none finished.
        pruned: the same before fine-tuning.
        loss: of the test images, nats, geometric mean over seeds; None where a run failed.
        macs, params: means over seeds of the final network.
        macs_percent, params_percent: of the dense network.
        differences: of top-1 to the references, where both have a mean.
        secondary: the same for other endpoints.
        rank: 1 and the rows that are significantly better, to the number of ranked rows less those that are worse;
            None where it is not ranked.
        unranked: why not; empty where it is.
        group: letters; two ranked rows share one exactly where they are not significantly different.
        seeds_needed: for each margin the paired seeds that find a true difference of this size to ``random`` with
            80 % power after the correction; None beyond 1,000, nothing without a test.
        speeds: at the smallest and largest batch of the board's setting; may be empty.
        ms: how a budget of milliseconds was met; None for another one, and for dense.
        epochs: trained in all, the base's included; the most of its runs.
        training_macs: mean over seeds.
        cost: training MACs over those of dense; None without a dense row.
        step_cost: seconds of training an image over dense's, hooks included, and the base's where it starts from one.
        shares: of ``base``, ``epochs``, ``finetune``, ``cost`` those that it has in common with ``random``.
        level: the same on the ladder of Wang et al. 2023 (S1, S2, S3.1, S3.2, SX-A, SX-B).
        controls_missing: compulsory controls that are not there with the same seeds.
        checked: what level of ``bench verify`` its records reach, and who ran them again.
        notes: what else a reader must know, one sentence each.
    """

    spec: str
    method: str
    name: str
    track: Track
    runs: tuple[Run, ...]
    missing: tuple[int, ...] = ()
    planned: bool = False
    copies: tuple[Copy, ...] = ()
    top1: Mean | None = None
    pruned: Mean | None = None
    loss: float | None = None
    macs: float | None = None
    params: float | None = None
    macs_percent: float | None = None
    params_percent: float | None = None
    differences: dict[str, Difference] = field(default_factory=dict)
    secondary: Mapping[str, dict[str, Difference]] = field(default_factory=dict)
    rank: tuple[int, int] | None = None
    unranked: str = ""
    group: str = ""
    seeds_needed: tuple[int | None, ...] = ()
    speeds: tuple[Speed, ...] = ()
    ms: Milliseconds | None = None
    epochs: int | None = None
    training_macs: float | None = None
    cost: float | None = None
    step_cost: float | None = None
    shares: tuple[str, ...] = ()
    level: str = ""
    controls_missing: tuple[str, ...] = ()
    checked: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self, "loss", "macs", "params", "macs_percent", "params_percent", "training_macs", "cost", "step_cost")

    @property
    def control(self) -> bool:
        """Whether it is one of the compulsory controls, of channels or blocks."""
        return self.method in (*CONTROLS, *L1_OF.values())

    @functools.cached_property
    def wrong(self) -> dict[int, int | None]:
        """Seed -> test images that the final network gets wrong; None where the run did not finish."""
        return {run.seed: run.wrong for run in self.runs}

    @functools.cached_property
    def finished(self) -> dict[int, Run]:
        """Seed -> run, of those that finished."""
        return {run.seed: run for run in self.runs if run.wrong is not None}

    @property
    def test_images(self) -> int | None:
        """Of each run; None where seeds are tested on different images."""
        sizes = {run.images for run in self.runs if run.wrong is not None}
        return None if len(sizes) > 1 else next(iter(sizes), 0)

    @property
    def expected(self) -> set[int]:
        """Seeds of the plan."""
        return {run.seed for run in self.runs} | set(self.missing)


@dataclass(frozen=True)
class Table:
    """All rows at one budget of one board, best first; the dense row is first of all.

    Attributes:
        kind: what is kept a share of: ``macs``, ``params``, ``latency``; ``ms``; those of ``NO_BUDGET`` have none.
        keep: the share, or the milliseconds of ``ms``, or None.
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
            return NO_BUDGET[self.kind]
        return f"{self.keep:g} ms" if self.kind == "ms" else f"keep {self.keep:g} of the {SHARES[self.kind]}"

    @property
    def slug(self) -> str:
        """The same as a name for files and anchors: ``macs-0.5``."""
        return self.kind if self.keep is None else f"{self.kind}-{self.keep:g}"

    @property
    def of_ms(self) -> bool:
        """Whether its budget is milliseconds."""
        return self.kind in OF_MS

    @property
    def ordered(self) -> bool:
        """Whether any two rows have different ranks: else no order is shown."""
        return len({row.rank for row in self.rows} - {None}) > 1


@dataclass(frozen=True)
class Board:
    """All that may be compared with each other.

    Attributes:
        key: what all of its records have in common, by name of the key.
        differs: keys in which it differs from the other boards of the same data set and network.
        tables: by falling share; those of ``NO_BUDGET`` last.
        notes: what else a reader must know of all of it.
        terms: of the plan; None without one, and then all rows are exploratory.
        timed: in which setting latencies were measured, in words; empty without any.
    """

    key: dict[str, str]
    differs: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    terms: Terms | None = None
    timed: str = ""

    @property
    def title(self) -> str:
        """Such as ``resnet20 on digits``, and where it differs from others: ``(recipe mnist 10+5 0a1b2c3d)``.

        A recipe with other values than the suite's of that name says so: ``(recipe mnist 10+5, weight_decay 0.1)``.
        """
        recipe = self.key.get("recipe", "")
        edited = ("recipe_sha256",) if ", " in recipe else ()
        words = self.key | {"recipe_sha256": recipe if edited else f"{recipe} {self.key.get('recipe_sha256', '')[:8]}"}
        extra = ", ".join(
            f"{key.removesuffix('_sha256')} {words[key][: 100 if key in edited or key == 'coupling' else 24]}"
            for key in dict.fromkeys((*edited, *self.differs))
        )
        return f"{self.key['arch']} on {self.key['dataset']}" + (f" ({extra})" if extra else "")
