"""``bench status``, ``logs`` and ``cancel``: looking after runs that were handed to a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output, run_states, submit, sweep
from bench.errors import RunFailed, UsageError
from bench.records import store
from bench.spec.registry import add_plugin

if TYPE_CHECKING:
    from bench.spec.spec import Spec
    from slurm.batch import Batch


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    what = "a sweep's file or the (start of the) id of runs"
    every = {"status": "; default: all that was run or submitted", "cancel": ""}
    for name, function, text in (
        ("status", status, "what became of runs: done, running, waiting, failed, missing"),
        ("cancel", cancel, "end the jobs of runs"),
        ("logs", logs, "what the job of a run wrote"),
    ):
        p = commands.add_parser(name, help=text)
        p.set_defaults(function=function)
        if name == "logs":
            p.add_argument("which", nargs=1, metavar="RUN", help="(the start of) its id")
            p.add_argument("-n", "--lines", type=arguments.whole, default=40, metavar="N", help="the last N lines (40)")
        else:
            p.add_argument(
                "which", nargs="*" if name == "status" else "+", metavar="SWEEP|RUN", help=what + every[name]
            )
            arguments.add_plugin(p)
            p.add_argument("--shard", metavar="I/N", help="of a sweep: this part of its runs")
            arguments.add_data_dir(p)
        arguments.add_out(p, "where records are")
        if name == "status":
            p.add_argument("--all", action="store_true", help="list every run that is not done")
            arguments.add_formats(p)
        else:
            arguments.add_json(p, "JSON")


def status(chosen: argparse.Namespace) -> int:
    """What became of runs; exit 0 whatever that is."""
    from slurm.states import query_states

    specs = specs_of(chosen)
    if not specs and not chosen.which:
        raise UsageError(f"nothing was run or submitted with --out {chosen.out}; give a sweep's file, or another --out")
    found = query_states(specs, chosen.out)
    for problem in found.problems:
        submit.say(problem)
    run_states.show(found, len(specs), chosen, chosen.all)
    return 0


def cancel(chosen: argparse.Namespace) -> int:
    """End jobs."""
    from slurm import launch

    ended = launch.cancel(specs_of(chosen), chosen.out)
    if chosen.json:
        output.print_json({"ended": list(ended)})
        return 0
    print(f"{len(ended)} jobs ended" + (f": {', '.join(ended[: run_states.SHOWN])}" if ended else ""))
    return 0


def logs(chosen: argparse.Namespace) -> int:
    """The end of the log of the job that has, or last had, a run."""
    from slurm.batch import attempts

    found = _submitted(chosen.which[0], chosen.out)
    keys = sorted({key for _, key in found})
    if len(keys) > 1:
        raise UsageError(f"{chosen.which[0]}: {len(keys)} runs have such an id; give more of it")
    batch, key = found[-1]
    last = attempts(chosen.out, key)
    at_it = [last[-1].job] if batch.shared and last and last[-1].batch == batch.token else batch.jobs_of(key)
    files = [file for job in at_it if (file := batch.log(job)).is_file()]
    if not files:
        raise RunFailed(f"{key}: its job has written nothing so far")
    if chosen.json:
        output.print_json([{"file": str(file), "lines": run_states.tail(file, chosen.lines)} for file in files])
        return 0
    for file in files:
        print(f"# {file}", file=sys.stderr)
        print("\n".join(run_states.tail(file, chosen.lines)))
    return 0


def specs_of(chosen: argparse.Namespace) -> list[Spec]:
    """The runs that the command names; where it names none, all that were submitted or, for status, have a record."""
    from slurm.batch import batches

    specs: dict[str, Spec] = {}
    for text in chosen.which:
        if text.endswith(".toml"):
            _know_plugins(chosen.out)
            found, _ = sweep.specs_of(Path(text), chosen)
        else:
            recorded = _recorded(chosen.out, text) if chosen.command == "status" else []
            found = recorded or [batch.task(key).spec for batch, key in _submitted(text, chosen.out)]
        specs |= {spec.id: spec for spec in found}
    if not chosen.which:
        for batch in batches(chosen.out):
            specs |= {key: batch.task(key).spec for key, task in batch.tasks.items() if not task["base"]}
        specs |= {spec.id: spec for spec in _recorded(chosen.out, but=specs)}
    return list(specs.values())


def _recorded(out: Path, start: str = "", but: Container[str] = ()) -> list[Spec]:
    """The runs whose records lie below ``--out`` at their own place, by the start of their id."""

    found = []
    for path in store.find(out / "records"):
        if not path.stem.startswith(start) or path.stem in but:
            continue
        try:
            spec = store.load(path).spec
        except (store.RecordError, UsageError) as error:
            submit.say(str(error))
            continue
        if store.path_of(out, spec) == path:
            found.append(spec)
    return found


def _know_plugins(out: Path) -> None:
    """Make known what earlier submissions were given, so that their sweeps can be read without it."""
    from slurm.batch import batches

    for file in dict.fromkeys(file for batch in batches(out) for file in batch.plugins):
        if Path(file).is_file():
            add_plugin(file)


def _submitted(text: str, out: Path) -> list[tuple[Batch, str]]:
    """Batches and keys of the submitted runs whose id starts with ``text``, oldest first; raises UsageError."""
    from slurm.batch import batches

    found = [
        (batch, key)
        for batch in batches(out)
        for key, task in batch.tasks.items()
        if key.startswith(text) and not task["base"]
    ]
    if not found:
        raise UsageError(f"{text}: no run of that id was submitted with --out {out}, and it is no sweep's file (.toml)")
    return found
