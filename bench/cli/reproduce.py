"""``bench reproduce``: run what a published claim needs, and say whether it holds."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from bench import record
from bench import reproduce as claims
from bench.cli import run as run_command
from bench.errors import RunFailed
from bench.registry import add_plugin, unknown
from bench.reproduce import Claim, Group, Record, Result, Verdict

if TYPE_CHECKING:
    from bench.pipeline import Options
    from bench.spec import Spec


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("reproduce", help="replay published numbers and compare")
    p.set_defaults(function=reproduce)
    p.add_argument("name", nargs="?", metavar="NAME|FILE", help="default: list what there is")
    p.add_argument("--only", action="append", default=[], metavar="GROUP", help="this group of runs; repeatable")
    p.add_argument("--seeds", metavar="N[-M][,...]", help="default: the target file's")
    where = run_command.add_places(p)
    where.add_argument("--retry", action="store_true", help="run failed runs again; finished ones stay")
    where.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")


def reproduce(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    for file in chosen.plugin:
        add_plugin(file)
    if chosen.name is None:
        return _list(chosen.json)
    claim = claims.load_claim(chosen.name)
    for name in chosen.only:
        if name not in claim.groups:
            raise unknown("group", name, claim.groups)
    groups = {name: group for name, group in claim.groups.items() if not chosen.only or name in chosen.only}
    seeds = run_command.parse_seeds(chosen.seeds or claim.seeds)
    planned = {name: _specs(group, seeds) for name, group in groups.items()}  # all are checked before the first runs
    if chosen.dry_run:
        for group in groups.values():
            print(_command(group, claim, chosen))
        return 0
    options = run_command.options_of(chosen)
    results = {}
    for name, group in groups.items():
        records = _records(name, planned[name], options)
        results[name] = claims.judge(name, group, records, complete=len(records) == len(seeds))
    print(json.dumps(_as_json(claim, results), indent=1) if chosen.json else _as_text(claim, results))
    verdicts = [verdict for result in results.values() for verdict in result.verdicts]
    bad = [f"{v.group} {v.target.quantity} ({v.outcome})" for v in verdicts if v.outcome != "met"]
    if bad:
        raise RunFailed(f"{len(bad)} of {len(verdicts)} targets not met: {'; '.join(bad)}")
    unfinished = [name for name, result in results.items() if not result.complete]
    if unfinished:
        raise RunFailed(f"runs of {', '.join(unfinished)} failed")
    return 0


def _list(as_json: bool) -> int:
    rows = []
    for name in claims.claim_names():
        claim = claims.load_claim(name)
        rows.append({"name": name, "groups": ", ".join(claim.groups), "seeds": claim.seeds, "what": claim.description})
    print(json.dumps(rows, indent=1) if as_json else tabulate(rows, headers="keys", tablefmt="simple"))
    return 0


def _command(group: Group, claim: Claim, chosen: argparse.Namespace) -> str:
    words = ["python", "-m", "bench", *group.command(), "--seeds", chosen.seeds or claim.seeds]
    words += [word for file in chosen.plugin for word in ("--plugin", file)]
    for flag in ("out", "data_dir", "device", "threads"):
        value = getattr(chosen, flag)
        words += ["--" + flag.replace("_", "-"), str(value)] if value is not None else []
    words += ["--runtimes", ",".join(chosen.runtimes)] if chosen.runtimes != ("eager",) else []
    return shlex.join(words + ["--download"] * chosen.download)


def _specs(group: Group, seeds: list[int]) -> list[Spec]:
    """The specifications that the group's command means."""
    parser = argparse.ArgumentParser()
    run_command.add_to(parser.add_subparsers())
    asked = parser.parse_args(group.command())
    return [run_command.make(asked, seed) for seed in seeds]


def _records(name: str, specs: list[Spec], options: Options) -> list[Record]:
    """The records of the runs that finished; missing ones are run, failures told on stderr."""
    from bench.run import execute

    found: list[Record] = []
    for spec in specs:
        path = record.path_of(options.out, spec)
        finished = path.is_file() and record.load(path)["status"] == "ok"
        try:
            found.append(execute(spec, dataclasses.replace(options, retry=options.retry and not finished)))
        except RunFailed as error:
            print(f"bench: error: {name}, seed {spec.seed}: {error}", file=sys.stderr)
    return found


def _as_text(claim: Claim, results: dict[str, Result]) -> str:
    about = (f"{claim.description}\n{claim.source}", f"Readings: {claim.reading}", f"Notes: {claim.notes}")
    parts = ["\n".join(textwrap.fill(line, 110) for line in text.splitlines()) for text in about]
    for name, result in results.items():
        group = result.group
        what = [group.method, *(f"{key}={value}" for key, value in group.options.items())]
        title = f"{name}: {' '.join(what)} on {group.arch}, {group.dataset}, recipe {group.recipe}"
        parts.append(f"{title}\n{_curve(result)}" if result.curve else f"{title}: its runs log no share of units left")
    rows = [_row(verdict) for result in results.values() for verdict in result.verdicts]
    if rows:
        align = ("left", "left", "right", "left", "left", "right", "right", "right", "right", "left")
        parts.append(tabulate(rows, headers="keys", tablefmt="simple", colalign=align, disable_numparse=True))
    return "\n\n".join(parts)


def _curve(result: Result) -> str:
    published = claims.published_at(result.group, result.curve)
    rows = [
        {
            "units left": f"{point.left:.4f}",
            "val top-1 %": _mean(point.mean, point.half_width),
            "seeds": str(point.seeds),
            "paper, test top-1 %": ", ".join(f"{t.paper:.2f} ({t.where})" for t in published.get(point.left, [])),
        }
        for point in result.curve
    ]
    align = ("right", "right", "right", "left")
    return tabulate(rows, headers="keys", tablefmt="simple", colalign=align, disable_numparse=True)


def _row(verdict: Verdict) -> dict[str, str]:
    target = verdict.target
    return {
        "group": verdict.group,
        "quantity": target.quantity,
        "units left": "" if target.left is None else f"{target.left:g}",
        "published in": target.where,
        "kind": target.kind,
        "paper %": f"{target.paper:.2f}",
        "measured %": "" if verdict.measured is None else _mean(verdict.measured, verdict.half_width),
        "difference": "" if verdict.difference is None else f"{verdict.difference:+.2f}",
        "tolerance": f"{target.tolerance:.2f}",
        "": verdict.outcome,
    }


def _mean(mean: float, half_width: float | None) -> str:
    return f"{mean:.2f}" if half_width is None else f"{mean:.2f} ± {half_width:.2f}"


def _as_json(claim: Claim, results: dict[str, Result]) -> dict[str, Any]:
    groups = {}
    for name, result in results.items():
        targets = [
            dataclasses.asdict(v.target) | {"measured": v.measured, "half_width": v.half_width, "outcome": v.outcome}
            for v in result.verdicts
        ]
        curve = [dataclasses.asdict(point) for point in result.curve]
        groups[name] = {"runs": result.runs, "complete": result.complete, "curve": curve, "targets": targets}
    return {"name": claim.name, "source": claim.source, "groups": groups}
