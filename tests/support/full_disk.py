"""A disk that is full from some moment on: what is written to a folder then fails as the system makes it fail."""

import errno
import os
import shutil
from types import SimpleNamespace

FAULTS = ("creating", "writing", "syncing")
"""Where a full disk is noticed: no file can be made, none takes a byte, or only syncing it fails."""


class Disk:
    """The disk of ``folder``; nothing else changes.

    Attributes:
        full: whether it is, now.
        free: bytes, where it is not full; None: as many as there are.
        files: that were written atomically so far.
        pauses: of workers that waited.
    """

    def __init__(self, folder, monkeypatch, fault="writing", fill_at=None, room_after=None):
        self.folder, self.fault, self.fill_at, self.room_after = str(folder), fault, fill_at, room_after
        self.full, self.free, self.files, self.pauses = False, None, 0, 0
        self.calls = SimpleNamespace(open=os.open, write=os.write, pwrite=os.pwrite, fsync=os.fsync)
        self.usage = shutil.disk_usage
        monkeypatch.setattr(shutil, "disk_usage", self._usage)
        monkeypatch.setattr(os, "open", self._open)
        monkeypatch.setattr(os, "fsync", self._fsync)
        for name in ("write", "pwrite"):
            monkeypatch.setattr(os, name, self._writer(getattr(self.calls, name)))

    def sleep(self, seconds):
        """In place of ``time.sleep``: the disk has room after so many pauses."""
        self.pauses += 1
        if self.pauses == self.room_after:
            self.full, self.free = False, None

    def _usage(self, path):
        found = self.usage(path)
        free = 0 if self.full else self.free
        return found if free is None else found._replace(free=free)

    def _open(self, path, flags, *more, **named):
        mine = str(path).startswith(self.folder) and flags & os.O_CREAT and not os.path.exists(path)
        if mine and str(path).endswith(".part"):
            self.full |= self.files == self.fill_at
            self.files += 1
        if mine and self.full:
            if self.fault == "creating":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.fault == "writing" and flags & os.O_EXCL:
                os.symlink("/dev/full", path)  # which refuses every byte
                flags &= ~(os.O_EXCL | os.O_NOFOLLOW)
        return self.calls.open(path, flags, *more, **named)

    def _fsync(self, handle):
        if self.full and self._holds(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.calls.fsync(handle)

    def _writer(self, real):
        def write(handle, data, *more):
            if self.full and self._holds(handle):
                if len(data) > 1 and self.fault == "syncing":  # the last bytes that fit
                    return real(handle, bytes(data)[: len(data) // 2], *more)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(handle, data, *more)

        return write

    def _holds(self, handle):
        return os.readlink(f"/proc/self/fd/{handle}").startswith(self.folder)
