"""What every command that hands runs to a cluster shares: its options, submitting, following, the table of states."""

from __future__ import annotations

import argparse
import collections
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import output
from bench.cli.output import Column
from bench.errors import RunFailed, SetupError, WordsError
from bench.progress import Progress
from bench.spec.registry import PLUGINS
from bench.spec.request import RunOptions
from slurm import CLUSTERS
from slurm.profile import load_profile

if TYPE_CHECKING:
    from bench.spec.spec import Spec
    from slurm.batch import Batch
    from slurm.launch import Request
    from slurm.states import BaseState, RunStates, State

POLL_S = 5.0
SHOWN = 20
"""Runs of each kind that are listed unless all are asked for."""
ALWAYS = ("done", "running", "waiting", "failed", "missing")
"""Columns of the table; others only where they are not zero."""


def add_cluster(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add where jobs run; without a default it has to be said."""
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster",
        choices=CLUSTERS,
        default=default,
        required=default is None,
        help="inline: in this process; local: as processes of this machine; slurm: as its jobs; debug: see the docs",
    )
    group.add_argument("--profile", type=Path, metavar="FILE", help="what a job asks of the cluster, as TOML")
    group.add_argument("--jobs", type=int, default=1, metavar="N", help="with local: processes at the same time (1)")
    group.add_argument("--wait", action="store_true", help="follow until no job is left")


def require_sense(chosen: argparse.Namespace) -> None:
    """Refuse options of another cluster than the chosen one, which would silently do nothing; raises UsageError."""
    for given, flag, owner in (
        (chosen.profile is not None, "--profile", ("slurm",)),
        (chosen.jobs != 1, "--jobs", ("local",)),
        (chosen.wait, "--wait", ("local", "slurm")),
    ):
        if given and chosen.cluster not in owner:
            raise WordsError(f"{flag} belongs to --cluster {' or '.join(owner)}, not to {chosen.cluster}")
    if chosen.jobs < 1:
        raise WordsError(f"--jobs {chosen.jobs}: at least 1")


def submit(
    chosen: argparse.Namespace, specs: Sequence[Spec], options: RunOptions, title: str, retry: Sequence[str]
) -> int:
    """Submit runs as ``chosen`` says, and follow them where it says so; returns the exit code."""
    from slurm import launch
    from slurm.states import DONE, FAILED, LOST

    words = {"ok": (DONE,), "failed": (FAILED, LOST)}
    request = launch.Request(
        specs,
        options,
        PLUGINS,
        chosen.cluster,
        load_profile(chosen.profile),
        title,
        frozenset(state for word in retry for state in words[word]),
        chosen.jobs,
    )
    if chosen.dry_run:
        return _dry_run(request)
    again = _again(chosen, specs, options)
    done = launch.submit(request, say)
    counts = done.before.counts()
    for problem in done.before.problems:
        say(problem)
    if chosen.json and not chosen.wait:  # one document: then that of the end
        submitted = [
            {"name": b.name, "jobs": b.jobs, "tasks": list(b.tasks), "log": str(b.folder)} for b in done.batches
        ]
        print(json.dumps({"runs": len(specs), "before": counts, "submitted": submitted}, indent=1))
    if not chosen.json:
        for batch in done.batches:
            print(f"submitted {_contents(batch)} as {_named(batch)}")
        left = ", ".join(f"{n} {state}" for state, n in counts.items() if n and state != "missing")
        print(f"{_plural(len(specs), 'run')}: {done.runs} submitted now{'; before: ' + left if left else ''}")
        lost = counts["failed"] + counts["lost"]
        if lost and not retry:
            say(f"{lost} failed or lost; --retry{' failed' if chosen.command == 'sweep' else ''} submits them again")
    if not chosen.wait:
        if done.batches and not chosen.json:
            print(f"follow: python -m bench status {again}")
        return 0
    return _follow(specs, chosen, again)


def _dry_run(request: Request) -> int:
    from slurm import launch

    runs: set[str] = set()
    for batch, script in launch.dry_run(request, say):
        print(f"### {batch.title}: {_contents(batch)} in {_plural(batch.count, 'job')}")
        if script:
            print(script)
        one = len(batch.elements) == 1  # several jobs may share its runs
        for element, keys in enumerate(batch.elements):
            for key in keys:
                print(f"# {'' if one else f'{element}: '}{key}  {_described(batch, key)}")
        runs |= {key for key, task in batch.tasks.items() if not task["base"]}
    print(f"{len(runs)} of {len(request.specs)} runs would be submitted", file=sys.stderr)
    return 0


def _follow(specs: Sequence[Spec], chosen: argparse.Namespace, again: str) -> int:
    """Until no job of the runs is left; Ctrl-C leaves the jobs alone."""
    from slurm.states import RUNNING, UNKNOWN, WAITING, query_states

    progress = Progress("bench", chosen.quiet)
    printed = ""
    try:
        with progress.counting(len(specs), f"following {len(specs)} runs", "runs") as bar:
            while True:
                found = query_states(specs, chosen.out)
                counts = found.counts()
                text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
                bar.n = counts["done"] + counts["failed"]
                bar.set_postfix_str(text)
                if bar.disable and text != printed:
                    progress.say(text)
                printed = text
                if not found.of(RUNNING, WAITING, UNKNOWN):
                    break
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"the jobs continue; to end them: python -m bench cancel {again}")
        return 130
    show(found, len(specs), chosen, everything=False)
    if counts["done"] < len(specs):
        raise RunFailed(f"{len(specs) - counts['done']} of {len(specs)} runs are not done: {printed}")
    return 0


def _again(chosen: argparse.Namespace, specs: Sequence[Spec], options: RunOptions) -> str:
    """Arguments of ``status`` and ``cancel`` for what ``chosen`` submits."""
    words = [str(chosen.sweep)] if chosen.command == "sweep" else [spec.id for spec in specs]
    words += ["--shard", chosen.shard] if getattr(chosen, "shard", None) else []
    places = RunOptions(plugins=options.plugins, out=options.out, data_dir=options.data_dir)
    return shlex.join([*words, *places.to_words()])


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
            print(f"{name}: {state.spec.id}  {_title(state.spec)}{_detail(state)}")
            if name == "lost" and state.batch and state.job:
                print("".join(f"    {line}\n" for line in tail(state.batch.log(state.job), 3)), end="")
        if not everything and len(states) > SHOWN:
            print(f"{name}: {len(states) - SHOWN} more; --all lists them")
    reasons = collections.Counter(state.detail for state in found.of("waiting") if state.detail)
    if reasons:
        print("SLURM's reasons to wait: " + ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common()))
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
        needed = f"{_plural(base.runs, 'run')} need{'s' if base.runs == 1 else ''} it"
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
        print(f"changed since submission: {state.spec.id}  {_title(state.spec)}: {'; '.join(state.differs)}")
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
        "id": spec.id,
        "method": spec.method,
        "arch": spec.arch,
        "dataset": spec.dataset,
        "seed": spec.seed,
        **values,
    }


def _contents(batch: Batch) -> str:
    bases = sum(task["base"] for task in batch.tasks.values())
    runs = len(batch.tasks) - bases
    return " and ".join(_plural(n, noun) for n, noun in ((runs, "run"), (bases, "base")) if n)


def _named(batch: Batch) -> str:
    if batch.cluster != "slurm":
        return f"{_plural(len(batch.jobs), 'local job')} ({', '.join(batch.jobs)})"
    array = f", an array of {len(batch.jobs)}" if len(batch.jobs) > 1 else ""
    return f"job {batch.jobs[0].partition('_')[0]} ({batch.name}{array})"


def _described(batch: Batch, key: str) -> str:
    task = batch.task(key)
    return f"base of {task.spec.arch} on {task.spec.dataset}" if task.base else _title(task.spec)


def _title(spec: Spec) -> str:
    options = [f"{key}={value}" for key, value in spec.config.items()]
    budget = [f"keeping {spec.budget}"] if spec.budget else []
    what = " ".join([spec.method, *options, "on", spec.arch])
    return ", ".join([what, spec.dataset, *budget, f"seed {spec.seed}"])


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def tail(file: Path, lines: int) -> list[str]:
    """The last lines of a file; none where it is not there."""
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return [line.rstrip("\n") for line in collections.deque(text, lines)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}") from error


def say(text: str) -> None:
    """A message."""
    print(f"bench: {text}", file=sys.stderr)
