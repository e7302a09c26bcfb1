"""Run specifications: method, architecture, data, recipe, budget and seed, and the id that they give."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from bench import RULES
from bench.errors import UsageError
from bench.spec.decode import decode, non_default
from bench.spec.digest import canonical, digest, path_component
from bench.spec.recipe import Recipe

BUDGET_TOLERANCE = 0.005
"""Share of the dense cost that a ranked row may lie below its budget (RULES.md, 5.2)."""
LATENCY_TOLERANCE = 0.03
"""Share of the milliseconds asked for by which those measured may differ from them (RULES.md, 5.2)."""

WIDTH = "width"
"""What a run prunes where it does not say otherwise."""
DEPTH = "depth"
"""Prunes blocks, each of which is a large share of a network: no budget is met closely."""
UNITS = (WIDTH, DEPTH, "both")


@dataclass(frozen=True)
class Budget:
    """What a method may keep.

    Attributes:
        keep_macs: share of the dense network's MACs, in (0, 1], or None.
        keep_params: share of the dense network's parameters, in (0, 1], or None.
        ranking: ``global`` compares units over all sites, ``layer`` keeps the same share in every site; None
            leaves it to the method.
        min_keep: units that stay in every site, whatever their scores.
        widths: units to keep in each site, by the sites' names in sorted order as records list them, instead of a
            share: another record's profile.
        keep_blocks: share of the blocks to keep, where blocks and widths are pruned.
        min_blocks: blocks that stay in every site of blocks; unset leaves it to the site.
        blocks: with ``widths``, the blocks to keep in each site of blocks, in the order of their names: ``("1101",)``.
        round_to: every site of channels keeps a multiple of so many channels, or all of them; unset is 1.
        keep_latency: share of the dense network's milliseconds, in (0, 1], in place of a share of MACs.
        latency_ms: milliseconds of an inference, in place of that.
        runtime, batch, threads: in which program, on how many images, with how many CPU threads these are to hold.
        table: hash of the latency table that they are met with; set before anything runs.

    A field that may be unset and is, is in no record and no hash.
    """

    keep_macs: float | None = None
    keep_params: float | None = None
    ranking: str | None = None
    min_keep: int = 1
    widths: tuple[int, ...] | None = None
    keep_blocks: float | UnsetType = UNSET
    min_blocks: int | UnsetType = UNSET
    blocks: tuple[str, ...] | UnsetType = UNSET
    round_to: int | UnsetType = UNSET
    keep_latency: float | UnsetType = UNSET
    latency_ms: float | UnsetType = UNSET
    runtime: str | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    threads: int | UnsetType = UNSET
    table: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        for name in ("keep_macs", "keep_params", "keep_blocks", "keep_latency"):
            share = getattr(self, name)
            if share is None or share is UNSET:
                continue
            if not 0 < share <= 1:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} {share:g}: give the share to keep, above 0 and at most 1")
            object.__setattr__(self, name, float(share))  # 1 and 1.0 are one specification
        if self.keep_macs is not None and self.keep_params is not None:
            raise UsageError("--keep-macs and --keep-params: give one of them")
        if self.widths is not None:
            if self.keep_macs is not None or self.keep_params is not None:
                raise UsageError("a budget of widths has no share: give --like without --keep-macs or --keep-params")
            object.__setattr__(self, "widths", tuple(self.widths))  # JSON has lists only
        if self.blocks:
            object.__setattr__(self, "blocks", tuple(self.blocks))
        if self.widths is None and self.blocks:
            raise UsageError("a budget of blocks is one of widths too: give --like")
        if self.widths is not None and (self.keep_blocks or self.min_blocks is not UNSET):
            raise UsageError("a budget of widths says which blocks stay: give --like without other options on blocks")
        self._check_latency()
        if self.ranking not in (None, "global", "layer"):
            raise UsageError(f"--ranking {self.ranking}: global or layer")
        if self.min_keep < 1:
            raise UsageError(f"--min-keep {self.min_keep}: at least 1, a site without units is no network")
        if self.step < 1:
            raise UsageError(f"--round-to {self.step}: at least 1 channel")
        if self.step == 1:
            object.__setattr__(self, "round_to", UNSET)  # both are one specification
        elif self.widths is not None:
            raise UsageError("a budget of widths has no steps: give --like without --round-to")
        if isinstance(self.min_blocks, int) and self.min_blocks < 0:
            raise UsageError(f"--min-blocks {self.min_blocks}: 0 or more")

    def _check_latency(self) -> None:
        asked = [name for name in ("keep_latency", "latency_ms") if getattr(self, name) is not UNSET]
        where = [name for name in ("runtime", "batch", "threads") if getattr(self, name) is not UNSET]
        if not asked:
            if where or self.table is not UNSET:
                raise UsageError(f"{' and '.join(where or ['table'])}: of a budget of milliseconds only")
            return
        others = ["keep_macs", "keep_params", "widths"]
        if given := [*asked, *(name for name in others if getattr(self, name) is not None)][1:]:
            both = " and ".join("--" + name.replace("_", "-") for name in (asked[0], given[0]))
            raise UsageError(f"{both}: give one of them")
        if len(where) < 3:
            raise UsageError(
                "a budget of milliseconds holds in a runtime, at a batch, with some threads: give all three"
            )
        if isinstance(self.latency_ms, float | int):
            if not 0 < self.latency_ms < math.inf:
                raise UsageError(f"--latency-ms {self.latency_ms:g}: give milliseconds above 0")
            object.__setattr__(self, "latency_ms", float(self.latency_ms))
        for name, option in (("batch", "--batch"), ("threads", "--runtime-threads")):
            if getattr(self, name) < 1:
                raise UsageError(f"{option} {getattr(self, name)}: at least 1")

    def given(self) -> dict[str, Any]:
        """The fields that ask for something."""
        values = dataclasses.asdict(self, dict_factory=_given)
        return {key: value for key, value in values.items() if value is not None}

    @property
    def keep(self) -> float:
        """The share asked for, 1 when nothing is."""
        return next((k for k in (self.keep_macs, self.keep_params) if k is not None), 1.0)

    @property
    def of_latency(self) -> bool:
        """Whether it is one of milliseconds."""
        return self.runtime is not UNSET

    def target_ms(self, dense_ms: float) -> float | None:
        """The milliseconds asked for, where the dense network takes ``dense_ms``; None for another budget."""
        if self.keep_latency is not UNSET:
            return self.keep_latency * dense_ms
        return None if self.latency_ms is UNSET else self.latency_ms

    @property
    def where(self) -> str:
        """Where milliseconds are to hold: ``onnxruntime at batch 1``, with threads where they are several."""
        several = f" with {self.threads} threads" if isinstance(self.threads, int) and self.threads > 1 else ""
        return f"{self.runtime} at batch {self.batch}{several}"

    @property
    def step(self) -> int:
        """Channels that a width is a multiple of."""
        return 1 if self.round_to is UNSET else self.round_to

    def __str__(self) -> str:
        if self.widths is not None:
            of_blocks = f" of blocks {'-'.join(self.blocks)}" if self.blocks else ""
            return f"widths {'-'.join(map(str, self.widths))}{of_blocks}"
        what = f"{self.keep:g} of the {'params' if self.keep_params is not None else 'MACs'}"
        if self.of_latency:
            what = f"{self.latency_ms:g} ms" if self.keep_latency is UNSET else f"{self.keep_latency:g} of the ms"
            what += f" in {self.where}"
        return what + (f" in steps of {self.step} channels" if self.step > 1 else "")


@dataclass(frozen=True)
class Spec:
    """One run: method and its configuration, architecture, data set, recipe, budget, coupling, seed, kinds of units.

    Attributes:
        units: ``depth`` prunes blocks, ``both`` blocks and widths; unset, which is in no record and no hash, widths.
    """

    method: str  # or several, a+b
    arch: str
    dataset: str
    recipe: Recipe  # with all its values
    budget: Budget | None  # null for a method that does not prune, and on the native track
    seed: int = 0
    coupling: str = "inner"
    config: Mapping[str, Any] = field(default_factory=dict)  # only what differs from the method's defaults
    rules: str = RULES
    units: Literal["depth", "both"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.budget and self.budget.keep_blocks and self.units != "both":
            raise UsageError("--keep-blocks: with --units both only")
        if self.budget and self.budget.min_blocks is not UNSET and not self.units:
            raise UsageError("--min-blocks: with --units depth or both only")
        if self.budget and self.budget.step > 1 and self.units == DEPTH:
            raise UsageError("--round-to: with --units depth no widths are pruned")
        config = {key: tuple(v) if isinstance(v, list) else v for key, v in self.config.items()}
        object.__setattr__(self, "config", config)  # JSON has lists only

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the non-default part, without the seed."""
        return digest(
            {
                "method": self.method,
                "config": dict(self.config),
                "arch": self.arch,
                "dataset": self.dataset,
                "recipe_sha256": self.recipe.sha256,
                "budget": non_default(self.budget) if self.budget else None,
                "coupling": self.coupling,
                "rules": self.rules,
                **({"units": self.units} if self.units else {}),
            }
        )

    @property
    def prunable(self) -> str:
        """Coupling, kinds of units where they are not widths, step of widths, where milliseconds hold; of a board.

        Such as ``inner both step 8``, ``inner ms onnxruntime batch 1 threads 1``.
        """
        budget = self.budget or Budget()
        step = [f"step {budget.step}"] if budget.step > 1 else []
        where = f"ms {budget.runtime} batch {budget.batch} threads {budget.threads}"
        return " ".join([self.coupling, *([self.units] if self.units else []), *step, *([where] * budget.of_latency)])

    @property
    def lacks_table(self) -> bool:
        """Whether it has a budget of milliseconds whose latency table is not measured; its id is not known before."""
        return self.budget is not None and self.budget.of_latency and self.budget.table is UNSET

    @property
    def unit_kinds(self) -> str:
        """What is pruned: ``width``, ``depth`` or ``both``."""
        return self.units or WIDTH

    @property
    def id(self) -> str:
        """Name of the run: 12 hexadecimal digits of its hash, and the seed."""
        return f"{self.sha256[:12]}-s{self.seed}"

    @property
    def name(self) -> str:
        """Method with what was asked of it beyond its defaults, as one text: ``l1l2 share=30 ranking=layer``."""
        budget = self.budget or Budget()
        extra = {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(self.config.items())}
        extra |= {"ranking": budget.ranking} if budget.ranking else {}
        extra |= {"min_keep": budget.min_keep} if budget.min_keep != 1 else {}
        extra |= {key: value for key in ("keep_blocks", "min_blocks") if (value := getattr(budget, key)) is not UNSET}
        return " ".join([self.method, *(f"{key}={value}" for key, value in extra.items())])

    def base_id(self, **known: str | int | None) -> str:
        """Name of the dense network this run starts from or is compared with.

        ``known`` is what else decides its numbers and is known once a run begins (see
        :class:`bench.runs.pipeline.RunPipeline`). The same architecture's name may come to mean another network, and
        another device rounds otherwise. Without it, runs with equal names share a base on equal machines.
        """
        recipe = non_default(self.recipe, skip=("name", "finetune", "recalibrate", "latency_batch"))
        key = {"recipe": recipe, "rules": self.rules, "known": known}
        return f"{path_component(self.arch)}-{path_component(self.dataset)}-{digest(key)[:12]}-s{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the record: as JSON holds it, so lists in place of tuples."""
        values = dataclasses.asdict(self, dict_factory=_given)
        values |= {"config": dict(self.config), "recipe_sha256": self.recipe.sha256}
        return dict(json.loads(canonical(values)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """The inverse of :meth:`as_dict`; raises UsageError for keys or values that cannot be."""
        values = {k: v for k, v in values.items() if k != "recipe_sha256"}
        return decode(cls, values, "specification")


def _given(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields of a dataclass that are set."""
    return {key: value for key, value in items if value is not UNSET}


def is_coarse(prunable: str | None) -> bool:
    """Whether runs with this ``Spec.prunable`` cost no share of MACs closely: blocks alone, steps, milliseconds."""
    return prunable is not None and (prunable.endswith(f" {DEPTH}") or stepless(prunable) != prunable)


def step_of(prunable: str | None) -> int:
    """Step of widths in a ``Spec.prunable``; 1 where there is none."""
    return int((prunable or "").partition(" step ")[2].partition(" ")[0] or 1)


def place_of_ms(prunable: str | None) -> str:
    """Where milliseconds hold in a ``Spec.prunable``: ``onnxruntime batch 1 threads 1``; empty where it has none."""
    return (prunable or "").partition(" ms ")[2]


def stepless(prunable: str | None) -> str | None:
    """The same without the step of widths and without milliseconds: what a dense run next to it has."""
    return prunable and prunable.partition(" step ")[0].partition(" ms ")[0]
