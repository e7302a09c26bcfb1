"""The folder of a site: whose it is, which files it has, and how a new one takes the place of an old one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from bench.errors import UsageError
from bench.spec.digest import path_component

MARKER = "bench-site.txt"
"""In every site: says whose it is, and lists its files."""
HEAD = "Written by bench board. Everything listed here is replaced when the site is written again."


class Folder:
    """Files of a site that is being written; no name is given twice, also where case does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        """Write a file; ValueError for a name that leads out of the folder or is taken."""
        parts = PurePosixPath(name).parts
        if not parts or any(path_component(part) != part or part in (".", "..") for part in parts) or len(parts) > 2:
            raise ValueError(f"{name!r} is no name of a page")
        if self.names.setdefault(name.lower(), name) != name or (self.path / name).exists():
            raise ValueError(f"two pages are called {name}")
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")


def check_place(folder: Path) -> None:
    """Refuse what is no site, and a site with files that are not its own."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"site {folder}: there is a file of this name; choose another folder")
    there = {
        Path(where, name).relative_to(folder).as_posix()
        for where, folders, files in os.walk(folder)
        for name in [*files, *(f for f in folders if Path(where, f).is_symlink())]
    }
    marker = folder / MARKER
    own = (
        marker.read_text(encoding="utf-8", errors="replace").splitlines()
        if MARKER in there and not marker.is_symlink()
        else []
    )
    if there and own[:1] != [HEAD]:
        raise UsageError(f"site {folder}: the folder is not empty and no site of bench board; choose another")
    foreign = sorted(there - set(own[1:]))
    if foreign:
        raise UsageError(f"site {folder}: {foreign[0]} is not the site's (of {len(foreign)}); move it elsewhere first")


def exchange(folder: Path, new: Path, old: Path) -> None:
    """Put ``new`` in the place of ``folder``, which goes to ``old``; what was there comes back when that fails."""
    had = folder.exists()
    if had:
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if had:
            old.rename(folder)
        raise
