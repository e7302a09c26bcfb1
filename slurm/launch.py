"""Handing runs to a cluster: what is not done, running or waiting, each once, whoever else submits and whenever."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import SetupError
from bench.files import Lock, require_writable
from bench.measure import environment
from bench.runs.method_factory import make_method, method_digest
from bench.spec.digest import path_component
from bench.spec.request import RunOptions
from bench.spec.spec import Spec
from slurm.batch import Batch, Task, base_key, batches, jobs_folder, new_token, trained_bases
from slurm.cluster import Cluster, TooMany
from slurm.clusters import Slurm, cluster_of
from slurm.packing import estimates, pack
from slurm.profile import Profile
from slurm.states import MISSING, UNKNOWN, RunStates, State, query_states

MAX_ARRAY_SIZE = 1001
"""Of SLURM's default configuration, where it cannot be asked."""


@dataclass(frozen=True)
class Request:
    """What a user asks to be run.

    Attributes:
        specs: the runs.
        options: where and how.
        plugins: files that define what the runs name.
        cluster: ``local``, ``debug`` or ``slurm``.
        profile: resources.
        title: names the jobs.
        retry: states to submit again, in addition to those that are missing.
        jobs: processes at the same time, on this machine.
    """

    specs: Sequence[Spec]
    options: RunOptions
    plugins: Sequence[Path]
    cluster: str
    profile: Profile
    title: str
    retry: frozenset[str] = frozenset()
    jobs: int = 1


@dataclass
class Submission:
    """What was handed over, and the states before."""

    before: RunStates
    batches: list[Batch] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """Runs that were submitted."""
        return len({key for batch in self.batches for key, task in batch.tasks.items() if not task["base"]})


def submit(request: Request, say: Callable[[str], None]) -> Submission:
    """Submit what is missing, and what ``request.retry`` names.

    Raises SetupError when the cluster refuses or does not answer. What was accepted before that stays; the same call
    continues with the rest.
    """
    out = request.options.out
    require_writable(jobs_folder(out), 2**20)
    lock = Lock(jobs_folder(out), "submit")
    if lock.busy():
        say("waiting for another submission to the same folder")
    with lock:
        cluster = cluster_of(request.cluster)
        _clear(out)
        for cut_off in [batch for batch in batches(out) if not batch.jobs]:
            say(f"{cut_off.name}: its submission was cut off; withdrawn")
            _withdraw(cluster_of(cut_off.cluster), cut_off)
        before = query_states(request.specs, out)
        if before.of(UNKNOWN):
            raise SetupError(before.problems[0])
        done = Submission(before)
        wanted = to_submit(before, request.retry)
        largest = cluster.max_array_size() if isinstance(cluster, Slurm) and wanted else 1
        largest = min(largest, request.profile.array_size or largest)
        for batch, after in plan(request, before, wanted, largest, done.batches):
            try:
                for accepted in _handed_over(cluster, batch, request.profile, after):
                    done.batches.append(accepted)
            except SetupError as error:
                raise type(error)(_what_is_left(error, done.runs, len(wanted))) from None
    return done


def _handed_over(cluster: Cluster, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Iterator[Batch]:
    """Hand over a batch, in parts where the cluster takes no more jobs at once; raises SetupError for what is left."""
    size, start = batch.count, 0
    while start < batch.count:
        part = batch.part(start, start + size)
        try:
            part.write()
            accepted = cluster.submit(part, profile, after[start : start + size])
            accepted.write()
        except SetupError as error:
            with suppress(SetupError):  # then the next submission withdraws it
                _withdraw(cluster, part)
            if not isinstance(error, TooMany) or part.count == 1:
                raise
            size = (part.count + 1) // 2
            continue
        yield accepted
        start = batch.count if batch.shared else start + size  # fewer jobs share all tasks


def _what_is_left(error: SetupError, runs: int, wanted: int) -> str:
    if isinstance(error, TooMany):
        left = f"{runs} of {wanted} runs are submitted" if runs else "no run was submitted"
        return f"{error}; {left}: the same command submits more of them when some of your jobs have ended"
    left = f"{runs} of {wanted} runs were, the same command submits the rest" if runs else "nothing was submitted"
    return f"{error}; {left}"


def dry_run(request: Request, say: Callable[[str], None]) -> Iterator[tuple[Batch, str]]:
    """Every batch that :func:`submit` would hand over, with its sbatch script where there is one."""
    before = query_states(request.specs, request.options.out)
    for problem in before.problems:
        say(problem)
    shown: list[Batch] = []
    largest = request.profile.array_size or MAX_ARRAY_SIZE
    for batch, after in plan(request, before, to_submit(before, request.retry), largest, shown):
        script = Slurm().script(batch, request.profile, after) if request.cluster == "slurm" else ""
        shown.append(dataclasses.replace(batch, jobs=("<bases>",) * batch.count if _is_bases(batch) else ()))
        yield batch, script


def to_submit(before: RunStates, retry: Iterable[str]) -> list[State]:
    """What is missing, to be tried again, or waits for a latency table, which a submission measures first."""
    wanted = {MISSING, *retry}
    return [state for state in before.states if state.state in wanted or state.spec.lacks_table]


def plan(
    request: Request, before: RunStates, wanted: Sequence[State], largest: int, accepted: Sequence[Batch]
) -> Iterator[tuple[Batch, list[list[str]]]]:
    """The batches to hand over, and for each of their jobs the jobs that it has to wait for.

    A base that several of the runs need is a task of its own, so that none of them waits for it with a node in its
    hands. ``accepted`` are the batches handed over so far: whoever iterates appends to it.
    """
    if not wanted:
        return
    out, profile = request.options.out, request.profile
    replaces = {state.spec.id: state.record_sha256 for state in wanted if state.state in request.retry}
    runs = [Task(s.spec, replaces=replaces.get(s.spec.id), method_sha256=_method(s.spec.method)) for s in wanted]
    bases = shared_bases(runs, out)
    if request.cluster != "slurm":
        tasks = [*bases, *runs]
        count = 1 if request.cluster == "debug" else min(request.jobs, len(runs))
        threads = request.options.threads or max(1, _cores() // count)
        yield _batch(request, tasks, (tuple(task.key for task in tasks),), count, threads), [[]] * count
        return
    needs = {task.key: base_key(task.spec) for task in runs}
    waited = {base: before.live_jobs(base, request.cluster) for base in dict.fromkeys(needs.values())}
    to_train = [task for task in bases if not waited[task.key]]
    if profile.jobs is not None:
        tasks = [*to_train, *runs]
        count = min(profile.jobs, largest, -(-len(tasks) // profile.runs_at_once))
        yield _batch(request, tasks, (tuple(task.key for task in tasks),), count, profile.cpus), [[]] * count
        return
    seconds = estimates(out) if profile.minutes_per_job is not None else None
    for few in _split(pack(to_train, profile, seconds), largest):
        yield _batch(request, to_train, few, len(few), profile.cpus), [[]] * len(few)
    trained_by = {key: batch.jobs_of(key) for batch in accepted for key in batch.tasks if key in waited}
    waited = {base: jobs or trained_by.get(base, []) for base, jobs in waited.items()}
    for waits in (False, True):
        mine = [task for task in runs if bool(waited[needs[task.key]]) == waits]
        for few in _split(pack(mine, profile, seconds), largest):
            after = [sorted({job for key in element for job in waited[needs[key]]}) for element in few]
            yield _batch(request, mine, few, len(few), profile.cpus), after


def shared_bases(runs: Sequence[Task], out: Path) -> list[Task]:
    """The bases that more than one of the runs need and that are not trained."""
    counts = Counter(base_key(task.spec) for task in runs)
    first = {base_key(task.spec): Task(task.spec, base=True) for task in reversed(runs)}
    wanted = [key for key, n in counts.items() if n > 1]
    trained = trained_bases(out, wanted)
    return [first[key] for key in wanted if key not in trained]


def cancel(specs: Sequence[Spec], out: Path) -> list[str]:
    """End the jobs of ``specs`` and of their bases; returns the ids. A job that also has other runs continues."""
    found = query_states(specs, out)
    if found.of(UNKNOWN):
        raise SetupError(found.problems[0])
    keys_of = {key for spec in specs for key in (spec.id, base_key(spec))}
    ended: list[str] = []
    for name in sorted({batch.cluster for batch in found.batches}):
        mine = [batch for batch in found.batches if batch.cluster == name]
        jobs = [
            job
            for batch in mine
            for number, job in enumerate(batch.jobs)
            if job in found.live and keys_of.issuperset(batch.keys_of(number))
        ]
        for batch in mine:
            batch.note_cancelled(set(batch.jobs).intersection(jobs))
        cluster_of(name).cancel(mine, jobs)
        ended += jobs
    return ended


def _is_bases(batch: Batch) -> bool:
    return all(task["base"] for task in batch.tasks.values())


@cache
def _method(name: str) -> str:
    return method_digest(make_method(name, {}))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _split(elements: Sequence[tuple[str, ...]], largest: int) -> Iterator[tuple[tuple[str, ...], ...]]:
    for start in range(0, len(elements), largest):
        yield tuple(elements[start : start + largest])


def _batch(
    request: Request, tasks: Sequence[Task], elements: tuple[tuple[str, ...], ...], count: int, threads: int
) -> Batch:
    options, profile = request.options, request.profile
    keys = {key for element in elements for key in element}
    on_slurm = request.cluster == "slurm"
    processes = min(profile.runs_at_once, max(map(len, elements))) if on_slurm else 1
    where: dict[str, Any] = {
        "data_dir": profile.data_dir or str(options.data_dir.absolute()),
        "download": options.download,
        "device": profile.device or options.device,
        "threads": options.threads or threads,
        "quiet": False,
        "plan_sha256": options.plan_sha256,
    }
    return Batch(
        out=options.out.absolute(),
        token=new_token(),
        cluster=request.cluster,
        title=path_component(request.title)[:30],
        tasks={task.key: task.as_dict() for task in tasks if task.key in keys},
        elements=elements,
        count=count,
        options=where,
        plugins=tuple(map(str, request.plugins)),
        minutes=profile.minutes if on_slurm else None,
        signal_delay_s=profile.signal_delay_s,
        code=environment.code(),
        packages=environment.packages(),
        processes=processes,
        gpus=profile.gpus_for(processes) if on_slurm else 0,
        measured=profile.measured,
    )


def _clear(out: Path) -> None:
    """Remove what killed submissions left of files that they were writing; only they write here."""
    for part in jobs_folder(out).glob("*/.batch.json.*.part"):
        part.unlink(missing_ok=True)
        with suppress(OSError):  # it has other files
            part.parent.rmdir()


def _withdraw(cluster: Cluster, batch: Batch) -> None:
    cluster.withdraw(batch)
    shutil.rmtree(batch.folder, ignore_errors=True)
