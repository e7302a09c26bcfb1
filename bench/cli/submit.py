"""What every command that hands runs to a cluster shares: its options, submitting and following."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.run_states import show, shown_id, tables_missing, title
from bench.errors import RunFailed, WordsError
from bench.progress import Progress
from bench.spec.registry import PLUGINS
from bench.spec.request import RunOptions
from bench.spec.wording import plural
from slurm import CLUSTERS
from slurm.profile import load_profile

if TYPE_CHECKING:
    from bench.spec.spec import Spec
    from slurm.batch import Batch
    from slurm.launch import Request

POLL_S = 5.0


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
        print(f"{plural(len(specs), 'run')}: {done.runs} submitted now{'; before: ' + left if left else ''}")
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

    for text in tables_missing(request.specs):
        say(text)
    runs: set[str] = set()
    for batch, script in launch.dry_run(request, say):
        print(f"### {batch.title}: {_contents(batch)} in {plural(batch.count, 'job')}")
        if script:
            print(script)
        one = len(batch.elements) == 1  # several jobs may share its runs
        for element, keys in enumerate(batch.elements):
            for key in keys:
                name = key if batch.tasks[key]["base"] else shown_id(batch.task(key).spec)
                print(f"# {'' if one else f'{element}: '}{name}  {_described(batch, key)}")
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


def _contents(batch: Batch) -> str:
    bases = sum(task["base"] for task in batch.tasks.values())
    runs = len(batch.tasks) - bases
    return " and ".join(plural(n, noun) for n, noun in ((runs, "run"), (bases, "base")) if n)


def _named(batch: Batch) -> str:
    if batch.cluster != "slurm":
        return f"{plural(len(batch.jobs), 'local job')} ({', '.join(batch.jobs)})"
    array = f", an array of {len(batch.jobs)}" if len(batch.jobs) > 1 else ""
    return f"job {batch.jobs[0].partition('_')[0]} ({batch.name}{array})"


def _described(batch: Batch, key: str) -> str:
    task = batch.task(key)
    return f"base of {task.spec.arch} on {task.spec.dataset}" if task.base else title(task.spec)


def say(text: str) -> None:
    """A message."""
    print(f"bench: {text}", file=sys.stderr)
