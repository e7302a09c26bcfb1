"""A latency pass: every distinct shape of some records that was not measured so far, each in several processes.

A pass begins with its controls: each dense network against its copy. What follows counts only if those are equal.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import msgspec
import torch

from bench.errors import RunFailed
from bench.measure import environment, runtimes
from bench.measure.quiet import Load, Machine
from bench.measure.runtimes import RUNTIMES, YARDSTICK
from bench.records.latency import RESTARTS, Key, Line, Quiet, Restart, Samples, Times, refused, shape_of, times_of
from bench.records.schema import Environment, Finished
from bench.runs.artifacts import RunArtifacts
from bench.runs.latency_restart import Pair, Task, Window, Work, in_new_process
from bench.runs.result import now
from bench.spec.digest import widths_sha256
from bench.spec.registry import PLUGINS

SEED = 0
"""Of the order of shapes."""
AT_ONCE = 8
"""Most shapes that the same processes time; then their lines are kept."""
SLOW = 5
"""A runtime that takes so many times as long as ``YARDSTICK`` for a dense network is set up wrongly, unless it times
calls from Python."""


@dataclass(frozen=True)
class How:
    """How shapes are measured: in each runtime, at each batch, on a device, with so many CPU threads, ``Key.timed``."""

    runtimes: Sequence[str]
    batches: Sequence[int]
    threads: int
    device: str
    timed: str = "turns"


@dataclass
class Measured:
    """What came of timing some keys: their samples, the load of each window, windows that were repeated."""

    samples: list[Restart] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    repeated: int = 0

    def add(self, window: Window) -> None:
        """One more process has timed it."""
        assert window.samples is not None
        self.samples.append(window.samples)
        self.loads.append(window.load)
        self.repeated += window.repeats

    @property
    def quiet(self) -> Quiet:
        """The busiest of its windows."""
        others, stolen = (max(getattr(load, name) for load in self.loads) for name in ("others", "stolen"))
        return Quiet(others, stolen, self.repeated)


def wanted(records: Iterable[Finished], how: How) -> dict[Key, Finished]:
    """The distinct keys of some records, each with one of the records that have it."""
    found: dict[Key, Finished] = {}
    for record in records:
        for key in keys_of(record, how):
            found.setdefault(key, record)
    return found


def keys_of(record: Finished, how: How) -> Iterator[Key]:
    """The keys of a record's final network, one a runtime and batch."""
    stored = RunArtifacts(record, Path())
    for runtime, batch in itertools.product(how.runtimes, how.batches):
        device, layout = runtimes.place_of(runtime, torch.device(how.device), stored.layout)
        facts = {
            "arch_sha256": record.structure.arch_sha256,
            "shape": stored.shape,
            "widths_sha256": widths_sha256(shape_of(record.structure)),
            "runtime": runtime,
            "runtime_version": runtimes.version_of(runtime),
            "device": environment.device_name(device),
            "threads": how.threads,
            "batch": batch,
            "dtype": "float32",
            "layout": layout,
            "timed": how.timed,
        }
        yield msgspec.convert(facts, Key)


class LatencyPass:
    """Times keys in turns with their dense networks and hands on one line for each.

    Args:
        how: as :func:`wanted` was asked.
        keep: called with finished lines and their samples (the controls' too), several times.
        machine: says when it is quiet.
        process: carries out :class:`bench.runs.latency_restart.Work`; None: in a new process.
        say: prints how far it is.
    """

    def __init__(
        self,
        how: How,
        keep: Callable[[list[Line], list[Samples]], object],
        machine: Machine,
        process: Callable[[Work], Iterable[Window]] | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.how, self.keep, self.machine, self.say = how, keep, machine, say
        self.process = process or in_new_process
        self.random = random.Random(SEED)
        self.failures: dict[Key, str] = {}

    def measure(self, todo: Mapping[Key, Finished]) -> dict[Key, str]:
        """Time all of ``todo``; returns keys that cannot be timed, and why.

        Raises:
            Busy: the machine is not quiet; what was handed on before counts.
            RunFailed: a control shows that times on this machine mean nothing; nothing was handed on.
        """
        if not todo:
            return {}
        self.machine.wait()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            self._measure(todo, Path(folder))
        return {key: self.failures[key] for key in todo if key in self.failures}

    def _measure(self, todo: Mapping[Key, Finished], folder: Path) -> None:
        dense = {key: _dense(key, record) for key, record in todo.items()}
        by_control = {dense[key]: record for key, record in todo.items()}
        self.say(f"{len(by_control)} controls: dense networks against their copies")
        controls = self.timed(tasks_of(by_control, ("dense", "dense")), folder)
        times = {key: times_of(Samples(found.samples)) for key, found in controls.items()}
        self._require_equal(times, by_control)
        for key in [key for key in todo if dense[key] not in times]:
            self.failures.setdefault(key, self.failures.get(dense[key], "its dense network cannot be timed"))
        done = sum(key in self.failures for key in todo)
        for number, tasks in enumerate([[], *self._groups(todo, dense)]):
            found = self.timed(tasks, folder) if tasks else {key: controls[key] for key in controls if key in todo}
            lines, samples = [], [Samples(found_control.samples) for found_control in controls.values()]
            for key, measured in found.items():
                own = Samples(measured.samples)
                samples.append(own)
                lines.append(self._line(key, todo[key], times_of(own), times[dense[key]], len(times), measured.quiet))
            if lines:
                self.keep(lines, samples)
            done += len(lines)
            if number:
                self.say(f"{done} of {len(todo)} keys")

    def _require_equal(self, controls: Mapping[Key, Times], records: Mapping[Key, Finished]) -> None:
        """Raise RunFailed where a dense network and its copy differ, or a runtime is much slower than another."""
        for key, times in controls.items():
            where = f"{records[key].spec.arch} in {key.runtime} at batch {key.batch}"
            if why := refused(times, len(controls)):
                raise RunFailed(f"refused, nothing is kept: {where}: {why}; try again on a machine without other work")
            for other, yardstick in controls.items():
                same = other.runtime == YARDSTICK and (other.arch_sha256, other.shape, other.batch) == (
                    *(key.arch_sha256, key.shape, key.batch),
                )
                if same and not RUNTIMES[key.runtime].calls and times.dense_ms > SLOW * yardstick.dense_ms:
                    raise RunFailed(
                        f"refused, nothing is kept: {where} takes {times.dense_ms:.3g} ms, in {YARDSTICK} "
                        f"{yardstick.dense_ms:.3g}: its threads may be pinned to a core (OpenVINO: set "
                        "ENABLE_CPU_PINNING to False)"
                    )

    def _groups(self, todo: Mapping[Key, Finished], dense: Mapping[Key, Key]) -> Iterator[list[Task]]:
        """What is left to time in shuffled order, in groups of one network."""
        left = {key: todo[key] for key in todo if key != dense[key] and key not in self.failures}
        tasks = tasks_of(left, ("dense", "final"))
        self.random.shuffle(tasks)
        tasks.sort(key=_network)
        for _, of_one in itertools.groupby(tasks, _network):
            of_network = list(of_one)
            yield from (of_network[start : start + AT_ONCE] for start in range(0, len(of_network), AT_ONCE))

    def timed(self, tasks: Sequence[Pair], folder: Path) -> dict[Key, Measured]:
        """Time all keys of some tasks in ``RESTARTS`` processes, in another order in each."""
        found: dict[Key, Measured] = {key: Measured() for task in tasks for key in task.keys}
        for _ in range(RESTARTS):
            left = [replace(task, keys=tuple(key for key in task.keys if key in found)) for task in tasks]
            order = tuple(self.random.sample(left, len(left)))
            work = Work(order, self.how.device, self.how.threads, self.machine, folder, tuple(map(str, PLUGINS)))
            for window in self.process(work):
                if window.samples is None:
                    self.failures[window.key] = window.failure
                    found.pop(window.key)
                else:
                    found[window.key].add(window)
        return found

    def _line(self, key: Key, record: Finished, times: Times, control: Times, controls: int, quiet: Quiet) -> Line:
        return Line(
            kind="bench.latency",
            schema=1,
            arch=record.spec.arch,
            key=key,
            widths=shape_of(record.structure),
            times=times,
            control=control,
            controls=controls,
            quiet=quiet,
            environment=_environment(runtimes.place_of(key.runtime, torch.device(self.how.device), "")[0], key.threads),
            measured_at=now(),
            settings=RUNTIMES[key.runtime].settings(),
        )


@cache
def _environment(device: torch.device, threads: int) -> Environment:
    return msgspec.convert(environment.versions(device) | {"threads": threads}, Environment)


def _dense(key: Key, record: Finished) -> Key:
    """The key of the dense network of a record, measured as ``key``."""
    whole = {site: (before, before) for site, (before, _) in shape_of(record.structure).items()}
    return msgspec.structs.replace(key, widths_sha256=widths_sha256(whole))


def tasks_of(keys: Mapping[Key, Finished], pair: tuple[str, str]) -> list[Task]:
    """One task for each shape: its keys, with one of the records that have it."""
    by_shape: dict[tuple[str, tuple[int, int, int], str], list[Key]] = {}
    for key in keys:
        by_shape.setdefault((key.arch_sha256, key.shape, key.widths_sha256), []).append(key)
    return [Task(tuple(of_shape), keys[of_shape[0]], pair) for of_shape in by_shape.values()]


def _network(task: Task) -> tuple[str, tuple[int, int, int]]:
    return task.keys[0].arch_sha256, task.keys[0].shape
