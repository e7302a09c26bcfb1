"""``bench sweep``: many runs from one file, here or on a cluster."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.cli import run as run_command
from bench.cli import submit
from bench.errors import RunFailed, UsageError
from bench.records import store
from bench.spec.registry import add_plugin
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
    where = run_command.add_places(p)
    where.add_argument("--dry-run", action="store_true", help="print what would be submitted, submit nothing")
    submit.add_cluster(p, default=None)


def sweep(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    submit.require_sense(chosen)
    for file in chosen.plugin:
        add_plugin(file)
    specs = specs_of(chosen.sweep, chosen)
    if chosen.cluster == "inline":
        return _inline(chosen, specs)
    retry = [chosen.again] if chosen.again else []
    return submit.submit(chosen, specs, run_command.options_of(chosen), chosen.sweep.stem, retry)


def specs_of(path: Path, chosen: argparse.Namespace) -> list[Spec]:
    """The runs of a sweep's file, each once, those that share a base side by side.

    Of ``chosen`` it takes ``shard``, ``out`` and ``data_dir``; a ``folder:PATH`` in the file sets the latter, as for
    ``bench run``. Raises UsageError.
    """
    parser = _Words()
    run_command.add_to(parser.add_subparsers())
    specs: dict[str, Spec] = {}
    places = set()
    for words, seeds in load_sweep(path).commands:
        try:
            asked = parser.parse_args([*words, "--out", str(chosen.out), "--data-dir", str(chosen.data_dir), "--quiet"])
            asked.dry_run = getattr(chosen, "dry_run", True)  # status and cancel write nothing either
            asked.device, asked.cluster = getattr(chosen, "device", "auto"), getattr(chosen, "cluster", "inline")
            numbers = run_command.parse_seeds(seeds)
            first = run_command.make(asked, numbers[0])
        except UsageError as error:
            raise UsageError(f"sweep {path}: {error}") from error
        specs |= {spec.id: spec for spec in (dataclasses.replace(first, seed=seed) for seed in numbers)}
        if asked.dataset.startswith("folder:"):
            places.add(asked.data_dir)
    if len(places) > 1:
        raise UsageError(
            f"sweep {path}: put its folders of images side by side, they are in {' and '.join(map(str, places))}"
        )
    chosen.data_dir = next(iter(places), chosen.data_dir)
    ordered = sorted(specs.values(), key=lambda spec: spec.base_id())
    return shard(ordered, chosen.shard) if chosen.shard else ordered


class _Words(argparse.ArgumentParser):
    """Reads the words of a sweep's commands."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _inline(chosen: argparse.Namespace, specs: list[Spec]) -> int:
    """One after the other in this process; what failed is told and the rest goes on."""
    from bench.runs.execute import execute

    options = run_command.options_of(chosen)
    failures = []
    for number, spec in enumerate(specs, 1):
        path = store.path_of(options.out, spec)
        if chosen.dry_run:
            print(f"{spec.id}  {path}")
            continue
        try:
            finished = path.is_file() and store.load(path)["status"] == "ok"
            done = execute(spec, dataclasses.replace(options, retry=bool(chosen.again) and not finished))
        except (RunFailed, UsageError, store.RecordError) as error:  # such as a budget that cannot be met
            print(f"bench: error: {spec.id}: {error}", file=sys.stderr)
            failures.append(spec.id)
            continue
        if chosen.json:
            print(json.dumps(done))
        else:
            top1 = 100 * done["metrics"]["final"]["top1"]
            print(f"{number}/{len(specs)}  {top1:.2f} % top-1  {path}", flush=True)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(specs)} runs failed: {', '.join(failures)}")
    return 0
