"""Profiles: what a run asks of a cluster, as a TOML file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.spec.decode import decode, read_toml

SIGNAL_SHARE = 1 / 3
"""Largest part of a time limit that the warning before its end may take."""
LEAST_MINUTES = 2
"""SLURM's warning may come 60 s earlier than asked, so that of one minute nothing may be left."""
GPUS = re.compile(r"(gpu(?::[^:,]+)?):(\d+)")
"""A ``gres`` of GPUs, with their number."""


@dataclass(frozen=True)
class Profile:
    """Resources of one job, and how runs are spread over jobs. Every key may be left out.

    Attributes:
        partition, account, qos, constraint, nodelist, exclude, reservation: as sbatch takes them.
        gpus: GPUs of a job.
        gres: in place of ``gpus`` where the cluster wants a type, such as ``gpu:a100:1``.
        cpus: CPUs of each process of a job, and the threads it uses.
        mem_gb: memory of a job; None leaves it to the cluster.
        time: limit of a job: minutes, or text such as ``4:00:00`` or ``1-12:00:00``. A run may take several jobs'
            time: it continues where it was.
        warning_s: seconds before the limit at which SLURM warns a job, which then saves nothing more and queues again.
        at_once: jobs of an array that run at the same time.
        array_size: most jobs of an array, where a limit on submitted jobs is below the cluster's own limit.
        runs_per_job: runs that one job carries out, one after the other.
        minutes_per_job: in its place: as many runs as earlier records let expect in so many minutes.
        jobs: in its place: so many jobs, each of which takes the next run that none has begun, until none is left.
        runs_at_once: processes of a job, which share its runs; GPUs are dealt out to them.
        measured: begin with one process a GPU, and add others, up to ``runs_at_once`` in all, only as long as the GPU
            gets more done by that and has memory for it.
        setup: lines of shell before the job's Python starts: modules, environments, staging of data.
        python: command that starts Python on a node, such as ``apptainer exec --nv image.sif python``.
        srun: options of the srun command.
        sbatch: any further option of sbatch, by its long name.
        data_dir: data sets, as the nodes see them, in place of ``--data-dir``; may name variables of the node.
        device: in place of ``--device``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    gpus: int = 0
    gres: str | None = None
    cpus: int = 2
    mem_gb: float | None = None
    time: int | str = 60
    warning_s: int = 90
    at_once: int = 256
    array_size: int | None = None
    runs_per_job: int = 1
    minutes_per_job: float | None = None
    jobs: int | None = None
    runs_at_once: int = 1
    measured: bool = False
    setup: tuple[str, ...] = ()
    python: str | None = None
    srun: tuple[str, ...] = ()
    sbatch: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "at_once", "array_size", "runs_per_job", "jobs", "runs_at_once", "warning_s"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: at least 1")
        if self.gpus < 0:
            raise ValueError(f"gpus = {self.gpus}: at least 0")
        for name in ("mem_gb", "minutes_per_job"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: above 0")
        if self.gpus and self.gres:
            raise ValueError("gpus and gres: give one of them")
        packing = [name for name in ("minutes_per_job", "jobs") if getattr(self, name) is not None]
        packing += ["runs_per_job"] * (self.runs_per_job != 1)
        if len(packing) > 1:
            raise ValueError(f"{' and '.join(sorted(packing, reverse=True))}: give one of them")
        if self.runs_at_once > self.runs_per_job and self.minutes_per_job is None and self.jobs is None:
            raise ValueError(f"runs_at_once = {self.runs_at_once}: a job has {self.runs_per_job} (runs_per_job)")
        if self.measured and self.runs_at_once <= self.gpus_for(self.runs_at_once):
            raise ValueError(f"measured: runs_at_once = {self.runs_at_once} leaves nothing to measure; give more")
        if self.measured and not self.gpus_for(self.runs_at_once):
            raise ValueError("measured: give gpus, or gres with their number, such as gpu:a100:8")
        for name, value in self.sbatch.items():
            if not isinstance(value, str | int | float) or value is False:
                raise ValueError(f"sbatch.{name} = {value!r}: text, a number or true")
        if self.minutes < LEAST_MINUTES:
            raise ValueError(f"time = {self.time}: at least {LEAST_MINUTES} minutes; SLURM may warn a minute early")

    @property
    def minutes(self) -> int:
        """The time limit, rounded up to what SLURM counts in."""
        if isinstance(self.time, int):
            return self.time
        found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?", self.time)
        if not found:
            raise ValueError(f"time = {self.time!r}: minutes, or text such as 4:00:00 or 1-12:00:00")
        days, first, second, third = (int(part or 0) for part in found.groups())
        if found[1]:  # D-HH[:MM[:SS]]
            seconds = ((days * 24 + first) * 60 + second) * 60 + third
        elif found[4]:  # HH:MM:SS
            seconds = (first * 60 + second) * 60 + third
        else:  # MM[:SS]
            seconds = first * 60 + second
        return math.ceil(seconds / 60)

    def gpus_for(self, processes: int) -> int:
        """GPUs of a job with so many processes, at most ``runs_at_once``: their share; 0 where none are counted."""
        found = GPUS.fullmatch(self.gres or "")
        return math.ceil((int(found[2]) if found else self.gpus) * processes / self.runs_at_once)

    def gres_for(self, processes: int) -> str | None:
        """``gres`` as SLURM writes it."""
        found = GPUS.fullmatch(self.gres or "")
        return f"{found[1]}:{self.gpus_for(processes)}" if found else self.gres

    @property
    def signal_delay_s(self) -> int:
        """``warning_s``, or less where the limit is short."""
        return max(1, min(self.warning_s, int(self.minutes * 60 * SIGNAL_SHARE)))


def load_profile(path: Path | None) -> Profile:
    """The profile in a TOML file; the defaults without one. Raises UsageError for what cannot be."""
    if path is None:
        return Profile()
    values = read_toml(path, f"profile {path}")
    values.pop("description", None)
    profile: Profile = decode(Profile, values, f"profile {path}")
    return profile
