"""Measured latencies, looked up by shape; lines that cannot be believed are left out and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records.latency import Key, Line
from bench.records.latency_files import SUFFIX, read
from leaderboard.reader.frame import Problem

FOLDER = Path("leaderboard/latency")
SHOWN_FIRST = "onnxruntime"
"""Runtime whose numbers pages show first: eager at batch 1 times the calls from Python."""


@dataclass(frozen=True, order=True)
class Setting:
    """How something was measured: the part of a key that does not say what. Numbers of two settings never mix."""

    device: str
    runtime: str
    runtime_version: str
    threads: int
    batch: int
    dtype: str
    layout: str

    @classmethod
    def of(cls, key: Key) -> Setting:
        """The setting of a key."""
        return cls(*(getattr(key, name) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Latencies:
    """What a folder of latency files holds.

    Attributes:
        lines: key -> line.
        problems: lines that are not believed, with file and number.
    """

    lines: Mapping[Key, Line] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def settings(self, arch_sha256: str) -> list[Setting]:
        """How anything of an architecture was measured: ``SHOWN_FIRST`` before others, small batches before large."""
        found = {Setting.of(key) for key in self.lines if key.arch_sha256 == arch_sha256}
        return sorted(found, key=lambda one: (one.runtime != SHOWN_FIRST, one.runtime, one.threads, one.batch, one))

    def find(self, setting: Setting, arch_sha256: str, shape: tuple[int, int, int], widths_sha256: str) -> Line | None:
        """The line of a shape in a setting; None where nobody measured it, and then there is no number.

        Args:
            setting: one of :meth:`settings`.
            arch_sha256: ``structure.arch_sha256`` of a record.
            shape: ``data.shape`` of a record.
            widths_sha256: :func:`bench.spec.digest.widths_sha256` of ``structure.widths`` of a record.
        """
        what: dict[str, Any] = {"arch_sha256": arch_sha256, "shape": tuple(shape), "widths_sha256": widths_sha256}
        return self.lines.get(Key(**what, **vars(setting)))


def load(folder: Path = FOLDER) -> Latencies:
    """The latency files of all devices in a folder; nothing where there is no such folder."""
    lines: dict[Key, Line] = {}
    problems = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        found, wrong = read(file)
        lines |= found
        problems += [Problem(f"{file.name}:{problem.line}", problem.message) for problem in wrong]
    return Latencies(lines, tuple(problems))
