"""The widths and blocks that are worth most within a time: exact, by an integer linear programme."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from torch import Tensor

from bench.errors import RunFailed, UsageError
from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.pruning.latency_model import Floats, LatencyModel
from bench.pruning.latency_terms import OUTSIDE, Terms
from bench.spec.spec import Budget

SCALE = 1e4
"""What all units are worth to the solver, whose absolute tolerance is 1e-6."""


@dataclass(frozen=True)
class Choices:
    """What may be kept, and what it is worth.

    Attributes:
        gains: for each site of channels what each width of its grid is worth; minus infinity where it may not be.
        blocks: for each block what it is worth; minus infinity where it is gone.
        least: places of the blocks of a site -> how many of them stay at least.
        count: how many blocks stay in all; None for any number.
    """

    gains: tuple[Floats, ...]
    blocks: Floats
    least: Mapping[tuple[int, ...], int]
    count: int | None = None

    def worth(self, terms: Terms, vector: Vector) -> float:
        """What a choice is worth; minus infinity where it may not be."""
        stays = [place for place in range(len(terms.names), len(vector)) if vector[place]]
        total = sum(float(self.blocks[place - len(terms.names)]) for place in stays)
        for site, gains in enumerate(self.gains):
            if terms.stays(vector, terms.inside[site]):
                total += float(gains[terms.level(site, int(vector[site]))])
        few = any(sum(place in stays for place in places) < n for places, n in self.least.items())
        return -np.inf if few or self.count not in (None, len(stays)) else total


def choices_of(
    scores: Mapping[str, Tensor],
    terms: Terms,
    model: CostModel,
    budget: Budget,
    ranking: str | Mapping[str, float],
    of_blocks: str | Mapping[str, float] | None = None,
) -> Choices:
    """What units with these scores are worth, in MACs of the dense network.

    With the ranking ``global`` the sum of the kept scores, of all sites together: HALP's objective. With ``layer`` the
    kept share of a site's scores times the MACs that the site decides, since scores do not compare across layers; a
    mapping weighs sites in addition. Scores below 0 are moved up to 0.

    Args:
        scores: site -> ``[n_units]``, larger is more worth keeping; a site that has lost units has fewer.
        terms: widths that a table has.
        model: cost model of the dense network; its exempt sites stay whole.
        budget: with ``min_keep``, ``min_blocks`` and ``keep_blocks``.
        ranking: of channels.
        of_blocks: of blocks, where that is another one.
    """
    floors, whole = model.least(budget), model.macs(model.dense)
    macs = np.zeros(len(model.dense))
    for place in range(len(macs)):
        without = model.dense.copy()
        without[place] = 0
        macs[place] = whole - model.macs(without)
    places = {name: (place,) for place, name in enumerate(terms.names)} | dict(terms.blocks)
    value = {name: sum(macs[place] for place in of) for name, of in places.items()}
    worth = _worth({n: scores[n] for n in terms.names if n in scores}, value, ranking)
    worth |= _worth({n: scores[n] for n, _ in terms.blocks if n in scores}, value, of_blocks or ranking)
    gains = []
    for site, (name, grid) in enumerate(zip(terms.names, terms.grid, strict=True)):
        each = np.sort(worth.get(name, np.zeros(0)))[::-1]
        found = np.array([each[:width].sum() if floors[name] <= width <= len(each) else -np.inf for width in grid])
        if len(each) and not np.isfinite(found).any():
            raise UsageError(
                f"site {name} has {len(each)} units and keeps at least {floors[name]}; the table of milliseconds has "
                f"{', '.join(map(str, grid))}"
            )
        gains.append(found if len(each) or terms.inside[site] == OUTSIDE else np.full(len(grid), -np.inf))
    blocks = np.full(len(terms.block_kinds), -np.inf)
    for name, of in terms.blocks:
        blocks[np.array(of, dtype=np.int64) - len(terms.names)] = worth[name]
    return Choices(tuple(gains), blocks, {of: floors[name] for name, of in terms.blocks}, model.count_blocks(budget))


def _worth(
    scores: Mapping[str, Tensor], value: Mapping[str, float], ranking: str | Mapping[str, float]
) -> dict[str, Floats]:
    """What each unit is worth, of sites of one kind."""
    found = {name: score.detach().double().cpu().numpy() for name, score in scores.items()}
    if ranking == "global" and found:
        least, total = min(each.min() for each in found.values()), sum(value[name] for name in found)
        found = {name: each - min(least, 0.0) for name, each in found.items()}
        whole = sum(each.sum() for each in found.values())
        if not whole:
            return {name: np.full(len(each), total / len(found) / len(each)) for name, each in found.items()}
        return {name: each * total / whole for name, each in found.items()}
    for name, each in found.items():
        moved = each - min(each.min(), 0.0)
        share = moved / moved.sum() if moved.any() else np.full(len(each), 1 / len(each))
        found[name] = share * value[name] * (1.0 if isinstance(ranking, str) else float(ranking[name]))
    return found


class _Programme:
    """Variables and constraints as they come."""

    def __init__(self) -> None:
        self.gain: list[float] = []
        self.ms: list[float] = []
        self.most: list[float] = []
        self.whole: list[int] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []

    def add(self, gain: float = 0.0, whole: bool = True) -> int:
        """A variable from 0 to 1; its number."""
        possible = gain > -np.inf
        self.gain.append(gain if possible else 0.0)
        self.most.append(float(possible))
        self.ms.append(0.0)
        self.whole.append(int(whole))
        return len(self.gain) - 1

    def require(self, row: Mapping[int, float], low: float, high: float) -> None:
        """``low <= sum of factors times variables <= high``."""
        self.rows.append((dict(row), low, high))

    def solve(self, objective: Floats) -> Floats | None:
        """The variables at the certified least of ``objective``; None where the constraints cannot be met."""
        at = [(r, column, factor) for r, (row, _, _) in enumerate(self.rows) for column, factor in row.items()]
        r, columns, factors = zip(*at)
        matrix = csr_array((factors, (r, columns)), shape=(len(self.rows), len(self.gain)))
        limits = LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows])
        bounds = Bounds(np.zeros(len(self.most)), np.array(self.most))
        whole = np.array(self.whole)
        with _silent():
            found = milp(objective, integrality=whole, bounds=bounds, constraints=limits, options={"mip_rel_gap": 0.0})
        if found.status == 2:
            return None
        if found.status != 0:
            raise RunFailed(f"no widths found within the milliseconds: {found.message}")
        return np.asarray(found.x)


@contextmanager
def _silent() -> Iterator[None]:
    """Within the block nothing is written to stdout: HiGHS has a line of its debugging that no option turns off."""
    try:
        before = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def best(model: LatencyModel, choices: Choices, target: float) -> Vector | None:
    """The vector that is worth most of those that take at most ``target`` ms; None where none does."""
    return _solved(model, choices, target)


def narrowest(model: LatencyModel, choices: Choices) -> Vector:
    """The vector that takes least time of those that may be kept."""
    found = _solved(model, choices, None)
    if found is None:
        raise UsageError("no widths of the table may be kept: min_keep, blocks and exempt sites exclude each other")
    return found


def _solved(model: LatencyModel, choices: Choices, target: float | None) -> Vector | None:
    terms, programme = model.terms, _Programme()
    whole = sum(g[np.isfinite(g)].max(initial=0.0) for g in choices.gains)
    scale = SCALE / max(whole + choices.blocks[np.isfinite(choices.blocks)].sum(), 1e-300)
    block = [programme.add(scale * gain) for gain in choices.blocks]
    width = [[programme.add(scale * gain) for gain in gains] for gains in choices.gains]

    def present(place: int) -> tuple[dict[int, float], float]:
        """What is taken from a sum, and what is left of it, where something is at this place."""
        return ({}, 1.0) if place == OUTSIDE else ({block[place - len(terms.names)]: -1.0}, 0.0)

    for place, variables in zip(terms.inside, width, strict=True):
        row, total = present(place)
        programme.require(row | dict.fromkeys(variables, 1.0), total, total)
    for variable, kind in zip(block, terms.block_kinds, strict=True):
        programme.ms[variable] += model.blocks[kind]
    for term in terms.terms:
        table = model.kinds[term.kind]
        if len(term.sites) == 1 and terms.inside[term.sites[0]] == term.block:
            for variable, ms in zip(width[term.sites[0]], table, strict=True):
                programme.ms[variable] += ms
            continue
        pairs = np.array([programme.add(whole=False) for _ in range(table.size)]).reshape(table.shape)
        for variable, ms in zip(pairs.flat, table.flat, strict=True):
            programme.ms[variable] += ms
        row, total = present(term.block)
        programme.require(row | dict.fromkeys(pairs.ravel().tolist(), 1.0), total, total)
        for axis, site in enumerate(term.sites):
            for level, variable in enumerate(width[site]):
                of_level = pairs.take(level, axis=axis).ravel().tolist()
                programme.require({variable: -1.0} | dict.fromkeys(of_level, 1.0), -1.0, 0.0)
    places = {place: block[place - len(terms.names)] for of in choices.least for place in of}
    for of, least in choices.least.items():
        programme.require({places[place]: 1.0 for place in of}, least, len(of))
    if choices.count is not None:
        programme.require(dict.fromkeys(block, 1.0), choices.count, choices.count)
    ms = np.array(programme.ms)
    if target is not None:
        room = (target - model.constant) / target
        programme.require({k: value / target for k, value in enumerate(ms) if value}, -np.inf, room)
    found = programme.solve(ms if target is None else -np.array(programme.gain))
    if found is None:
        return None
    vector = np.zeros(len(terms.dense), dtype=np.int64)
    for site, variables in enumerate(width):
        vector[site] = np.rint(found[variables]).astype(np.int64) @ np.array(terms.grid[site])
    vector[len(width) :] = np.rint(found[block])
    return vector
