"""Records by the start of their id."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UsageError
from bench.records import store

SHOWN = 8
"""Records of one name that an error lists."""


def find_one(text: str, out: Path) -> Path:
    """The record's file that ``text`` names, a path or (the start of) an id; raises UsageError."""
    if Path(text).is_file():
        return Path(text)
    matches = [p for p in store.find(out / "records") if p.stem.startswith(text) and "superseded" not in p.parts]
    if not matches:
        raise UsageError(f"{text}: no record of that name under {out / 'records'}; give a file, or its folder as --out")
    if len(matches) > 1:
        shown = ", ".join(map(str, matches[:SHOWN]))
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        raise UsageError(f"{text}: {len(matches)} records have that name, give one of them as a file: {shown}{more}")
    return matches[0]
