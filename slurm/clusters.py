"""Where jobs run: SLURM or this machine, both through submitit, which is trusted with starting jobs and nothing else.

What became of a job is asked of SLURM itself, or of the process table; what became of a run, of its record.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, suppress

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from bench.errors import SetupError
from slurm.batch import Batch
from slurm.cluster import RUNNING, WAITING, Cluster, TooMany
from slurm.local import Debug, Local
from slurm.profile import Profile
from slurm.script import command, sbatch_options

TIMEOUT_S = 30
"""Within which SLURM's commands must answer."""
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING"}

LIMITS = ("job submit limit", "SubmitJob")
"""Words of a refusal of more jobs than an account, a user or a QOS may have submitted."""
NOT_ENDED = AT_WORK - {"COMPLETING"} | {"PENDING", "REQUEUED"}


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
    """Ids that one of SLURM's names for jobs means: ``12_[0-2,5%4]`` is four."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    ids = []
    for part in found[2].split(","):
        first, _, last = part.partition("-")
        ids += [f"{found[1]}_{k}" for k in range(int(first), int(last or first) + 1)]
    return ids


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
