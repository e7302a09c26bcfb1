"""Batches: what was handed to a cluster at one time, as a file that jobs, status and cancel read."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import record
from bench.errors import SetupError
from bench.spec import Spec
from slurm.journal import DONE, Journal

FORM = 1
"""Of a batch's file."""


def jobs_folder(out: Path) -> Path:
    """Batches, journals and the submission lock of an output folder."""
    return out / "jobs"


def journal_of(out: Path, key: str) -> Journal:
    """The journal of a run or base."""
    return Journal(jobs_folder(out) / "journal", key)


@dataclass(frozen=True)
class Task:
    """One run, or the base that several runs share.

    Attributes:
        spec: the run; of a base: any run that needs it.
        base: train the base only.
        replaces: hash of the record that this run is to replace; a record with another hash is the result.
        method_sha256: hash of the method's file at submission.
    """

    spec: Spec
    base: bool = False
    replaces: str | None = None
    method_sha256: str | None = None

    @property
    def key(self) -> str:
        """The run's id, or the name of the base as far as it is known before the data are."""
        return base_key(self.spec) if self.base else self.spec.id

    def result(self, out: Path) -> dict[str, Any] | None:
        """The record that this run left behind; None when it is still to be carried out. Not for bases."""
        path = record.path_of(out, self.spec)
        if not path.is_file():
            return None
        try:
            found = record.load(path)
        except record.RecordError:  # somebody has to look at it; no job writes over it
            return {"status": "damaged"}
        stale = found["status"] == "interrupted" or found["record_sha256"] == self.replaces
        return None if stale else found

    def as_dict(self) -> dict[str, Any]:
        """For the batch's file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"spec": self.spec.as_dict()}

    def finished(self, out: Path) -> bool:
        """Whether nothing is left to do."""
        return base_is_trained(out, self.spec) if self.base else self.result(out) is not None


def base_key(spec: Spec) -> str:
    """What the specification alone tells of its base: runs with equal keys share it on equal machines."""
    return "base-" + spec.base_id()


def base_is_trained(out: Path, spec: Spec) -> bool:
    """Whether a job trained the base of ``spec`` and it is still there."""
    legs = journal_of(out, base_key(spec)).legs()
    if not legs or legs[-1].ended != DONE or not legs[-1].facts:
        return False
    return (out / "bases" / f"{legs[-1].facts['base']}.safetensors").is_file()


@dataclass(frozen=True)
class Batch:
    """One submission: an array on SLURM, some processes on this machine.

    The file is written before anything is handed over, and once more when the cluster has answered; it does not
    change after that. A file without jobs is one whose submission was cut off.

    Attributes:
        out: output folder, absolute.
        token: names the batch, in the job's name too, so that SLURM can be asked for it.
        cluster: ``slurm``, ``local`` or ``debug``.
        title: what the jobs are called, before the token.
        tasks: by key, as the file has them.
        elements: keys of each job, in order.
        options: of ``bench run``: what does not change the result, paths absolute.
        plugins: files to make known, absolute.
        minutes: time limit of a job; None for none.
        signal_delay_s: how long before the limit the warning comes.
        code, packages: state of the code and versions at submission.
        submitted_at: UTC, ISO 8601.
        jobs: ids, one for each element; empty until the cluster has answered.
    """

    out: Path
    token: str
    cluster: str
    title: str
    tasks: dict[str, dict[str, Any]]
    elements: tuple[tuple[str, ...], ...]
    options: dict[str, Any]
    plugins: tuple[str, ...]
    minutes: int | None
    signal_delay_s: int
    code: dict[str, Any]
    packages: dict[str, Any]
    submitted_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    jobs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the batch's file, submitit's files and the logs are."""
        return jobs_folder(self.out) / self.token

    @property
    def file(self) -> Path:
        """The batch's own file."""
        return self.folder / "batch.json"

    @property
    def name(self) -> str:
        """Of its jobs."""
        return f"{self.title}-{self.token}"

    def task(self, key: str) -> Task:
        """One of its tasks; raises UsageError where its specification is none to this version of the suite."""
        values = self.tasks[key]
        return Task(**values | {"spec": Spec.from_dict(values["spec"])})

    def jobs_of(self, key: str) -> list[str]:
        """Ids of the jobs that have this task."""
        return [job for job, keys in zip(self.jobs, self.elements, strict=False) if key in keys]

    def log(self, job: str) -> Path:
        """What the job's first process wrote."""
        return self.folder / f"{job}_0_log.out"

    def logs(self, job: str) -> list[Path]:
        """What all of its processes wrote; none before it began."""
        return sorted(self.folder.glob(f"{job}_*_log.out"))

    @property
    def cancelled(self) -> set[str]:
        """Jobs that ``bench cancel`` ended: their runs are missing, not lost."""
        file = self.folder / "cancelled"
        return set(file.read_text(encoding="utf-8").split()) if file.is_file() else set()

    def note_cancelled(self, jobs: Iterable[str]) -> None:
        """Add to :attr:`cancelled`."""
        with (self.folder / "cancelled").open("a", encoding="utf-8") as file:
            file.writelines(f"{job}\n" for job in jobs)

    def write(self) -> None:
        """Write the file, atomically; raises SetupError when the folder does not take it."""
        from bench.files import write_atomic

        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "out"}
        text = json.dumps({"form": FORM, **values}, indent=1)
        try:
            write_atomic(self.file, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise SetupError(f"cannot write to {self.folder}: {error.strerror}; see --out") from error

    @classmethod
    def load(cls, file: Path) -> Batch:
        """The batch in a file; raises SetupError when it is none."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values.pop("form") != FORM:
                raise SetupError(f"{file}: another version of the suite wrote it")
            values["elements"] = tuple(map(tuple, values["elements"]))
            values |= {name: tuple(values[name]) for name in ("plugins", "jobs")}
            return cls(out=file.parent.parent.parent, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SetupError(f"{file} cannot be read ({error}); delete its folder: its runs are missing") from error


def batches(out: Path) -> Iterator[Batch]:
    """All batches of an output folder, oldest first."""
    files = jobs_folder(out).glob("*/batch.json")
    yield from sorted(map(Batch.load, files), key=lambda batch: (batch.submitted_at, batch.token))


def new_token() -> str:
    """A name that no other batch has."""
    return secrets.token_hex(4)
