"""Runs that somebody did again: what a replay says of its original, and which run is replayed next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from bench.records import store
from bench.records.bits import unpack
from bench.records.cross_checks import SUITE
from bench.records.schema import Finished, finished
from leaderboard.reader.extract import as_record
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


def with_replays(rows: Sequence[Sequence[Any]], root: Path) -> list[Sequence[Any]]:
    """The rows of a folder of records, those of records that others ran again with who did and with what status.

    Rows of the suite stay as they are: nobody changes them. Records that cannot be loaded again are no replays.
    """
    records = [as_record(row) for row in rows]
    originals = {r.record_sha256: place for place, r in enumerate(records) if r.submitter not in ("", SUITE)}
    found = list(rows)
    for r in records:
        place = originals.get(r.replay_of)
        if place is None or r.status != "ok" or records[place].submitter == r.submitter:
            continue
        given = records[place]
        row = (given.submitter, given.spec_sha256, given.status)
        seeds = [o for o in records if (o.submitter, o.spec_sha256, o.status) == row and o.seed != given.seed]
        if (given.spec_sha256, given.seed) != (r.spec_sha256, r.seed):
            continue
        loaded = [store.load(f"{root}/{one.file}") for one in (given, r, *seeds)]
        original, replay, *others = [one for one in loaded if finished(one)]
        said = [*filter(None, [as_record(found[place]).replays]), f"{r.submitter} ({status(original, replay, others)})"]
        found[place] = tuple(as_record(found[place])._replace(replays=", ".join(said)))
    return found


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
