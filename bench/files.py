"""Files that are whole or absent, and locks that die with their holder. Needs no torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bench.errors import NoRoom, SetupError

RANGES = hasattr(fcntl, "F_OFD_SETLK")
"""Whether a lock may be a byte of a file and belong to one opening of it (Linux)."""
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
HELD = (errno.EAGAIN, errno.EACCES)
POLL_S = 0.05


def write_atomic(path: Path, write: Callable[[Path], object], exclusive: bool = False) -> bool:
    """Write a file so that a reader, or a crash at any moment, sees all of it or none.

    Args:
        path: where.
        write: writes to the path it is given, in the same folder.
        exclusive: leave an existing file alone.

    Returns:
        False when ``exclusive`` and the file is already there. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if exclusive:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        else:
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


class Lock:
    """An exclusive lock on a name, across processes and, where the file system does it, across machines.

    All names of a folder share the file ``locks`` in it: each is one byte of it, far beyond its end. So thousands of
    names cost one file, and no file has to be removed, which could not be done safely. A lock belongs to this object,
    not to the process. Where there are no such locks (not on Linux), a name has a file of its own.

    Args:
        folder: made when the lock is taken.
        name: any text.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / ("locks" if RANGES else f"{name}.lock")
        self._place = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
        self._handle: int | None = None

    def acquire(self, timeout: float = -1) -> Lock:
        """Take the lock within so many seconds, below 0: wait for it; raises TimeoutError, OSError."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        end = time.monotonic() + timeout
        try:
            while not self._take(handle, wait=timeout < 0):
                if time.monotonic() >= end:
                    raise TimeoutError(f"{self.file}: the lock is held")
                time.sleep(POLL_S)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return self

    def release(self) -> None:
        """Give the lock back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def busy(self) -> bool:
        """Whether somebody holds the lock right now; leaves nothing behind."""
        try:
            handle = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # nobody ever took it, or it is out of reach
            return False
        try:
            if not RANGES:
                return not self._take(handle, wait=False)
            found = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_OFD_GETLK, self._request()))
            return bool(found[0] != fcntl.F_UNLCK)
        except OSError:
            return False
        finally:
            os.close(handle)

    def _take(self, handle: int, wait: bool) -> bool:
        try:
            if RANGES:
                fcntl.fcntl(handle, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, self._request())
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in HELD:
                return False
            if error.errno not in UNSUPPORTED:
                raise
            print(f"bench: note: {self.file.parent} has no locks: two processes may do the same work", file=sys.stderr)
        return True

    def _request(self) -> bytes:
        return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, self._place, 1, 0)

    def __enter__(self) -> Lock:
        return self if self._handle is not None else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_FLOCK = "hhqqi"
"""The C structure of a lock on a range: type, origin, start, length, process."""


def run_lock(out: Path, name: str) -> Lock:
    """Held by whoever is at the run ``name`` under an output folder."""
    return Lock(out / "checkpoints", name)


def require_writable(folder: Path, free_bytes: int) -> None:
    """Raise SetupError unless files can be written to ``folder``, NoRoom unless it has ``free_bytes`` left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from error
    if free < free_bytes:
        raise NoRoom(
            f"{folder} has {free / 2**20:.0f} MiB free, this run may need {free_bytes / 2**20:.0f}: "
            "make room or choose another folder with --out",
            free_bytes,
        )
