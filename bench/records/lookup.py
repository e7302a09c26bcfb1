"""Records by path, by ``PACK#ID``, or by the start of their id."""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UsageError
from bench.records import pack, store

SHOWN = 8
"""Records of one name that an error lists."""


def find_all(text: str, out: Path) -> list[Path]:
    """The records that ``text`` names for ``bench verify``: at or below a path, or by id; raises UsageError."""
    if Path(text).exists():
        return list(store.find(Path(text)))
    if re.fullmatch(r"[0-9a-f]{1,12}(-s[0-9]*)?", text) or pack.split(text)[1]:
        return [find_one(text, out)]
    raise UsageError(f"verify {text}: no such file or folder")


def find_one(text: str, out: Path) -> Path:
    """The record that ``text`` names, a file, ``PACK#ID`` or (the start of) an id; raises UsageError."""
    file, name = pack.split(text)
    if file.is_file() and not pack.is_pack(text):
        return Path(text)
    places, start = ([file], name) if file.is_file() else ([out / "records"], text)
    matches = [p for place in places for p in store.find(place) if store.id_of(p).startswith(start)]
    if name and not matches:
        raise UsageError(f"{text}: {'no record of that id in the pack' if file.is_file() else 'no such file'}")
    if not matches:
        raise UsageError(f"{text}: no record of that name under {out / 'records'}; give a file, or its folder as --out")
    if len(matches) > 1:
        shown = ", ".join(map(str, matches[:SHOWN]))
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        raise UsageError(f"{text}: {len(matches)} records have that name, give one of them as a file: {shown}{more}")
    return matches[0]
