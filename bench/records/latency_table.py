"""Files of latency tables: a line of JSON with the networks that were timed, and one for each that runs measured later.

The hash of a table is about its first line alone. Needs no torch.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

import msgspec

from bench.errors import UsageError
from bench.files import write_atomic
from bench.records.schema import Environment, Part
from bench.records.values import Count, Label, Moment, Name, Positive, Sha256, Size
from bench.spec.digest import digest, path_component

FOLDER = "latency"
"""Below the folder of records."""


class TableKey(Part, frozen=True):
    """What the milliseconds of a table depend on."""

    network_sha256: Sha256
    shape: list[Size]
    coupling: Literal["inner", "full"]
    units: Literal["width", "depth", "both"]
    terms_sha256: Sha256  # of the fused blocks and their widths
    runtime: Label
    runtime_version: Label
    device: Name
    threads: Size
    batch: Size
    dtype: Literal["float32"]
    layout: Literal["channels_last", "channels_first"]


class Table(Part, frozen=True):
    """What a table is made from; ``timed`` has vectors of widths and blocks, each with its milliseconds."""

    kind: Literal["bench.latency_table"]
    schema: Literal[1]
    arch: Name
    key: TableKey
    grid: dict[Name, list[Count]]  # site: widths
    timed: list[tuple[list[Count], Positive]]
    environment: Environment
    measured_at: Moment

    @property
    def sha256(self) -> str:
        """Its hash: what it is about, and what was timed."""
        return digest(msgspec.to_builtins([self.key, self.timed]))


class Chosen(Part, frozen=True):
    """A network that a run chose, measured next to the dense one: see ``bench.pruning.latency_rounds.Measured``."""

    vector: list[Count]
    ms: Positive
    dense_ms: Positive
    low: Positive
    high: Positive


_TABLE, _CHOSEN = msgspec.json.Decoder(Table), msgspec.json.Decoder(Chosen)


def path_of(out: Path, table: Table) -> Path:
    """Where a table is kept below the folder of records."""
    key = table.key
    name = f"{table.arch}-{key.runtime}-b{key.batch}-t{key.threads}-{key_sha256(key)[:12]}-{table.sha256[:12]}"
    return out / FOLDER / f"{path_component(name)}.jsonl"


def key_sha256(key: TableKey) -> str:
    """Hash of a key."""
    return digest(msgspec.to_builtins(key))


def with_key(out: Path, key: TableKey) -> Path | None:
    """The table of a key, if there is one."""
    return min((out / FOLDER).glob(f"*-{key_sha256(key)[:12]}-*.jsonl"), default=None)


def with_sha256(out: Path, sha256: str) -> Path | None:
    """The table of a hash, if it is there."""
    return min((out / FOLDER).glob(f"*-{sha256[:12]}.jsonl"), default=None)


def read(path: Path) -> tuple[Table, list[Chosen]]:
    """A table, and what was measured with it. Torn lines are left out.

    Raises UsageError for a file that is no table.
    """
    try:
        first, *more = path.read_bytes().split(b"\n")
        table = _TABLE.decode(first)
    except OSError as error:
        raise UsageError(f"latency table {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is no latency table: {error}") from error
    chosen = []
    for number, line in enumerate(more, 2):
        try:
            chosen.append(_CHOSEN.decode(line))
        except msgspec.DecodeError as error:
            torn = not line or (line.startswith(b"{") and not line.endswith(b"}"))
            if not torn:
                raise UsageError(f"latency table {path}: line {number}: {error}") from error
    return table, chosen


def write(path: Path, table: Table) -> None:
    """Write a table without anything measured later."""
    text = msgspec.json.encode(table, order="sorted") + b"\n"
    write_atomic(path, lambda temporary: temporary.write_bytes(text), exclusive=True)


def remember(path: Path, chosen: Chosen) -> None:
    """Add what was measured; raises OSError."""
    line = msgspec.json.encode(chosen, order="sorted") + b"\n"
    with path.open("a+b", buffering=0) as file:
        file.seek(-1, os.SEEK_END)
        line = line if file.read(1) == b"\n" else b"\n" + line  # behind a torn line
        if file.write(line) < len(line):  # one write: lines of several processes do not mix
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
