"""Records as packs: one for each data set and network. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UsageError
from bench.records import pack, store
from bench.records.schema import Record
from bench.spec.digest import path_component


def pack_name(record: Record) -> str:
    """Name of the pack that a record belongs to: ``digits-resnet20.jsonl.gz``."""
    return "-".join(map(path_component, (record.spec.dataset, record.spec.arch))) + pack.SUFFIX


def write_packs(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Write packs into ``folder``; returns their paths.

    Raises UsageError where a pack is already there, or where two records have one id.
    """
    packs: dict[Path, list[tuple[str, bytes]]] = defaultdict(list)
    for record in records:
        packs[folder / pack_name(record)].append((record.id, store.encode(record)))
    for file in packs:
        if file.exists():
            raise UsageError(f"{file} is already there: a submission adds packs only; choose another folder")
    for file, lines in packs.items():
        pack.write(file, lines)
    return list(packs)
