"""Jobs as processes of this machine."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from submitit.local.debug import DebugExecutor
from submitit.local.local import LocalExecutor

from bench.errors import SetupError
from slurm.batch import Batch
from slurm.cluster import RUNNING
from slurm.job import Job
from slurm.place import job_lock
from slurm.profile import Profile
from slurm.script import command

FOREVER_MIN = 60 * 24 * 365


class Local:
    """Processes on this machine, each on its share of the cores and on one GPU.

    A job is alive as long as its process, or the one that started it.
    """

    def submit(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Batch:
        """See :class:`Cluster`."""
        executor = LocalExecutor(batch.folder)
        gpus = gpu_numbers() if batch.options["device"] != "cpu" else []
        jobs = []
        with _detached():
            for number in range(batch.count):
                executor.update_parameters(
                    timeout_min=FOREVER_MIN,
                    stderr_to_stdout=True,
                    gpus_per_node=min(len(gpus), 1),
                    visible_gpus=(gpus[number % len(gpus)],) if gpus else (),
                )
                jobs.append(executor._submit_command(command(batch, None, number)).job_id)
        return dataclasses.replace(batch, jobs=tuple(jobs))

    def live(self, batches: Sequence[Batch]) -> dict[str, tuple[str, str]]:
        """See :class:`Cluster`."""
        found = {}
        for batch in batches:
            controllers = _controllers(batch)
            for job in filter(None, batch.jobs):
                if job_lock(batch, job).busy() or job in controllers:
                    found[job] = (RUNNING, "")
        return found

    def ends(self, jobs: Iterable[str]) -> dict[str, str]:
        """See :class:`Cluster`: nothing is known of a process that is gone."""
        return {}

    def cancel(self, batches: Sequence[Batch], jobs: Sequence[str]) -> None:
        """See :class:`Cluster`."""
        for batch in batches:
            for process in _controllers(batch).intersection(batch.jobs).intersection(jobs):
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGTERM)

    def withdraw(self, batch: Batch) -> None:
        """See :class:`Cluster`."""
        for process in _controllers(batch):
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGTERM)


class Debug(Local):
    """This very process, through the same job; a failure ends in the debugger."""

    def submit(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Batch:
        """See :class:`Cluster`."""
        executor = DebugExecutor(batch.folder)
        for number in range(batch.count):
            executor.submit(Job(batch.file, number)).results()
        return dataclasses.replace(batch, jobs=tuple(f"debug{k}" for k in range(batch.count)))


def gpu_numbers() -> list[int]:
    """The numbers of those GPUs, as CUDA_VISIBLE_DEVICES has them; raises SetupError where it has names."""
    count = visible_gpus()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not given or not count:
        return list(range(count))
    try:
        return [int(number) for number in given.split(",")][:count]
    except ValueError:
        raise SetupError(f"CUDA_VISIBLE_DEVICES={given}: give numbers of GPUs to share them among jobs") from None


def visible_gpus() -> int:
    """GPUs of this machine that this process may use."""
    import torch

    return torch.cuda.device_count()


def _processes() -> Iterator[tuple[str, str]]:
    """Process and its command line, of all on this machine that have not ended."""
    if Path("/proc/self/cmdline").exists():  # slim containers have no ps
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    yield entry.name, words.decode(errors="replace")
        return
    table = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True).stdout
    for line in table.splitlines():
        number, _, found = line.strip().partition(" ")
        yield number, found


def _controllers(batch: Batch) -> set[str]:
    """Processes that submitit started for a batch, found by its token: process numbers are used again."""
    return {process for process, words in _processes() if f"jobs/{batch.token}" in words and "submitit" in words}


@contextmanager
def _detached() -> Iterator[None]:
    """Processes started in here outlive the command, its terminal and its pipes.

    They do not hear Ctrl-C and the closing of the terminal, and hold none of the standard streams.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    for text in filter(None, (sys.stdout, sys.stderr)):  # None where it is closed
        text.flush()
    saved = {}
    for stream in (0, 1, 2):
        with suppress(OSError):  # one that is closed
            saved[stream] = os.dup(stream)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for stream in saved:
            os.dup2(null, stream)
        yield
    finally:
        for stream, copy in saved.items():
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)
        for number, handler in before.items():
            signal.signal(number, handler)
