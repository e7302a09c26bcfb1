"""Work that is spread over processes: each is started by name and speaks JSON, in by one pipe and out by another.

They are not forked: the process that asks may have threads, and its script may not be one to import.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from bench.errors import SetupError

MOST = 16
"""Processes at once, however many cores there are."""


def cores() -> int:
    """Cores that may be used, at most ``MOST``."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, MOST)


def spread(module: str, words: Sequence[str], parts: Sequence[Any]) -> list[Any]:
    """What ``python -m MODULE WORDS`` answers to each part, in their order, all at once; see :func:`answer`.

    Raises:
        SetupError: a process ended early, as when there is too little memory.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}

    def run(part: Any) -> Any:
        command = [sys.executable, "-m", module, *words]
        done = subprocess.run(command, input=orjson.dumps(part), stdout=subprocess.PIPE, env=environment)
        if done.returncode:
            raise SetupError(f"python -m {module} ended with {done.returncode}; was there too little memory?")
        return orjson.loads(done.stdout)

    with ThreadPoolExecutor(max(len(parts), 1)) as pool:
        return list(pool.map(run, parts))


def answer(work: Callable[[Any], Any]) -> None:
    """The other end: answer to what comes, once."""
    gc.disable()  # nothing that is made has cycles, and the process ends soon
    sys.stdout.buffer.write(orjson.dumps(work(orjson.loads(sys.stdin.buffer.read()))))
