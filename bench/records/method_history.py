"""What a method's source was at a commit, read from the repository's history. Needs git, no network, no torch."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import weakref
from functools import cache, cached_property
from pathlib import Path

from bench.errors import UsageError
from bench.spec import source_hash
from bench.spec.class_scan import ROOT
from bench.spec.entries import scan
from bench.spec.registry import METHODS


class MethodHistory:
    """The methods of the suite at any commit of its repository; each commit's are unpacked once.

    Args:
        repository: a folder of the repository.
    """

    def __init__(self, repository: Path = ROOT) -> None:
        self.repository = repository
        self._methods = cache(self._read)
        self._sha256 = cache(self._hashed)

    @property
    def head(self) -> str:
        """The newest commit; empty without a repository, or without git."""
        return (self._git("rev-parse", "HEAD") or b"").decode().strip()

    @cached_property
    def shallow(self) -> bool:
        """Whether this is a clone without all of its history."""
        return (self._git("rev-parse", "--is-shallow-repository") or b"").strip() == b"true"

    def wrong(self, commit: str | None, method: str, sha256: str | None) -> str:
        """Why the hash of a method's source is not that of a commit, in one line; empty where it is.

        Empty, too, for a commit that a shallow clone does not have.

        Args:
            commit: ``code.commit`` of a record.
            method: its name, or names joined by ``+``.
            sha256: ``code.method_sha256``: of the files that define it, and the local modules that they import.
        """
        if commit is None:
            return "code.commit is null: it does not say what was run"
        known = self._methods(commit)
        if known is None:  # of a shallow clone nobody knows
            return "" if self.shallow else f"code.commit {commit[:12]} is not in this repository"
        files = [known.get(name) for name in method.split("+")]
        if missing := [name for name, file in zip(method.split("+"), files, strict=True) if file is None]:
            lacks = f"method '{missing[0]}' is not in the repository at code.commit {commit[:12]}"
            return f"{lacks}: a plugin's source is not compared"
        found = self._sha256(tuple(file for file in files if file))
        if found != sha256:
            return f"code.method_sha256 is {(sha256 or 'null')[:12]}, of '{method}' at {commit[:12]} it is {found[:12]}"
        return ""

    def added(self, folder: Path) -> dict[str, int]:
        """When each file at or below a folder was added, in seconds since 1970, by the last commit that added it.

        Names are relative to the folder; nothing of files that are in no commit.
        """
        words = ("log", "--diff-filter=A", "--format=%x01%ct", "--name-only", "--relative", "-z", "--", ".")
        found: dict[str, int] = {}
        for part in (self._git(*words, at=folder) or b"").decode(errors="surrogateescape").split("\x01")[1:]:
            time, *names = part.replace("\n", "\0").split("\0")
            for name in filter(None, names):
                found.setdefault(name, int(time))
        return found

    def _read(self, commit: str) -> dict[str, Path] | None:
        """Method -> its file, unpacked; None for a commit that is not there."""
        content = self._git("archive", "--format=tar", commit, METHODS.path.name)
        if content is None:
            return None
        place = self._place / commit
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            files.extractall(place, filter="data")
        found: dict[str, Path] = {}
        for file in sorted((place / METHODS.path.name).glob("*.py")):
            try:
                found |= {entry.name: file for entry in scan(file, METHODS.decorators, lambda: None)}
            except UsageError:
                continue  # a file that Python could not read then either
        return found

    @cached_property
    def _place(self) -> Path:
        place = tempfile.mkdtemp(prefix="bench-history-")
        weakref.finalize(self, shutil.rmtree, place, True)
        return Path(place)

    def _hashed(self, files: tuple[Path, ...]) -> str:
        return source_hash.of_files(*files).sha256

    def _git(self, *arguments: str, at: Path | None = None) -> bytes | None:
        command = ["git", "-C", str(at or self.repository), "-c", "safe.directory=*", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None
