"""Batches: what was handed to a cluster at one time, as a file that jobs, status and cancel read."""

from __future__ import annotations

import dataclasses
import functools
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import SetupError
from bench.files import Lock, write_atomic
from bench.records import store
from bench.records.schema import Record
from bench.spec.decode import decode
from bench.spec.digest import canonical
from bench.spec.recipe import Recipe
from bench.spec.spec import Spec
from slurm.journal import DONE, Attempt, Journal, attempts_of

FORM = 2
"""Of a batch's file; 1 was that of versions up to 0.1, with a journal for each run."""


def jobs_folder(out: Path) -> Path:
    """Batches, their journals and the locks of an output folder."""
    return out / "jobs"


def claim(out: Path, key: str) -> Lock:
    """Held by the process that works on a run or base."""
    return Lock(jobs_folder(out), key)


def attempts(out: Path, key: str) -> list[Attempt]:
    """All attempts of a run or base, oldest first."""
    return attempts_of(jobs_folder(out), [key]).get(key, [])


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

    def result(self, out: Path) -> Record | store.RecordError | None:
        """The record that this run left behind, or what is wrong with it; None when it is still to be carried out.

        Not for bases.
        """
        path = store.path_of(out, self.spec)
        if not path.is_file():
            return None
        try:
            found = store.load(path)
        except store.RecordError as error:  # somebody has to look at it; no job writes over it
            return error
        stale = found.status == "interrupted" or found.record_sha256 == self.replaces
        return None if stale else found

    def as_dict(self) -> dict[str, Any]:
        """For the batch's file, with the base that the run needs."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"spec": self.spec.as_dict(), "needs": base_key(self.spec)}

    def finished(self, out: Path) -> bool:
        """Whether nothing is left to do."""
        return bool(trained_bases(out, [self.key])) if self.base else self.result(out) is not None


def base_key(spec: Spec) -> str:
    """What the specification alone says of its base: runs with equal keys share it on equal machines."""
    return _base_key(spec.arch, spec.dataset, spec.recipe, spec.rules, spec.seed)


@functools.lru_cache(maxsize=2**14)
def _base_key(arch: str, dataset: str, recipe: Recipe, rules: str, seed: int) -> str:
    """As above; the runs of a base differ in their methods and budgets, which it does not depend on."""
    spec = Spec("", arch, dataset, recipe, None, seed, rules=rules)
    return "base-" + spec.base_id()


def trained_bases(out: Path, keys: Sequence[str]) -> set[str]:
    """Those of these bases that a job trained and that are still there."""
    found = attempts_of(jobs_folder(out), keys)
    names = {
        key: (attempts[-1].facts or {}).get("base") for key, attempts in found.items() if attempts[-1].ended == DONE
    }
    return {key for key, name in names.items() if (out / "bases" / f"{name}.safetensors").is_file()}


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
        elements: keys of each job, in order; a single one for several jobs: they share its tasks.
        count: number of jobs.
        options: of ``bench run``: what does not change the result, paths absolute.
        plugins: files to make known, absolute.
        minutes: time limit of a job; None for none.
        signal_delay_s: how long before the limit the warning comes.
        code, packages: state of the code and versions at submission.
        processes: of a job, at most.
        gpus: of a job, 0 where they are not counted.
        measured: whether only so many processes share a GPU as gain from it.
        submitted_at: UTC, ISO 8601.
        jobs: ids, ``count`` of them; empty until the cluster has answered.
    """

    out: Path
    token: str
    cluster: str
    title: str
    tasks: dict[str, dict[str, Any]]
    elements: tuple[tuple[str, ...], ...]
    count: int
    options: dict[str, Any]
    plugins: tuple[str, ...]
    minutes: int | None
    signal_delay_s: int
    code: dict[str, Any]
    packages: dict[str, Any]
    processes: int = 1
    gpus: int = 0
    measured: bool = False
    submitted_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    jobs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the batch's file, its journal, its script and the logs are."""
        return jobs_folder(self.out) / self.token

    @property
    def file(self) -> Path:
        """The batch's own file."""
        return self.folder / "batch.json"

    @property
    def name(self) -> str:
        """Of its jobs."""
        return f"{self.title}-{self.token}"

    @property
    def shared(self) -> bool:
        """Whether several jobs take their tasks from one queue."""
        return self.count > len(self.elements)

    def task(self, key: str) -> Task:
        """One of its tasks; raises UsageError where this version of the suite cannot read its specification."""
        values = {name: value for name, value in self.tasks[key].items() if name != "needs"}
        spec = dict(values["spec"])
        recipe = spec.pop("recipe", None)
        made = _recipe(canonical(recipe)) if recipe is not None else None
        return Task(**values | {"spec": Spec.from_dict(spec | {"recipe": made})})

    def keys_of(self, number: int) -> tuple[str, ...]:
        """Keys of the tasks of the job with this number."""
        return self.elements[0 if self.shared else number]

    def jobs_of(self, key: str) -> list[str]:
        """Ids of the jobs that have this task."""
        return [job for number, job in enumerate(self.jobs) if key in self.keys_of(number)]

    def part(self, start: int, end: int) -> Batch:
        """A batch of its own with these of the jobs."""
        if start == 0 and end >= self.count:
            return self
        count = min(end, self.count) - start
        if self.shared:
            return dataclasses.replace(self, token=new_token(), count=count)
        elements = self.elements[start:end]
        keys = {key for element in elements for key in element}
        tasks = {key: task for key, task in self.tasks.items() if key in keys}
        return dataclasses.replace(self, token=new_token(), tasks=tasks, elements=elements, count=count)

    def journal(self) -> Journal:
        """What its jobs wrote down."""
        return Journal(self.folder, self.tasks)

    def log(self, job: str) -> Path:
        """What the job wrote, with all of its processes; there is none before it began."""
        return self.folder / f"{job}_0_log.out"

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
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "out"}
        tasks, recipes = _without_recipes(self.tasks)
        text = json.dumps({"form": FORM, **values, "tasks": tasks, "recipes": recipes}, separators=(",", ":"))
        try:
            write_atomic(self.file, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise SetupError(f"cannot write to {self.folder}: {error.strerror}; see --out") from error

    @classmethod
    def load(cls, file: Path) -> Batch:
        """The batch in a file; raises SetupError for any other file."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values.pop("form") != FORM:
                raise SetupError(
                    f"{file} is of another version of the suite: let its jobs end, then delete {file.parent.parent}"
                )
            recipes = values.pop("recipes")
            for task in values["tasks"].values():
                task["spec"]["recipe"] = recipes[task["spec"]["recipe"]]
            values["elements"] = tuple(map(tuple, values["elements"]))
            values |= {name: tuple(values[name]) for name in ("plugins", "jobs")}
            return cls(out=file.parent.parent.parent, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise SetupError(f"{file} cannot be read ({error}); delete its folder: its runs are missing") from error


@functools.lru_cache(maxsize=256)
def _recipe(text: str) -> Recipe:
    """The recipe with these values, decoded once for all runs that have it."""
    made: Recipe = decode(Recipe, json.loads(text), "specification.recipe")
    return made


def _without_recipes(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Tasks with numbers in place of their recipes, of which a batch has few, and these."""
    numbers: dict[str, int] = {}
    made = {}
    for key, task in tasks.items():
        number = numbers.setdefault(canonical(task["spec"]["recipe"]), len(numbers))
        made[key] = {**task, "spec": {**task["spec"], "recipe": number}}
    return made, [json.loads(text) for text in numbers]


def batches(out: Path) -> Iterator[Batch]:
    """All batches of an output folder, oldest first."""
    files = jobs_folder(out).glob("*/batch.json")
    yield from sorted(map(Batch.load, files), key=lambda batch: (batch.submitted_at, batch.token))


def new_token() -> str:
    """A name that no other batch has."""
    return secrets.token_hex(4)
