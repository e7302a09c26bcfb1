"""``bench reproduce``: run what a published number needs, or one record again, and say whether it holds."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import RunFailed, SetupError, UsageError, WordsError
from bench.records import pack, store
from bench.records.lookup import find_one
from bench.records.schema import Finished, Record, finished
from bench.runs import rerun
from bench.runs.resolve import require_published_images, resolve
from bench.spec.near_names import unknown
from bench.spec.option_text import as_seeds
from bench.spec.request import RunOptions
from bench.spec.spec import Spec
from leaderboard.published import publications
from leaderboard.published.publications import Publication
from leaderboard.published.verdicts import Result, Verdict, judge, published_at
from leaderboard.render.text_table import sentences, table
from leaderboard.stats.prediction import RARE, Prediction, other_seeds, predict, top1
from leaderboard.stats.replays import OUTSIDE, status

ABOUT = 110
"""Most characters of a line of what is said of a publication."""
TARGETS = (
    *(Column("group"), Column("quantity", wrap=True), Column("units left", right=True, drop=3)),
    *(Column("published in", wrap=True, drop=5), Column("kind", drop=4), Column("paper %", right=True)),
    *(Column("measured %", right=True), Column("difference", right=True, drop=1)),
    *(Column("tolerance", right=True, drop=2), Column("outcome")),
)
CURVE = (
    *(Column("units left", right=True), Column("val top-1 %", right=True), Column("seeds", right=True, drop=1)),
    Column("paper, test top-1 %", wrap=True),
)
REPLAY = (Column("quantity", wrap=True), Column("record", right=True), Column("replay", right=True))


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("reproduce", help="replay published numbers, or one record, and compare")
    p.set_defaults(function=reproduce)
    p.add_argument("name", nargs="?", metavar="NAME|FILE|RECORD", help="default: list what there is")
    p.add_argument("--only", action="append", default=[], metavar="GROUP", help="this group of runs; repeatable")
    p.add_argument("--seeds", metavar="N[-M][,...]", help="default: the publication's")
    arguments.add_latency_table(p)
    where = arguments.add_options(p)
    where.add_argument("--retry", action="store_true", help="run failed runs again; finished ones stay")
    where.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")


def reproduce(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    if chosen.name is None:
        return _list(chosen)
    if _names_a_record(chosen.name):
        return _replay(find_one(chosen.name, chosen.out), chosen)
    publication = publications.load(chosen.name)
    if not publication.groups:
        raise UsageError(f"publication {publication.name}: no groups of runs, only accuracies")
    for name in chosen.only:
        if name not in publication.groups:
            raise unknown("group", name, publication.groups)
    groups = {name: group for name, group in publication.groups.items() if not chosen.only or name in chosen.only}
    seeds = as_seeds(chosen.seeds or publication.seeds)
    options = RunOptions.from_args(chosen)
    requests = {name: dataclasses.replace(group.request, seeds=seeds) for name, group in groups.items()}
    planned = {}
    for name, request in requests.items():  # all before the first runs
        planned[name], where = resolve(request, options)
        require_published_images(planned[name][0].dataset, where)
    if chosen.dry_run:
        for request in requests.values():
            output.print_command(rerun.command_line(request, options), chosen)
        return 0
    results = {}
    for name, group in groups.items():
        records = _records(name, planned[name], options)
        results[name] = judge(name, group, records, complete=len(records) == len(seeds))
    if chosen.json:
        output.print_json(_as_json(publication, results))
    else:
        print(_as_text(publication, results, output.limit(chosen)))
    verdicts = [verdict for result in results.values() for verdict in result.verdicts]
    bad = [f"{v.group} {v.target.quantity} ({v.outcome})" for v in verdicts if v.outcome != "met"]
    if bad:
        raise RunFailed(f"{len(bad)} of {len(verdicts)} targets not met: {'; '.join(bad)}")
    unfinished = [name for name, result in results.items() if not result.complete]
    if unfinished:
        raise RunFailed(f"runs of {', '.join(unfinished)} failed")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    rows = []
    for found in publications.repeatable():
        groups = ", ".join(found.groups)
        rows.append({"name": found.name, "groups": groups, "seeds": found.seeds, "what": found.description})
    if chosen.json:
        output.print_json(rows)
    else:
        columns = [Column("name"), Column("groups", wrap=True), Column("seeds", drop=1), Column("what", wrap=True)]
        output.print_table(columns, rows, chosen)
    return 0


def _records(name: str, specs: list[Spec], options: RunOptions) -> list[Finished]:
    """The records of the runs that finished; missing ones are run, failures printed on stderr."""
    from bench.runs.execute import execute

    found: list[Finished] = []
    for spec in specs:
        path = store.path_of(options.out, spec)
        finished = path.is_file() and store.load(path).status == "ok"
        try:
            found.append(execute(spec, dataclasses.replace(options, retry=options.retry and not finished)))
        except RunFailed as error:
            print(f"bench: error: {name}, seed {spec.seed}: {error}", file=sys.stderr)
    return found


def _as_text(publication: Publication, results: dict[str, Result], width: int | None) -> str:
    about = (
        f"{publication.description}\n{publication.source}",
        f"Readings: {publication.reading}",
        f"Notes: {publication.notes}",
    )
    parts = [sentences(text, min(width or ABOUT, ABOUT)) for text in about]
    for name, result in results.items():
        asked = result.group.request
        what = [asked.method, *(f"{key}={value}" for key, value in asked.options.items())]
        title = f"{name}: {' '.join(what)} on {asked.arch}, {asked.dataset}, recipe {asked.recipe}"
        title = sentences(title if result.curve else f"{title}: its runs log no share of units left", width)
        parts.append(f"{title}\n{_curve(result, width)}" if result.curve else title)
    rows = [_row(verdict) for result in results.values() for verdict in result.verdicts]
    if rows:
        parts.append(table(TARGETS, rows, width))
    return "\n\n".join(parts)


def _curve(result: Result, width: int | None) -> str:
    published = published_at(result.group, result.curve)
    rows = [
        {
            "units left": f"{point.left:.4f}",
            "val top-1 %": output.mean_text(point.mean, point.half_width),
            "seeds": str(point.seeds),
            "paper, test top-1 %": ", ".join(f"{t.paper:.2f} ({t.where})" for t in published.get(point.left, [])),
        }
        for point in result.curve
    ]
    return table(CURVE, rows, width)


def _row(verdict: Verdict) -> dict[str, str]:
    target = verdict.target
    return {
        "group": verdict.group,
        "quantity": target.quantity,
        "units left": "" if target.left is None else f"{target.left:g}",
        "published in": target.where,
        "kind": target.kind,
        "paper %": f"{target.paper:.2f}",
        "measured %": "" if verdict.measured is None else output.mean_text(verdict.measured, verdict.half_width),
        "difference": "" if verdict.difference is None else f"{verdict.difference:+.2f}",
        "tolerance": f"{target.tolerance:.2f}",
        "outcome": verdict.outcome,
    }


def _as_json(publication: Publication, results: dict[str, Result]) -> dict[str, Any]:
    groups = {}
    for name, result in results.items():
        targets = [
            dataclasses.asdict(v.target) | {"measured": v.measured, "half_width": v.half_width, "outcome": v.outcome}
            for v in result.verdicts
        ]
        curve = [dataclasses.asdict(point) for point in result.curve]
        groups[name] = {"runs": result.runs, "complete": result.complete, "curve": curve, "targets": targets}
    return {"name": publication.name, "source": publication.source, "groups": groups}


# --- one record -------------------------------------------------------------------------------------------------


def _names_a_record(text: str) -> bool:
    """Whether it is a record's file or (the start of) an id, not a publication."""
    named = text.endswith(".json") or pack.is_pack(text) or bool(pack.split(text)[1])
    return named or re.fullmatch(r"[0-9a-f]{6,12}(-s[0-9]*)?", text) is not None


def _replay(path: Path, chosen: argparse.Namespace) -> int:
    """Run a record's specification again and compare; returns the exit code."""
    if chosen.only or chosen.seeds:
        raise WordsError("--only and --seeds are for publications: a record is one run")
    given = store.load(path)
    if not finished(given):
        raise UsageError(f"{path}: that run {given.status}, there is nothing to compare with")
    request, machine = rerun.request_of(given, like=str(path))
    options = RunOptions.from_args(chosen)
    (spec,), _ = resolve(request, dataclasses.replace(options, device=machine.device))
    if spec.sha256 != given.spec_sha256:
        raise UsageError(f"{path}: here its specification is {spec.id}, not {given.id} ({_other(given.spec, spec)})")
    options = dataclasses.replace(options, out=_fresh(path, given, spec, options.out))
    if chosen.dry_run:
        options = dataclasses.replace(options, device=machine.device, threads=machine.threads)
        output.print_command(rerun.command_line(request, options), chosen)
        return 0
    options = _on_machine(path, machine, options)
    _keep_table(given, chosen, options.out)
    from bench.measure import environment
    from bench.runs.execute import execute

    print(f"bench: {spec.id} again, in {options.out}", file=sys.stderr)
    if given.code.commit != environment.code()["commit"]:
        print(f"bench: note: {given.id} was made with {rerun.made_with(given)}", file=sys.stderr)
    new = execute(spec, dataclasses.replace(options, plan_sha256=given.plan_sha256, replay_of=given.record_sha256))
    others = other_seeds(path, given)
    expected = predict(given, others)
    found = {
        "record": str(path),
        "replay": str(store.path_of(options.out, spec)),
        "prediction": dataclasses.asdict(expected),
        "record_inside": expected.holds(top1(given)),
        "replay_inside": expected.holds(top1(new)),
        "status": status(given, new, others),
        "was": rerun.measures(given),
        "is": rerun.measures(new),
        "parts_that_differ": rerun.parts_that_differ(given, new),
        "versions_that_differ": [*rerun.versions_that_differ(given, new)],
    }
    if chosen.json:
        output.print_json(found)
    else:
        output.print_table(REPLAY, _replay_rows(found), chosen)
        output.print_text(_replay_text(found, expected), chosen)
    if found["status"] == OUTSIDE:
        rare = predict(given, others, RARE)
        if rare.holds(top1(new)):
            raise RunFailed(
                "the replay is right on other test images than the record, on more than two seeds differ in"
            )
        raise RunFailed(f"final top-1 of the replay is outside of {rare}; of honest replays 1 in 1,000 is")
    return 0


def _on_machine(path: Path, machine: RunOptions, options: RunOptions) -> RunOptions:
    """``options`` with the record's device and threads; raises UsageError for others, SetupError for a missing GPU."""
    for name in ("threads", "device"):
        value, recorded = getattr(options, name), getattr(machine, name)
        if value != getattr(RunOptions, name) and str(value).partition(":")[0] != str(recorded):
            raise UsageError(
                f"--{name} {value}: {path} was made with {recorded}, and so is its replay; "
                "for another run use bench run"
            )
        if value == getattr(RunOptions, name):
            options = dataclasses.replace(options, **{name: recorded})
    from bench.measure.environment import pick_device

    try:
        pick_device(options.device)
    except SetupError as error:
        raise SetupError(
            f"{path} was made on {machine.device}, which is not here; the command that bench show prints, "
            "with another --device, makes another run"
        ) from error
    return options


def _other(wanted: Spec, spec: Spec) -> str:
    """What of a specification is not as in the record."""
    before, after = wanted.as_dict(), spec.as_dict()
    return ", ".join(sorted(key for key in after if before.get(key) != after[key])) or "its hash is that of another"


def _fresh(path: Path, given: Record, spec: Spec, out: Path) -> Path:
    """``out``, or a folder in it where the record itself lies there."""
    there = store.path_of(out, spec)
    own = there.is_file() and store.load(there).record_sha256 == given.record_sha256
    return out / "replays" if own or path.resolve().is_relative_to(out.resolve()) else out


def _keep_table(given: Finished, chosen: argparse.Namespace, out: Path) -> None:
    """Put the latency table of a record, with what its run measured, where the replay looks for it."""
    if given.latency is None or given.spec.budget is None:
        return
    from bench.records.latency_table import Chosen
    from bench.runs.latency_tables import keep_rounds

    measured = [Chosen(one.vector, one.ms, one.dense_ms, one.low, one.high) for one in given.latency.rounds]
    file = Path(chosen.latency_table) if chosen.latency_table else None
    keep_rounds(file, chosen.out, out, str(given.spec.budget.table), measured)


def _replay_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"quantity": name, "record": output.number_text(was), "replay": output.number_text(found["is"][name])}
        for name, was in found["was"].items()
    ]


def _replay_text(found: dict[str, Any], expected: Prediction) -> str:
    lines = [f"\n95 % prediction of final top-1: {expected}"]
    for name in ("record", "replay"):
        lies = "inside" if found[f"{name}_inside"] else f"OUTSIDE, as 1 in 20 honest {name}s does"
        lines.append(f"the {name} lies {lies}")
    parts, others = found["parts_that_differ"], [f"  {line}" for line in found["versions_that_differ"]]
    if not parts:
        lines.append("every result is the same to the last bit")
        return "\n".join([*lines, *(["another, without effect:"] if others else []), *others])
    lines.append(f"not the same to the last bit: {', '.join(parts)}")
    if not others:
        return "\n".join([*lines, "nothing recorded explains it: code, versions, device and threads are the same"])
    return "\n".join([*lines, "another than in the record, the likeliest cause first:", *others])
