"""Records as packs: one for each data set and network, and one of their latency samples. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UsageError
from bench.records import pack, store
from bench.records.schema import Record
from bench.spec.digest import path_component

Entry = tuple[Record, bytes | None]
"""A record and the file of its latency samples, where that is known."""


def pack_name(record: Record) -> str:
    """Name of the pack that a record belongs to, without its ending: ``digits-resnet20``."""
    return "-".join(map(path_component, (record.spec.dataset, record.spec.arch)))


def read_entries(paths: Iterable[Path], out: Path) -> list[Entry]:
    """The records at ``paths``, files or ``PACK#ID``, with their samples; those of files lie under ``out``.

    Raises RecordError.
    """
    return [(record, store.samples_line(path, out, record)) for path in paths for record in [store.load(path)]]


def write_packs(folder: Path, entries: Iterable[Entry]) -> list[Path]:
    """Write packs into ``folder``; returns their paths.

    Raises UsageError where a pack is already there, or where two records have one id.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for record, samples in entries:
        groups[pack_name(record)].append((record, samples))
    packs: dict[Path, list[tuple[str, bytes]]] = {}
    for name, group in groups.items():
        packs[folder / f"{name}{pack.SUFFIX}"] = [(record.id, store.encode(record)) for record, _ in group]
        timed = [(record.id, samples) for record, samples in group if samples is not None]
        packs |= {folder / f"{name}{pack.SAMPLES}": timed} if timed else {}
    for file in packs:
        if file.exists():
            raise UsageError(f"{file} is already there: a submission adds packs only; choose another folder")
    for file, lines in packs.items():
        pack.write(file, lines)
    return list(packs)
