"""Says that torch is being loaded, which takes seconds, by whichever command needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


class _Announcer(MetaPathFinder):
    """Finds nothing; prints a line when torch is looked for."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Called for every module that is not imported so far."""
        if fullname == "torch":
            sys.meta_path.remove(self)
            print("bench: loading torch", file=sys.stderr, flush=True)


@contextmanager
def announced(quiet: bool = False) -> Iterator[None]:
    """Within the block, the first import of torch prints a line on stderr."""
    announcer = _Announcer()
    if "torch" not in sys.modules and not quiet:
        sys.meta_path.insert(0, announcer)
    try:
        yield
    finally:
        if announcer in sys.meta_path:
            sys.meta_path.remove(announcer)
