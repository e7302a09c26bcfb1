"""Where jobs run: SLURM or this machine, both through submitit, which is trusted with starting jobs and nothing else.

What became of a job is asked of SLURM itself, or of the process table; what became of a run, of its record.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Protocol

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.local.debug import DebugExecutor
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor

from bench.errors import SetupError
from slurm.batch import Batch
from slurm.job import Job
from slurm.place import job_lock
from slurm.profile import Profile
from slurm.script import command, sbatch_options

RUNNING, WAITING = "running", "waiting"
TIMEOUT_S = 30
"""Within which SLURM's commands must answer."""
FOREVER_MIN = 60 * 24 * 365
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING"}

LIMITS = ("job submit limit", "SubmitJob")
"""Words of a refusal of more jobs than an account, a user or a QOS may have submitted."""
NOT_ENDED = AT_WORK - {"COMPLETING"} | {"PENDING", "REQUEUED"}


class TooMany(SetupError):
    """The cluster takes no more jobs, or not so many at once; fewer may be accepted."""


class Cluster(Protocol):
    """What takes batches."""

    def submit(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Batch:
        """Hand over; returns the batch with its jobs.

        ``after``: for each job the jobs that must have ended, in any way, before it starts; empty where none waits.
        Raises SetupError when the cluster refuses or does not answer; then nothing was handed over.
        """

    def live(self, batches: Sequence[Batch]) -> dict[str, tuple[str, str]]:
        """Job -> (``running`` or ``waiting``, SLURM's reason), of jobs that have not ended.

        Raises SetupError when that cannot be known now.
        """

    def ends(self, jobs: Iterable[str]) -> dict[str, str]:
        """Job -> how it ended, as far as it is known."""

    def cancel(self, batches: Sequence[Batch], jobs: Sequence[str]) -> None:
        """End jobs."""

    def withdraw(self, batch: Batch) -> None:
        """End whatever a batch whose submission was cut off may have started."""


class Slurm:
    """SLURM, by its commands."""

    def submit(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Batch:
        """See :class:`Cluster`. Raises TooMany where a limit on submitted jobs is in the way."""
        executor = self._executor(batch, profile, after)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says and raises it
                number = executor._submit_command(command(batch, profile.python)).job_id
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            reason = _reason(str(error))
            kind = TooMany if any(word in reason for word in LIMITS) else SetupError
            raise kind(f"sbatch refused: {reason}") from error
        for link in batch.folder.glob(".submission_file_*.sh"):  # to the script, which has another name by now
            link.unlink()
        jobs = (number,) if batch.count == 1 else tuple(f"{number}_{k}" for k in range(batch.count))
        self._relax(number, after)
        return dataclasses.replace(batch, jobs=jobs)

    def script(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> str:
        """The text that ``sbatch`` would get."""
        return self._executor(batch, profile, after, anywhere=True)._make_submission_file_text(
            command(batch, profile.python), ""
        )

    def max_array_size(self) -> int:
        """Elements that an array may have."""
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.M)
        return int(found[1]) if found else 1000

    def _executor(
        self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]], anywhere: bool = False
    ) -> SlurmExecutor:
        executor = (_Anywhere if anywhere else SlurmExecutor)(batch.folder)
        waited = sorted({job for jobs in after for job in jobs})
        whole = sorted({job.partition("_")[0] for job in waited})  # shorter, where it is an array's
        executor.update_parameters(**sbatch_options(batch, profile, whole if len(waited) > len(whole) else waited))
        if batch.count > 1:
            executor.parameters["map_count"] = batch.count
        return executor

    def _relax(self, array: str, after: Sequence[Sequence[str]]) -> None:
        """Have each element of an array wait for its own jobs only; until then it waits for those of all elements.

        An array has one dependency when it is submitted. What fails here costs time, no run.
        """
        if len({tuple(jobs) for jobs in after}) < 2:
            return
        for jobs, group in itertools.groupby(enumerate(after), key=lambda item: tuple(item[1])):
            numbers = [number for number, _ in group]
            span = f"{array}_[{numbers[0]}-{numbers[-1]}]" if len(numbers) > 1 else f"{array}_{numbers[0]}"
            value = "afterany:" + ":".join(jobs) if jobs else ""
            with suppress(SetupError):
                _ask(["scontrol", "update", f"jobid={span}", f"dependency={value}"])

    def live(self, batches: Sequence[Batch]) -> dict[str, tuple[str, str]]:
        """See :class:`Cluster`."""
        found: dict[str, tuple[str, str]] = {}
        names = [batch.name for batch in batches]
        for few in (names[k : k + 50] for k in range(0, len(names), 50)):
            for line in _ask(["squeue", "-h", "-r", "-n", ",".join(few), "-o", "%i|%T|%r"]).splitlines():
                job, state, reason = line.split("|", 2)
                found[job] = (RUNNING, "") if state in AT_WORK else (WAITING, "" if reason == "None" else reason)
        return found

    def ends(self, jobs: Iterable[str]) -> dict[str, str]:
        """See :class:`Cluster`. Raises SetupError without accounting."""
        arrays = sorted({job.partition("_")[0] for job in jobs} - {""})
        found: dict[str, str] = {}
        for few in (arrays[k : k + 200] for k in range(0, len(arrays), 200)):
            text = _ask(["sacct", "-n", "-P", "-X", "-j", ",".join(few), "-o", "JobID,State,ExitCode"])
            for line in text.splitlines():
                job, state, code = line.split("|")[:3]
                if state in NOT_ENDED:  # the database has not heard of the end
                    continue
                for single in expand(job):
                    found[single] = state if code in ("0:0", "") else f"{state} (exit {code})"
        return found

    def cancel(self, batches: Sequence[Batch], jobs: Sequence[str]) -> None:
        """See :class:`Cluster`."""
        whole = [batch for batch in batches if set(batch.jobs) <= set(jobs)]
        covered = {job for batch in whole for job in batch.jobs}
        words = sorted({batch.jobs[0].partition("_")[0] for batch in whole if batch.jobs})
        words += [job for job in jobs if job not in covered]
        for few in (words[k : k + 200] for k in range(0, len(words), 200)):
            _ask(["scancel", *few])

    def withdraw(self, batch: Batch) -> None:
        """See :class:`Cluster`."""
        _ask(["scancel", "-n", batch.name])


class _Anywhere(SlurmExecutor):
    """Writes scripts also where SLURM is not installed."""

    @classmethod
    def affinity(cls) -> int:
        return 2


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


def cluster_of(name: str) -> Cluster:
    """The cluster called ``name``; raises SetupError when this machine has none."""
    if name == "slurm":
        missing = [command for command in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(command)]
        if missing:
            raise SetupError(
                f"no {missing[0]} on PATH: run this on a machine that submits to SLURM, or use --cluster local"
            )
        return Slurm()
    return Debug() if name == "debug" else Local()


def remedy(job: str, reason: str) -> str | None:
    """What somebody has to do about a job that waits for this reason; None when it starts by itself."""
    if "held" not in reason.lower():
        return None
    return f"ask for its release (scontrol release {job})" if "Admin" in reason else f"scontrol release {job}"


def expand(job: str) -> list[str]:
    """Ids that one of SLURM's names for jobs stands for: ``12_[0-2,5%4]`` is four."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    ids = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        ids += [f"{found[1]}_{k}" for k in range(int(first), int(last or first) + 1)]
    return ids


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


def _ask(command: list[str]) -> str:
    """What one of SLURM's commands prints; raises SetupError in one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise SetupError(f"no {command[0]} on PATH: run this on a machine that submits to SLURM") from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"SLURM does not answer ({command[0]} took more than {TIMEOUT_S} s): try again") from error
    if done.returncode:
        raise SetupError(f"{command[0]}: {_reason(done.stderr or done.stdout)}")
    return done.stdout


def _reason(text: str) -> str:
    """What SLURM says is wrong, without its prefixes; the last line says it best."""
    lines = [line.partition("error: ")[2].strip() for line in text.splitlines() if "error: " in line]
    lines = lines or [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or "no reason given"


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
    """Processes that submitit started for a batch, told by its token: numbers are given out again."""
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
