"""``bench sweep``: many runs from one file, here or on a cluster."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, submit
from bench.cli.output import print_data
from bench.cli.run_states import shown_id, tables_missing
from bench.errors import RunFailed, UsageError
from bench.records import store
from bench.runs.resolve import resolve
from bench.spec.request import RunOptions
from bench.spec.sweep import load_sweep, shard

if TYPE_CHECKING:
    from bench.spec.spec import Spec


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("sweep", help="many runs from one file, here or on a cluster")
    p.set_defaults(function=sweep)
    p.add_argument("sweep", type=Path, metavar="FILE", help="TOML file with the runs; see docs/sweeps.md")
    p.add_argument("--shard", metavar="I/N", help="only part I of N, for several clusters")
    p.add_argument("--retry", dest="again", choices=("failed",), help="also the runs that failed or were lost")
    where = arguments.add_options(p)
    where.add_argument("--dry-run", action="store_true", help="print what would be submitted, submit nothing")
    submit.add_cluster(p, default=None)


def sweep(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    submit.require_sense(chosen)
    specs, options = specs_of(chosen.sweep, chosen)
    if options.plan_sha256 is not None:
        from bench.runs.planned_budgets import require_reachable

        try:
            require_reachable(specs, options.data_dir, None if chosen.dry_run else options.out / "cache")
        except UsageError as error:
            raise UsageError(f"sweep {chosen.sweep}: {error}") from error
    if chosen.cluster == "inline":
        return _inline(chosen, specs, options)
    retry = [chosen.again] if chosen.again else []
    return submit.submit(chosen, specs, options, chosen.sweep.stem, retry)


def specs_of(path: Path, chosen: argparse.Namespace) -> tuple[list[Spec], RunOptions]:
    """The runs of a sweep's file, each once, those that share a base side by side, and how to carry them out.

    Of ``chosen`` it takes ``shard`` and what :class:`RunOptions` has; a ``folder:PATH`` in the file gives the folder
    of data sets, as for ``bench run``. Raises UsageError.
    """
    asked = RunOptions.from_args(chosen)
    elsewhere = getattr(chosen, "cluster", "inline") == "slurm"
    writes = not getattr(chosen, "dry_run", True)  # status and cancel write nothing either
    specs: dict[str, Spec] = {}
    places = set()
    sweep = load_sweep(path)
    for request in sweep.requests:
        try:
            found, options = resolve(request, asked, elsewhere=elsewhere or sweep.plan is not None, writes=writes)
        except UsageError as error:
            raise UsageError(f"sweep {path}: {error}") from error
        specs |= {spec.id: spec for spec in found}
        if request.dataset.startswith("folder:"):
            places.add(options.data_dir)
    if len(places) > 1:
        raise UsageError(
            f"sweep {path}: put its folders of images side by side, they are in {' and '.join(map(str, places))}"
        )
    ordered = sorted(specs.values(), key=lambda spec: spec.base_id())
    parts = shard(ordered, chosen.shard) if chosen.shard else ordered
    data_dir = next(iter(places), asked.data_dir)
    return parts, dataclasses.replace(asked, data_dir=data_dir, plan_sha256=sweep.plan_sha256)


def _inline(chosen: argparse.Namespace, specs: list[Spec], options: RunOptions) -> int:
    """Run one after the other in this process; what failed is named and the rest is run."""
    if chosen.dry_run:
        for spec in specs:
            path = store.path_of(options.out, spec)
            print(f"{shown_id(spec)}  {path.parent if spec.lacks_table else path}")
        for text in tables_missing(specs):
            submit.say(text)
        return 0
    from bench.runs.execute import execute

    failures = []
    for number, spec in enumerate(specs, 1):
        path = store.path_of(options.out, spec)
        try:
            finished = path.is_file() and store.load(path).status == "ok"
            done = execute(spec, dataclasses.replace(options, retry=bool(chosen.again) and not finished))
        except (RunFailed, UsageError, store.RecordError) as error:  # such as a budget that cannot be met
            print(f"bench: error: {spec.id}: {error}", file=sys.stderr)
            failures.append(spec.id)
            continue
        if chosen.json:
            print_data(store.encode(done).decode())
        else:
            top1 = 100 * done.metrics.final.top1
            print(f"{number}/{len(specs)}  {top1:.2f} % top-1  {path}", flush=True)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(specs)} runs failed: {', '.join(failures)}")
    return 0
