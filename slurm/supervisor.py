"""Several processes of one job: each on its GPU, all with the same tasks, as many as the job has or gains from."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from slurm.batch import Batch
from slurm.place import AGAIN, AT_ONCE, ENDED, REPORT, WORKER, Signals
from slurm.sharing import Sharing, dealt, gpus_here

LOOK_S = 1.0


@dataclass
class _Process:
    number: int
    gpus: Sequence[str]
    popen: subprocess.Popen[bytes]
    reports: IO[bytes]
    text: bytes = b""


@dataclass
class Supervisor:
    """Starts the processes of a job and waits for them.

    Signals are passed on. SLURM sends them to all processes of a job or, where it tracks them by cgroups, to the first
    one only; of each signal a process takes note once.

    Args:
        batch: of the job.
        number: of the job in it.
        processes: at most.
        signals: of this process.
    """

    batch: Batch
    number: int
    processes: int
    signals: Signals
    running: dict[int, _Process] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    dismissed: set[int] = field(default_factory=set)
    passed: set[signal.Signals] = field(default_factory=set)
    drained: bool = False
    """Whether a process has found nothing more to do."""

    def run(self) -> int:
        """Until no process is left; returns the exit code of the job."""
        self.gpus = gpus_here(os.environ, self.batch.gpus)
        self.cores = _cores(self.processes)
        self.sharing: dict[str, Sharing] = {}
        self.selector = selectors.DefaultSelector()
        if self.batch.measured and self.gpus:
            most = -(-self.processes // len(self.gpus))
            self.sharing = {gpu: Sharing(most) for gpu in self.gpus[: self.processes]}
            self._fill()
        else:
            for gpus in dealt(self.gpus, self.processes):
                self._start(gpus)
        while self.running:
            for key, _ in self.selector.select(LOOK_S):
                self._hear(key.data)
            self._pass_on()
            self._fill()
        return self._code()

    def _start(self, gpus: Sequence[str]) -> None:
        number = len(self.codes) + len(self.running)
        ours, theirs = os.pipe()
        env = {**os.environ, WORKER: str(number), AT_ONCE: str(self._at_once()), REPORT: str(theirs)}
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        cores = self.cores[number % len(self.cores)] if self.cores else None
        command = [sys.executable, "-u", "-m", "slurm.job", str(self.batch.folder), str(self.number)]
        popen = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, pass_fds=(theirs,))
        os.close(theirs)
        if cores:
            os.sched_setaffinity(popen.pid, cores)
        self.running[number] = process = _Process(number, gpus, popen, os.fdopen(ours, "rb", buffering=0))
        self.selector.register(process.reports, selectors.EVENT_READ, process)

    def _hear(self, process: _Process) -> None:
        """What a process reports, line by line; at the end of its reports it has ended."""
        if not (text := process.reports.read(2**16)):
            self.selector.unregister(process.reports)
            process.reports.close()
            del self.running[process.number]
            self.codes.append(process.popen.wait())
            self.drained |= process.number not in self.dismissed and self.codes[-1] >= 0
            for sharing in self._sharing_of(process):
                sharing.left(process.number)
                if self.codes[-1] == -signal.SIGKILL:  # as when memory runs out
                    sharing.full()
            return
        *lines, process.text = (process.text + text).split(b"\n")
        for line in map(json.loads, lines):
            if "next" in line:
                self._answer(process)
            elif "full" in line:
                for sharing in self._sharing_of(process):
                    sharing.full()
            else:
                self._learn(process, line)

    def _learn(self, process: _Process, line: dict[str, Any]) -> None:
        """An epoch of a process has ended."""
        for gpu, sharing in self.sharing.items():
            if gpu in process.gpus and not sharing.settled:
                sharing.epoch(process.number, line["kind"], line["seconds"], line["memory"])
                if sharing.settled:
                    print(f"bench: GPU {gpu}: {sharing.count} at a time: {sharing.why}", file=sys.stderr)

    def _answer(self, process: _Process) -> None:
        """Number of processes that are to run at once if one is to continue with another task; 0 if it is to end."""
        surplus = any(
            len(self._on(gpu)) > sharing.count for gpu, sharing in self.sharing.items() if gpu in process.gpus
        )
        self.dismissed |= {process.number} if surplus else set()
        assert process.popen.stdin is not None
        try:
            process.popen.stdin.write(f"{0 if surplus else self._at_once()}\n".encode())
            process.popen.stdin.flush()
        except OSError:  # it has just been killed
            pass

    def _pass_on(self) -> None:
        """Send the processes a signal that this one heard."""
        heard = signal.SIGTERM if self.signals.ended else signal.SIGUSR2 if self.signals.how else None
        if heard is not None and heard not in self.passed:
            self.passed.add(heard)
            for process in self.running.values():
                process.popen.send_signal(heard)

    def _fill(self) -> None:
        """Start what measured GPUs should have; nothing when a process has found no more tasks, or all have to stop."""
        if self.drained or self.signals.how or self.signals.ended:
            return
        for gpu, sharing in self.sharing.items():
            if len(self._on(gpu)) < sharing.count and len(self.running) < self.processes:
                self._start([gpu])

    def _on(self, gpu: str) -> list[_Process]:
        return [process for process in self.running.values() if gpu in process.gpus]

    def _sharing_of(self, process: _Process) -> list[Sharing]:
        return [sharing for gpu, sharing in self.sharing.items() if gpu in process.gpus]

    def _at_once(self) -> int:
        return max(1, len(self.running)) if self.sharing else self.processes

    def _code(self) -> int:
        """Exit code of the job: to continue when one of the processes has to, else that of one that failed."""
        if AGAIN in self.codes or -signal.SIGUSR2 in self.codes:
            return AGAIN
        if ENDED in self.codes or self.signals.ended:
            return ENDED
        return next((code if code > 0 else 128 - code for code in self.codes if code), 0)


def _cores(processes: int) -> list[set[int]]:
    """Cores of each process, where SLURM keeps the job to cores of its own and these are enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // processes if len(cores) < (os.cpu_count() or 1) else 0
    return [set(cores[k * each : (k + 1) * each]) for k in range(processes)] if each else []
