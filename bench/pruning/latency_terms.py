"""What the time of a network depends on: fused blocks, each with the one or two widths that it has, and removed blocks.

``T = constant + sum over blocks that stay + sum over fused blocks of t(in, out)``, see docs/budgets.md.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from bench.errors import UsageError
from bench.measure import flops
from bench.pruning.blocks import holder
from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.pruning.sites import Sites
from bench.pruning.slicing import CONVS, channels, part
from bench.pruning.steps import ladder, unit_step
from bench.spec.digest import digest

STEP, NARROW, NARROW_STEP = 8, 16, 4
"""Channels between two widths of a table; layers up to so many channels have finer steps."""
MOST_WIDTHS = (16, 12, 8, 6, 4, 3, 2)
"""Most widths of a site, the first of these with which a table has no more than ``MOST_NETWORKS``."""
MOST_NETWORKS = 400
DENSE_COPIES, LEAST_RANDOM = 5, 20
"""A loaded copy of a network has a bias of its own, up to 2 %: the dense one is timed so often, so many others are."""
OUTSIDE = -1


@dataclass(frozen=True)
class Term:
    """A fused block: layers whose time depends on the same widths.

    Attributes:
        kind: terms of one kind take the same time at the same widths.
        sites: places of one or two widths in a vector.
        block: place of the block that it leaves with; ``OUTSIDE`` for none.
    """

    kind: int
    sites: tuple[int, ...]
    block: int


@dataclass(frozen=True)
class Terms:
    """All fused blocks of a network.

    Attributes:
        names: sites of channels, in the order of a vector (see ``bench.pruning.costs.Vector``).
        blocks: sites of blocks, and the places of their units.
        dense: the dense vector.
        grid: for each of ``names`` the widths that it may have, ascending; the last is the dense one.
        inside: for each of ``names`` the place of the block that it leaves with.
        block_kinds: for each block its kind.
        terms: the fused blocks.
    """

    names: tuple[str, ...]
    blocks: tuple[tuple[str, tuple[int, ...]], ...]
    dense: tuple[int, ...]
    grid: tuple[tuple[int, ...], ...]
    inside: tuple[int, ...]
    block_kinds: tuple[int, ...]
    terms: tuple[Term, ...]

    @property
    def sha256(self) -> str:
        """Hash of all of it."""
        return digest(asdict(self))

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """For each kind of terms how many widths each of its sites has."""
        found = {term.kind: tuple(len(self.grid[site]) for site in term.sites) for term in self.terms}
        return [found[kind] for kind in range(len(found))]

    def level(self, site: int, width: int) -> int:
        """Which of the widths of a site it is; raises UsageError for another one: nothing is interpolated."""
        try:
            return self.grid[site].index(width)
        except ValueError:
            grid = ", ".join(map(str, self.grid[site]))
            raise UsageError(f"site {self.names[site]}: width {width} is not in the table, which has {grid}") from None

    def stays(self, vector: Sequence[int] | Vector, block: int) -> bool:
        """Whether the block at this place stays; what is outside of blocks does."""
        return block == OUTSIDE or bool(vector[block] > 0)

    def settled(self, vector: Vector) -> Vector:
        """``vector`` without widths inside of blocks that it removes."""
        found = vector.copy()
        for site, block in enumerate(self.inside):
            found[site] *= self.stays(vector, block)
        return found

    def sweeps(self) -> list[Vector]:
        """Networks in which terms of one kind have other widths in all their places at once, or blocks of one kind go.

        A kind with two widths gets the product of both.
        """
        found: dict[bytes, Vector] = {}

        def add(vector: Vector) -> None:
            settled = self.settled(vector)
            found.setdefault(settled.tobytes(), settled)

        dense = np.array(self.dense, dtype=np.int64)
        for kind in range(len(self.sizes)):
            places = [term.sites for term in self.terms if term.kind == kind]
            for widths in itertools.product(*(self.grid[site] for site in places[0])):
                vector = dense.copy()
                for side, width in enumerate(widths):
                    vector[[sites[side] for sites in places]] = width
                add(vector)
        for kind in set(self.block_kinds):
            vector = dense.copy()
            vector[[len(self.names) + k for k, own in enumerate(self.block_kinds) if own == kind]] = 0
            add(vector)
        found.pop(dense.tobytes(), None)
        return list(found.values())

    def drawn(self, count: int, seed: int) -> list[Vector]:
        """Random widths of the grid, and random blocks, of which most stay."""
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            widths = [int(rng.choice(widths)) for widths in self.grid]
            stays = (rng.random(len(self.block_kinds)) < 0.7).astype(int)
            found.append(self.settled(np.array([*widths, *stays], dtype=np.int64)))
        return found

    def networks(self, seed: int = 0) -> list[Vector]:
        """The networks of a table."""
        sweeps, kinds = self.sweeps(), len(self.sizes) + len(set(self.block_kinds))
        dense = [np.array(self.dense, dtype=np.int64)] * DENSE_COPIES
        return [*dense, *sweeps, *self.drawn(max(LEAST_RANDOM, 2 * kinds), seed)]


def terms_of(network: nn.Module, sites: Sites, model: CostModel, step: int = 1) -> Terms:
    """The fused blocks of a network.

    Args:
        network: the dense one.
        sites: its sites.
        model: their cost model.
        step: every width is a multiple of so many channels, or full.

    Raises UsageError where a table would need too many networks.
    """
    column = {name: k for k, name in enumerate(model.names)}
    all_blocks = [block for site in sites.values() for block in site.blocks]
    counted = flops.count(network, model.shape)

    def block_of(layer: str) -> int:
        found = holder(layer, all_blocks)
        return OUTSIDE if found is None else len(column) + all_blocks.index(found)

    def described(name: str) -> list[Any]:
        module = network.get_submodule(name)
        return [str(module), sum(counted.by_module.get(name, {}).values())]  # which says how large its images are

    layers: dict[str, dict[str, dict[int, int]]] = defaultdict(lambda: {"in": {}, "out": {}, "both": {}})
    inside = [{block_of(cut.layer) for cut in sites[name].cuts} for name in model.names]
    for name, site in ((name, sites[name]) for name in model.names):
        for cut in site.cuts:
            layers[cut.layer][cut.side][column[name]] = len(cut.positions) // site.n_units
    parts: dict[tuple[int, tuple[int, ...]], list[Any]] = defaultdict(list)
    for layer, sides in layers.items():
        module = part(network, layer)
        if isinstance(module, nn.Parameter):  # it is multiplied or added where its units are made
            continue
        what = [*described(layer), channels(module)]
        for group in _groups(module, sides):
            each = [[side, of[site]] for site in group for side, of in sides.items() if site in of]
            parts[block_of(layer), group].append([*what, each])
    found = None
    for most in MOST_WIDTHS:
        grid = tuple(
            _grid(dense, channels_, step, most) for dense, channels_ in zip(model.dense.tolist(), model.unit_channels)
        )
        found = Terms(
            names=tuple(model.names),
            blocks=tuple((name, tuple(places.tolist())) for name, places in model.blocks.items()),
            dense=tuple(model.dense.tolist()),
            grid=grid,
            inside=tuple(next(iter(of)) if len(of) == 1 else OUTSIDE for of in inside),
            block_kinds=_kinds([described(block.name) for block in all_blocks]),
            terms=_terms(parts, grid),
        )
        if sum(int(np.prod(size)) for size in found.sizes) <= MOST_NETWORKS:
            return found
    assert found is not None
    raise UsageError(
        f"a table of milliseconds would need more than {MOST_NETWORKS} networks: {len(found.sizes)} kinds of layers "
        "differ in their widths; give a budget of MACs (--keep-macs)"
    )


def _groups(module: nn.Module, sides: dict[str, dict[int, int]]) -> Iterator[tuple[int, ...]]:
    """Places of the widths that a layer's time depends on together: what it reads with what it makes."""
    reads, makes = list(sides["in"]), list(sides["out"])
    if reads and makes and isinstance(module, (*CONVS, nn.Linear)):
        yield from dict.fromkeys((a, b) if a != b else (a,) for a, b in itertools.product(reads, makes))
    else:
        yield from dict.fromkeys((site,) for site in (*reads, *makes))
    yield from ((site,) for site in sides["both"])


def _grid(dense: int, unit_channels: Sequence[int], step: int, most: int) -> tuple[int, ...]:
    """Widths of a site, in units."""
    widest = dense * min(unit_channels)
    plain = NARROW_STEP if widest <= NARROW else STEP
    least = step if step > 1 else plain
    wide = least * max(1, -(-widest // (least * most)))
    units = unit_step(wide, unit_channels)
    return tuple(int(width) for width in ladder(min(units, dense), dense, units, dense))


def _terms(parts: dict[tuple[int, tuple[int, ...]], list[Any]], grid: Sequence[tuple[int, ...]]) -> tuple[Term, ...]:
    kinds = _kinds([[sorted(map(digest, of)), [grid[site] for site in sites]] for (_, sites), of in parts.items()])
    return tuple(Term(kind, sites, block) for kind, (block, sites) in zip(kinds, parts, strict=True))


def _kinds(described: Sequence[Any]) -> tuple[int, ...]:
    """Numbers for descriptions; equal ones have the same."""
    known: dict[str, int] = {}
    return tuple(known.setdefault(digest(what), len(known)) for what in described)
