"""Specifications that made the same networks seed by seed are one row: two names add no evidence."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from leaderboard.reader.controls import controls_of

if TYPE_CHECKING:
    from leaderboard.reader.extract import Values as Record


def collapsed(groups: Sequence[Sequence[Record]]) -> list[list[Sequence[Record]]]:
    """The records of each specification of a table, those with the same networks together, the one that stays first.

    A control stays before others, then the name that sorts first.
    """
    found: list[list[Sequence[Record]]] = []
    known: dict[Hashable, list[Sequence[Record]]] = {}
    for records in sorted(groups, key=_place):
        same = next((known[key] for key in _networks(records) if key in known), None)
        if same is None:
            found.append(same := [])
        same.append(records)
        known |= dict.fromkeys(_networks(records), same)
    return found


def _place(records: Sequence[Record]) -> tuple[bool, str, str]:
    return records[0].name not in controls_of(records[0].coupling), records[0].name, records[0].spec_sha256


def _networks(records: Sequence[Record]) -> Iterator[Hashable]:
    """What two specifications have in common where their networks are the same on every seed.

    The networks' files; or which units they keep and which test images they get right. A run that failed has neither.
    """
    for facts in ([(r.network_sha256,) for r in records], [(r.masks, r.correct) for r in records]):
        if all(all(fact) for fact in facts):
            yield records[0].track, tuple((r.seed, *fact) for r, fact in zip(records, facts, strict=True))
