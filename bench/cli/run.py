"""``bench run``: one method on one network at one budget, for one seed or several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output, runs, submit
from bench.cli.run_states import tables_missing
from bench.errors import RunFailed
from bench.records import store
from bench.records.schema import Finished
from bench.runs.resolve import resolve
from bench.spec.request import RunOptions, RunRequest

if TYPE_CHECKING:
    from bench.spec.spec import Spec


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("run", help="train, prune, slice, fine-tune, measure, record")
    p.set_defaults(function=run)
    arguments.add_request(p)
    where = arguments.add_options(p)
    where.add_argument("--retry", action="store_true", help="run again; the old record moves to superseded/")
    where.add_argument(
        "--dry-run", action="store_true", help="print the specification and the record's path, run nothing"
    )
    submit.add_cluster(p, default="inline")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    submit.require_sense(chosen)
    request, options = RunRequest.from_args(chosen), RunOptions.from_args(chosen)
    specs, options = resolve(request, options, elsewhere=chosen.cluster == "slurm", writes=not chosen.dry_run)
    if chosen.cluster != "inline":
        return submit.submit(chosen, specs, options, chosen.method, ("ok", "failed") if chosen.retry else ())
    if chosen.dry_run:
        for spec in specs:
            path = None if spec.lacks_table else str(store.path_of(chosen.out, spec))
            output.print_json({"id": path and spec.id, "record": path, "spec": spec.as_dict()})
        for text in tables_missing(specs):
            submit.say(text)
        return 0
    _say_what_was_not_asked(chosen, specs[0])
    return _carry_out(chosen, specs, options)


def _carry_out(chosen: argparse.Namespace, specs: list[Spec], options: RunOptions) -> int:
    """Run one after the other in this process; what failed is named and the rest is run."""
    from bench.runs.execute import execute

    records, failures = [], []
    for spec in specs:
        path = store.path_of(chosen.out, spec)
        before = None if chosen.retry else runs.done_before(path)
        try:
            done = execute(spec, options)
        except RunFailed as error:
            if len(specs) == 1:
                raise
            print(f"bench: error: seed {spec.seed}: {error}", file=sys.stderr)
            failures.append(spec.seed)
            continue
        records.append(done)
        if before:
            print(f"bench: note: {spec.id} was {before}", file=sys.stderr)
        if chosen.json:
            output.print_data(store.encode(done).decode())
        else:
            output.print_text(_result(spec, done, path, output.limit(chosen)), chosen)
    if len(records) > 1 and not failures and not chosen.json:
        output.print_text(f"\n{runs.over_seeds(records)}", chosen)
    if not chosen.quiet:
        _say_what_widths_mean(records[:1])
        print(runs.what_next(chosen.out), file=sys.stderr)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(specs)} seeds failed: {', '.join(map(str, failures))}")
    return 0


def _say_what_widths_mean(records: Sequence[Finished]) -> None:
    """Once a command, not for each seed."""
    from leaderboard.render.record_summary import width_note

    for record in records:
        if text := width_note(record):
            print(f"bench: {text}", file=sys.stderr)


def _result(spec: Spec, done: Finished, path: Path, width: int | None) -> str:
    """What is printed of a run that is done."""
    from leaderboard.render.record_summary import summary

    budget = f", keeping {spec.budget}" if spec.budget else ""
    title = f"\n{spec.method} on {spec.arch}, {spec.dataset}, seed {spec.seed}{budget}"
    return "\n".join([title, summary(done, width), f"record: {path}"])


def _say_what_was_not_asked(chosen: argparse.Namespace, spec: Spec) -> None:
    """Name the epochs of the other stage where only those of one were given."""
    given = (chosen.epochs is not None) + (chosen.finetune_epochs is not None)
    if given == 1 and not chosen.quiet:
        train, finetune = spec.recipe.train.epochs, spec.recipe.finetune.epochs
        other = "--finetune-epochs" if chosen.finetune_epochs is None else "--epochs"
        text = f"{train} epochs of training and {finetune} of fine-tuning; {other} sets those that were not given"
        print(f"bench: note: {text}", file=sys.stderr)
