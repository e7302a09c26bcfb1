"""What the pages of ``bench board --site`` say besides boards: methods, published numbers, verifications, commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, UsageError
from bench.measure.environment import code
from bench.records import store
from bench.records.schema import Record
from bench.runs.rerun import command, made_with
from bench.spec.registry import METHODS
from leaderboard.pages.site import About, Sources
from leaderboard.pages.site import write as write_pages
from leaderboard.published.publications import accuracies

if TYPE_CHECKING:
    from leaderboard.reader.frame import Problem
    from leaderboard.reader.model import Board


def write(
    folder: Path, boards: Sequence[Board], problems: Sequence[Problem], records: Path, verified: Path | None
) -> list[Path]:
    """Write the site into ``folder``; raises UsageError where that is something else, SetupError where it cannot."""
    root = records if records.is_dir() else records.parent
    about, commit = about_methods(), code()["commit"] or ""
    sources = Sources(root, _command, about, accuracies(), problems, read_verified(verified), made_with, commit)
    return write_pages(folder, boards, sources)


def about_methods() -> dict[str, About]:
    """What the source of each method says of it; nothing is imported."""
    found = {}
    for name, entry in METHODS.entries().items():
        paper = entry.paper
        cite = f"{paper.authors} {paper.year}: {paper.title}. {paper.venue}." if paper else ""
        file = entry.origin.rpartition(":")[0]
        found[name] = About(entry.summary, cite, paper.url if paper else "", file, entry.kind, entry.options)
    return found


def read_verified(file: Path | None) -> dict[str, list[tuple[str, str, str]]]:
    """record_sha256 -> checks, of what ``bench verify --json`` printed; raises UsageError."""
    if file is None:
        return {}
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        checks = {path: [(c["name"], c["outcome"], c["detail"]) for c in found] for path, found in results.items()}
    except OSError as error:
        raise UsageError(f"board --verified {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"board --verified {file}: not what bench verify --json prints") from error
    found = {}
    for path, lines in checks.items():
        try:
            found[store.load(Path(path)).record_sha256] = lines
        except store.RecordError:
            continue
    return found


def _command(found: Record) -> str:
    try:
        return command(found)
    except BenchError as error:
        return f"# {error}"
