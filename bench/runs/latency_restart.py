"""One process of a latency pass: rebuilds networks and times each pair of them in quiet windows."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.errors import BenchError, RunFailed
from bench.measure import latency, runtimes
from bench.measure.onnx_export import Bind
from bench.measure.quiet import Load, Machine
from bench.models.error_place import first_line
from bench.records.latency import Key, Restart, shape_of
from bench.records.schema import Finished
from bench.runs.artifacts import RunArtifacts
from bench.spec.digest import widths_sha256
from bench.spec.registry import PLUGINS, add_plugin

GRACE_S = 10
"""For a process to end by itself."""


@dataclass(frozen=True)
class Pair(ABC):
    """Two networks that are timed in turns.

    Attributes:
        keys: one a runtime and batch; the second network's shape.
    """

    keys: tuple[Key, ...]

    @abstractmethod
    def bound(self, key: Key, device: torch.device, folder: Path) -> list[Bind]:
        """Both networks in the runtime of ``key``; ``folder`` keeps the files of runtimes that convert networks."""


@dataclass(frozen=True)
class Task(Pair):
    """Two networks of a record.

    Attributes:
        record: what they are rebuilt from, without any file of its run: weights do not matter for time.
        pair: each ``dense`` or ``final``, see :meth:`bench.runs.artifacts.RunArtifacts.shaped`.
    """

    record: Finished
    pair: tuple[str, str]

    def bound(self, key: Key, device: torch.device, folder: Path) -> list[Bind]:
        """See :class:`Pair`."""
        stored = RunArtifacts(self.record, Path())
        found = []
        for which in self.pair:
            width = "dense" if which == "dense" else widths_sha256(shape_of(self.record.structure))[:16]
            file = folder / f"{key.arch_sha256[:16]}-{'x'.join(map(str, key.shape))}-{width}.onnx"
            network = stored.shaped(which)
            found.append(runtimes.load(key.runtime, network, key.shape, device, key.layout, file))
        return found


@dataclass(frozen=True)
class Work:
    """What one process does.

    Attributes:
        tasks: in this order.
        device: of networks, where the runtime has none of its own.
        threads: of the CPU.
        machine: says whether a window was quiet.
        folder: networks as files, for runtimes that convert them.
        plugins: files that define architectures.
    """

    tasks: tuple[Pair, ...]
    device: str
    threads: int
    machine: Machine
    folder: Path
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """A key timed once; ``failure`` says why there are no samples."""

    key: Key
    samples: Restart | None
    load: Load
    repeats: int = 0
    failure: str = ""


def in_new_process(work: Work) -> Iterator[Window]:
    """Carry out ``work`` in a process of its own; raises what :func:`windows` raises there."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(work, theirs))
    worker.start()
    theirs.close()
    try:
        while isinstance(found := mine.recv(), Window):
            yield found
        worker.join(GRACE_S)  # one that is killed leaves semaphores behind
        if found is not None:
            raise found
    except EOFError:
        worker.join()
        raise RunFailed(f"a process that timed networks ended with code {worker.exitcode}") from None
    finally:
        worker.kill()
        worker.join()
        mine.close()


def _work(work: Work, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for file in work.plugins:
                if file not in map(str, PLUGINS):
                    add_plugin(file)
            torch.set_num_threads(work.threads)
            for window in windows(work):
                answer.send(window)
        answer.send(None)
    except BenchError as error:
        answer.send(error)


def windows(work: Work) -> Iterator[Window]:
    """Time every key once. Raises Busy where the machine is not quiet."""
    for task in work.tasks:
        bound: dict[str, list[Bind]] = {}
        for key in task.keys:
            device, _ = runtimes.place_of(key.runtime, torch.device(work.device), key.layout)
            try:
                if key.runtime not in bound:
                    bound = {key.runtime: task.bound(key, device, work.folder)}
                x = torch.rand(key.batch, *key.shape, device=device)
                calls = [bind(x) for bind in bound[key.runtime]]
            except BenchError as error:
                yield Window(key, None, Load(0.0, 0.0), failure=first_line(error))
                continue
            measure = partial(latency.interleaved, calls, device, key.timed == "bursts")
            times, load, repeats = work.machine.undisturbed(measure)
            dense, final = (times * 1e6).round().astype(int).T.tolist()
            yield Window(key, Restart(dense, final), load, repeats)
