"""The table of run states that ``status`` and ``sweep --wait`` print, and the runs and jobs that need a look."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import output
from bench.cli.output import Column
from bench.errors import SetupError
from bench.spec.wording import plural

if TYPE_CHECKING:
    from bench.spec.spec import Spec
    from slurm.states import BaseState, RunStates, State

SHOWN = 20
"""Runs of each kind that are listed unless all are asked for."""
ALWAYS = ("done", "running", "waiting", "failed", "missing")
"""Columns of the table; others only where they are not zero."""


def show(found: RunStates, total: int, chosen: argparse.Namespace, everything: bool) -> None:
    """Print the table of states, the runs that need a look, and the time left."""
    if chosen.json:
        output.print_json({"counts": found.counts(), "runs": list(map(_as_json, found.states))})
        return
    _show_counts(found, total, chosen)
    with output.folded(chosen):
        _show_runs(found, everything)


def _show_counts(found: RunStates, total: int, chosen: argparse.Namespace) -> None:
    """How many runs of each method on each network are in which state."""
    counts = found.counts()
    columns = [name for name, n in counts.items() if n or name in ALWAYS]
    groups: dict[tuple[str, ...], collections.Counter[str]] = {}
    for state in found.states:
        spec = state.spec
        groups.setdefault((spec.method, spec.arch, spec.dataset), collections.Counter())[state.state] += 1
    headers = ("method", "arch", "dataset")
    rows: list[dict[str, Any]] = [
        {**dict(zip(headers, group, strict=True)), **{name: numbers[name] or "" for name in columns}}
        for group, numbers in groups.items()
    ]
    rows.append({"method": f"{total} runs", **{name: counts[name] for name in columns}})
    texts = [Column(header, wrap=True, drop=drop) for header, drop in zip(headers, (0, 1, 2), strict=True)]
    output.print_table([*texts, *(Column(name, right=True) for name in columns)], rows, chosen)


def _show_runs(found: RunStates, everything: bool) -> None:
    """The runs and jobs that need a look, and the time left."""
    counts = found.counts()
    for name in ("running", "failed", "lost", "unknown", *(("waiting", "missing") if everything else ())):
        states = found.of(name)
        for state in states if everything else states[:SHOWN]:
            print(f"{name}: {shown_id(state.spec)}  {title(state.spec)}{_detail(state)}")
            if name == "lost" and state.batch and state.job:
                print("".join(f"    {line}\n" for line in tail(state.batch.log(state.job), 3)), end="")
        if not everything and len(states) > SHOWN:
            print(f"{name}: {len(states) - SHOWN} more; --all lists them")
    reasons = collections.Counter(state.detail for state in found.of("waiting") if state.detail and state.job)
    if reasons:
        print("SLURM's reasons to wait: " + ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common()))
    for text in tables_missing(state.spec for state in found.states):
        print(text)
    _show_held(found, everything)
    _show_differing(found, everything)
    left = _minutes_left(found)
    if left is not None:
        print(f"about {left:.0f} min left with {counts['running']} at a time")


def _show_held(found: RunStates, everything: bool) -> None:
    """Bases that are not trained, and jobs that wait until somebody does something."""
    from slurm.clusters import remedy

    shown = found.bases if everything else found.bases[:SHOWN]
    for base in shown:
        state = ", ".join(filter(None, (base.state, base.detail, f"job {base.job}")))
        needed = f"{plural(base.runs, 'run')} need{'s' if base.runs == 1 else ''} it"
        print(f"base {base.key}: {state}; {needed}{_to_do(base)}")
    if len(found.bases) > len(shown):
        print(f"bases: {len(found.bases) - len(shown)} more; --all lists them")
    held = {state.job: state.detail for state in found.of("waiting") if state.job}
    for job, reason in held.items():
        if do := remedy(job, reason):
            print(f"held: job {job} ({reason}): {do}")


def _to_do(base: BaseState) -> str:
    if base.remedy:
        return f"; to continue: {base.remedy}"
    return "; the first of them trains it" if base.state == "lost" else ""


def _show_differing(found: RunStates, everything: bool) -> None:
    """Runs whose job found other code or versions than there were at submission."""
    differing = [state for state in found.states if state.differs]
    for state in differing if everything else differing[:SHOWN]:
        print(f"changed since submission: {state.spec.id}  {title(state.spec)}: {'; '.join(state.differs)}")
    if not everything and len(differing) > SHOWN:
        print(f"changed since submission: {len(differing) - SHOWN} more; --all lists them")


def _detail(state: State) -> str:
    parts = [state.detail] if state.detail else []
    if state.done is not None:
        parts.append(f"epoch {state.done}/{state.total}")
    if state.seconds_left is not None:
        parts.append(f"{state.seconds_left / 60:.0f} min of training left")
    if state.job and state.state != "failed":
        parts.append(f"job {state.job}")
    return f": {', '.join(parts)}" if parts else ""


def _minutes_left(found: RunStates) -> float | None:
    """Estimated from the runs that are done; None while there is none, or nothing is running."""
    known = [state.seconds for state in found.of("done") if state.seconds]
    running = found.of("running")
    if not known or not running:
        return None
    mean = sum(known) / len(known)
    left = sum(mean if state.seconds_left is None else state.seconds_left for state in running)
    return (left + mean * len(found.of("waiting"))) / len(running) / 60


def _as_json(state: State) -> dict[str, Any]:
    values = {name: getattr(state, name) for name in ("state", "detail", "job", "done", "total", "seconds_left")}
    spec = state.spec
    return {
        "id": None if spec.lacks_table else spec.id,
        "method": spec.method,
        "arch": spec.arch,
        "dataset": spec.dataset,
        "seed": spec.seed,
        **values,
    }


def shown_id(spec: Spec) -> str:
    """The id of a run, as far as it has one."""
    return f"(no id yet)-s{spec.seed}" if spec.lacks_table else spec.id


def tables_missing(specs: Iterable[Spec]) -> list[str]:
    """A line for each latency table that runs wait for."""
    missing = collections.Counter((s.arch, s.budget.where) for s in specs if s.budget and s.lacks_table)
    return [
        f"{plural(runs, 'run')} wait{'s' * (runs == 1)} for the latency table of {arch} in {where}, "
        "which is measured first: ids follow from it"
        for (arch, where), runs in missing.items()
    ]


def title(spec: Spec) -> str:
    """A run in words: method, options, network, data set, budget, seed."""
    options = [f"{key}={value}" for key, value in spec.config.items()]
    budget = [f"keeping {spec.budget}"] if spec.budget else []
    what = " ".join([spec.method, *options, "on", spec.arch])
    return ", ".join([what, spec.dataset, *budget, f"seed {spec.seed}"])


def tail(file: Path, lines: int) -> list[str]:
    """The last lines of a file; none where it is not there."""
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return [line.rstrip("\n") for line in collections.deque(text, lines)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}") from error
