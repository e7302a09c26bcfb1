"""Runs that somebody did again: what a replay says of its original, and which run is replayed next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import TypeVar

from bench.records.bits import unpack
from bench.records.schema import Finished
from leaderboard.stats.prediction import RARE, predict, top1

EQUAL, INSIDE, UNUSUAL, OUTSIDE = "equal", "inside", "unusual", "outside"
"""Status of a replay: the same to the last test image; within 95 % of honest replays; as 1 in 20 of them is; as no
more than 1 in 1,000 is, or right on other images than two seeds are."""
T = TypeVar("T")


def status(original: Finished, replay: Finished, seeds: Sequence[Finished]) -> str:
    """One of the words above.

    Args:
        original: the record that was run again.
        replay: of the same specification and seed.
        seeds: other seeds of the specification, by the submitter of the original.
    """
    if _results(original) == _results(replay):
        return EQUAL
    if not predict(original, seeds, RARE).holds(top1(replay)) or not _agree(original, replay, seeds):
        return OUTSIDE
    return INSIDE if predict(original, seeds).holds(top1(replay)) else UNUSUAL


def _results(found: Finished) -> tuple[object, ...]:
    final = found.metrics.final
    return final.top1, final.correct, found.structure.masks, found.cost.final.macs


def _agree(original: Finished, replay: Finished, seeds: Sequence[Finished]) -> bool:
    """Whether original and replay are right on the same images, at least as often as some two seeds are.

    True where nobody knows: without bits, with fewer than two other seeds, on test images that rotate with the seed.
    """
    same = [r for r in seeds if r.data.test_sha256 == original.data.test_sha256 and r.metrics.final.correct]
    if len(same) < 2 or not (original.metrics.final.correct and replay.metrics.final.correct):
        return True
    least = min(agreement(one, other) for one, other in combinations(same, 2))
    return agreement(original, replay) >= least


def agreement(one: Finished, other: Finished) -> float:
    """Share of the test images on which two runs are both right, or both wrong."""
    images = one.data.test
    found = [unpack(r.metrics.final.correct or "", images) for r in (one, other)]
    return float((found[0] == found[1]).mean())


def drawn(rows: Sequence[Sequence[T]], commit: str) -> list[T]:
    """One run of each row: which, is decided by the hash of the commit that merges them.

    The submitter does not make that commit, so that nobody can search for one that draws the runs that he likes.

    Args:
        rows: the runs of each row and budget, in an order that does not depend on the commit.
        commit: its hash.
    """
    found = []
    for place, runs in enumerate(rows):
        number = int.from_bytes(hashlib.sha256(f"{commit}/{place}".encode()).digest())
        found.append(runs[number % len(runs)])
    return found
