"""What is refused while code of a method runs: files of data sets, modules that load them, connections. Needs no torch.

Python calls an audit hook for every file that it opens, every import and every connection. This stops accidents and
simple cheating. It is no sandbox: other threads, other programs and libraries that open files in C are not seen.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import METHOD, RunFailed

MODULES = ("sklearn.datasets", "torchvision.datasets")
"""Modules that load data sets; their own package may import them."""
NAMED = re.compile(
    r"-idx[13]-ubyte(\.gz)?$|/(sklearn/datasets|scikit_learn_data|cifar-10-batches-py|cifar-100-python|cifar10_jpeg75"
    r"|flowers-102|tiny-imagenet-200|imagenette2-160)/"
)
"""Files of the suite's data sets, wherever they lie."""
CODE = re.compile(r"\.pyi?$|/__pycache__/")
LIBRARY = re.compile(r"/(site|dist)-packages/|/lib/python3[^/]*/")
"""Installed files, which a folder of data may hold where it is the folder of all work."""
ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Audit event of a connection -> which of its arguments says where to."""
EVENTS = frozenset({"open", "import", *ADDRESS})
ADVICE = "images come from ctx.batches"


class OffLimits:
    """What is refused in one thread.

    Args:
        who: whose code runs, as messages name it.
        folders: no file in them is opened, code and installed libraries apart.
        but: a folder whose files may be opened, unless an inner one of ``folders`` has them.

    Attributes:
        refused: what was tried.
    """

    def __init__(self, who: str, folders: tuple[Path, ...], but: Path | None) -> None:
        self.who, self.refused = who, list[RunFailed]()
        places = [(_slashed(but, folder=True), False)] if but else []
        places += [(_slashed(folder, folder=True), True) for folder in folders]
        self.places = sorted(places, key=lambda place: -len(place[0]))  # the innermost folder decides

    def judge(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise RunFailed for an event that is refused."""
        if event == "open":
            if isinstance(args[0], str | bytes) and self._is_data(_slashed(os.fsdecode(args[0]))):
                self._refuse(f"opens {os.path.basename(os.fsdecode(args[0]))}, a file of a data set: {ADVICE}")
        elif event == "import":
            if args[0] in MODULES and _importer() != args[0].partition(".")[0]:
                self._refuse(f"imports {args[0]}: {ADVICE}")
        elif not _on_this_machine(args[0]):
            self._refuse(f"connects to {args[ADDRESS[event]]}: no method needs a network")

    def _is_data(self, path: str) -> bool:
        if CODE.search(path):
            return False
        inside = (no for place, no in self.places if path.startswith(place) and not LIBRARY.search(path))
        return bool(NAMED.search(path)) or next(inside, False)

    def _refuse(self, what: str) -> None:
        self.refused.append(RunFailed(f"{self.who} {what}", blame=METHOD))
        raise self.refused[-1]


_ACTIVE: dict[int, OffLimits] = {}
"""What is refused now, by thread."""
_listening = False


@contextmanager
def off_limits(who: str, *folders: Path, but: Path | None = None) -> Iterator[None]:
    """Within the block, in this thread, files of data sets, modules that load them and connections are refused.

    Args as of :class:`OffLimits`. Raises RunFailed, also after a block that kept a refusal to itself.
    """
    global _listening
    if not _listening:
        sys.addaudithook(_hear)  # for the rest of the process: nothing takes one away
        _listening = True
    thread, mine = threading.get_ident(), OffLimits(who, folders, but)
    before = _ACTIVE.get(thread)
    _ACTIVE[thread] = mine
    try:
        yield
    finally:
        if before is not None:
            _ACTIVE[thread] = before
        else:
            _ACTIVE.pop(thread, None)
    if mine.refused:
        raise mine.refused[0]


def lift(worker: int = 0) -> None:
    """Refuse nothing more in this process: a worker that decodes images begins as a copy of one that refuses."""
    _ACTIVE.clear()


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _ACTIVE and event in EVENTS and (here := _ACTIVE.get(threading.get_ident())):
        here.judge(event, args)


def _slashed(path: Path | str, folder: bool = False) -> str:
    """The path itself, without links, with ``/``; that of a folder ends in one."""
    real = os.path.realpath(path).replace(os.sep, "/")
    return f"{real.rstrip('/')}/" if folder else real


def _importer() -> str:
    """The package of the code whose import statement runs."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name != __name__ and not name.startswith(("importlib.", "_frozen_importlib")) and name != "importlib":
            return name.partition(".")[0]
        frame = frame.f_back
    return ""


def _on_this_machine(connection: Any) -> bool:
    """Whether it is a socket between processes of this machine."""
    import socket

    return isinstance(connection, socket.SocketType) and connection.family == getattr(socket, "AF_UNIX", None)
