"""How many runs go into one job."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.records import store
from bench.spec.spec import Spec
from slurm.batch import Task
from slurm.profile import Profile


def pack(
    runs: Sequence[Task], profile: Profile, seconds: Callable[[Spec], float | None] | None
) -> list[tuple[str, ...]]:
    """Keys of the runs of each job: so many a job, or as many as fit its minutes (one where nothing is known)."""
    if seconds is None:
        size = profile.runs_per_job
        return [tuple(task.key for task in runs[k : k + size]) for k in range(0, len(runs), size)]
    room = 60 * (profile.minutes_per_job or 0) * profile.runs_at_once
    found: list[tuple[str, ...]] = []
    left = 0.0
    for task in runs:
        expected = seconds(task.spec)
        if expected is None or not found or expected > left:
            found.append(())
            left = 0.0 if expected is None else room
        found[-1] += (task.key,)
        left -= expected or 0.0
    return found


def estimates(out: Path) -> Callable[[Spec], float | None]:
    """How long a run may take, from the records there are: of the same kind, else of that network and recipe."""
    known: dict[tuple[str, ...], list[float]] = {}
    for file in store.find(out / "records"):
        with suppress(store.RecordError):
            found = store.load(file)
            if found.status == "ok":
                spec = found.spec
                where = (spec.arch, spec.dataset, spec.recipe.sha256)
                spent = sum(found.clock.seconds.values())
                known.setdefault((spec.method, *where), []).append(spent)
                known.setdefault(where, []).append(spent)

    def seconds(spec: Spec) -> float | None:
        where = (spec.arch, spec.dataset, spec.recipe.sha256)
        times = known.get((spec.method, *where)) or known.get(where)
        return statistics.median(times) if times else None

    return seconds
