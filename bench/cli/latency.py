"""``bench latency`` and ``bench measure``: how fast the networks of records are on this machine, when it is quiet."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import RunFailed, UsageError, WordsError
from bench.files import require_writable
from bench.records import store
from bench.records.lookup import find_one
from bench.records.schema import Finished, finished
from bench.spec.wording import plural
from leaderboard.reader.latency_files import FOLDER

if TYPE_CHECKING:
    from bench.records.latency import Key, Line, Samples
    from bench.runs.latency_pass import How

COLUMNS = (
    *(Column("network", wrap=True), Column("runtime"), Column("batch", right=True)),
    *(Column("dense ms", right=True), Column("final ms", right=True), Column("90 %", right=True, drop=2)),
    *(Column("speed-up", right=True), Column("95 % interval", right=True, drop=1), Column("faster", drop=3)),
)
RUNTIMES, BATCHES, WAIT_S = ("eager",), (1, 64), 600
"""Defaults of ``bench measure``, the last two of ``bench latency`` too."""
ROOM = 64 * 2**20
"""Bytes that the files of a device may need."""


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    p = commands.add_parser("latency", help="measure each shape of some records once, for boards")
    p.set_defaults(function=latency)
    p.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="records, packs, or folders of them")
    _add_how(p, ("eager", "onnxruntime"))
    p.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help=f"where DEVICE.jsonl is; what it has stays ({FOLDER})"
    )
    arguments.add_formats(p, "JSON of what was measured instead of a table")
    p = commands.add_parser("measure", help="how fast a record's networks are on this machine")
    p.set_defaults(function=measure)
    p.add_argument(
        "runs", nargs="+", metavar="ID|PATH", help="(starts of) ids under --out, records, or folders of them"
    )
    p.add_argument("--keep", type=float, metavar="SHARE", help="only runs of this budget")
    _add_how(p, RUNTIMES)
    p.add_argument(
        "--bursts", action="store_true", help="several calls of one network in a row, not single ones in turns"
    )
    p.add_argument(
        "--int8",
        action="store_true",
        help="instead: top-1 and ms in 8-bit integers (onnxruntime, batch 1)",
    )
    arguments.add_places(p, "where records are", "data sets, for --int8")
    arguments.add_formats(p)


def _add_how(parser: Any, runtimes: tuple[str, ...]) -> None:
    arguments.add_machine(parser)
    parser.set_defaults(threads=1, bursts=False)
    parser.add_argument(
        "--runtimes",
        type=lambda text: tuple(dict.fromkeys(part.strip() for part in text.split(","))),
        default=runtimes,
        metavar="NAME[,...]",
        help=f"eager, compile, onnxruntime, openvino ({','.join(runtimes)})",
    )
    parser.add_argument("--batch", type=batches, default=BATCHES, metavar="N[,...]", help="batch sizes (1,64)")
    parser.add_argument(
        "--wait", type=arguments.whole, default=WAIT_S, metavar="S", help=f"longest wait for a quiet machine ({WAIT_S})"
    )
    arguments.add_plugin(parser)


def latency(chosen: argparse.Namespace) -> int:
    """Measure what no file has so far; exit 1 where something cannot be read or timed, 3 on a busy machine."""
    from bench.records.latency_files import add, encode, path_of, require_whole

    records, unreadable = _finished(chosen.records)
    todo = _wanted(records, chosen)
    files = {key.device: path_of(chosen.out, key.device) for key in todo}
    known = {key for file in files.values() for key in require_whole(file)}
    left = {key: record for key, record in todo.items() if key not in known}
    shapes = {(key.arch_sha256, key.shape, key.widths_sha256) for key in todo}
    print(
        f"{len(records)} records of {len(shapes)} shapes: {len(todo)} keys, {len(todo) - len(left)} of them known",
        file=sys.stderr,
    )
    done: list[Line] = []

    def keep(lines: list[Line], samples: list[Samples]) -> None:
        for device in {line.key.device for line in lines}:
            add(files[device], [line for line in lines if line.key.device == device], samples)
        done.extend(lines)

    if left:
        there = next(path for path in (chosen.out, *chosen.out.absolute().parents) if path.exists())
        require_writable(there, ROOM)
    failures = _measure(left, chosen, keep)
    if chosen.json:
        output.print_json([json.loads(encode(line)) for line in done])
    elif done:
        output.print_table(COLUMNS, map(_row, done), chosen)
    return 1 if unreadable or failures else 0


def measure(chosen: argparse.Namespace) -> int:
    """Measure the networks of each record, and write nothing; returns the exit code."""
    from bench.records.latency_files import encode

    asked = _asked(chosen)
    if chosen.int8:
        from bench.cli.int8 import check_int8

        if chosen.runtimes != RUNTIMES or chosen.batch != BATCHES or chosen.bursts:
            raise WordsError("measure --int8: in bursts in onnxruntime at batch 1, without other words on timing")
        return check_int8(asked, chosen)
    todo = _wanted(asked, chosen)
    done, failures = timed(todo, chosen)
    of_each = [(found, [done[key] for key in _wanted([found], chosen) if key in done]) for found in asked]
    if chosen.json:
        tables = [[json.loads(encode(line)) for line in lines] for _, lines in of_each]
        output.print_json([{"id": found.id, "latency": table} for (found, _), table in zip(of_each, tables)])
        return 1 if failures else 0
    for number, (found, lines) in enumerate(of_each):
        spec, cost = found.spec, found.cost
        what = f"{spec.method} on {spec.arch}, {spec.dataset}, seed {spec.seed}"
        share = 100 * cost.final.macs / cost.dense.macs
        output.print_text("\n" * bool(number) + f"{what}: {cost.final.macs:,} MACs left ({share:.1f} %)", chosen)
        output.print_table(COLUMNS[1:], map(_row, lines), chosen)
    for key in list(todo)[:1]:
        output.print_text(f"here: {key.device}, {plural(key.threads, 'thread')}, {key.dtype}", chosen)
    return 1 if failures else 0


def _asked(chosen: argparse.Namespace) -> list[Finished]:
    """The finished runs that ``bench measure`` is asked for. Raises UsageError."""
    found: list[Finished] = []
    for text in chosen.runs:
        if Path(text).is_dir():
            found += filter(finished, map(store.load, store.find(Path(text))))
            continue
        record = store.load(find_one(text, chosen.out))
        if not finished(record):
            raise UsageError(f"measure {record.id}: that run {record.status}, it left no network")
        found.append(record)
    kept = [record for record in found if chosen.keep is None or chosen.keep in _shares(record)]
    if not kept:
        budget = "" if chosen.keep is None else f" with the budget {chosen.keep:g}"
        raise UsageError(f"measure {' '.join(chosen.runs)}: no finished run{budget}")
    return kept


def _shares(record: Finished) -> tuple[Any, ...]:
    budget = record.spec.budget
    return () if budget is None else (budget.keep_macs, budget.keep_params, budget.keep_latency, budget.latency_ms)


def lines_of(record: Finished, chosen: argparse.Namespace) -> list[Line]:
    """The latency of a record's networks; of ``chosen`` it takes what ``bench measure`` has. Raises RunFailed."""
    todo = _wanted([record], chosen)
    done, failures = timed(todo, chosen)
    if failures:
        raise RunFailed(f"no latency of {record.id}: {next(iter(failures.values()))}")
    return list(done.values())


def timed(todo: dict[Key, Finished], chosen: argparse.Namespace) -> tuple[dict[Key, Line], dict[Key, str]]:
    """Key -> its line, and key -> why there is none."""
    done: dict[Key, Line] = {}
    failures = _measure(todo, chosen, lambda lines, samples: done.update({line.key: line for line in lines}))
    return done, failures


def _finished(paths: Iterable[Path]) -> tuple[list[Finished], int]:
    """The finished records at or below some paths, and how many cannot be read: they are named on stderr."""
    found: list[Finished] = []
    unreadable = 0
    for path in paths:
        if not path.exists():
            raise UsageError(f"latency {path}: no such file or folder")
        for file in store.find(path):
            try:
                record = store.load(file)
            except store.RecordError as error:
                print(f"bench: note: left out: {error}", file=sys.stderr)
                unreadable += 1
                continue
            if finished(record):
                found.append(record)
    return found, unreadable


def _wanted(records: Sequence[Finished], chosen: argparse.Namespace) -> dict[Key, Finished]:
    """The keys that are asked for, each with one of the records that have it."""
    from bench.measure.environment import pick_device
    from bench.measure.runtimes import require
    from bench.runs.latency_pass import wanted

    require(chosen.runtimes, pick_device(chosen.device))
    return wanted(records, _how(chosen))


def _how(chosen: argparse.Namespace) -> How:
    from bench.measure.environment import pick_device
    from bench.runs.latency_pass import How

    timed = "bursts" if chosen.bursts else "turns"
    return How(chosen.runtimes, chosen.batch, chosen.threads, str(pick_device(chosen.device)), timed)


def _measure(todo: dict[Key, Finished], chosen: argparse.Namespace, keep: Any) -> dict[Key, str]:
    """Time what is to be timed and name on stderr what cannot be."""
    from bench.measure.quiet import Machine, say
    from bench.runs.latency_pass import LatencyPass

    failures = LatencyPass(_how(chosen), keep, Machine(chosen.wait), say=say).measure(todo)
    for key, why in failures.items():
        print(
            f"bench: note: no latency of {todo[key].spec.arch} in {key.runtime} at batch {key.batch}: {why}",
            file=sys.stderr,
        )
    return failures


def _row(line: Line) -> dict[str, Any]:
    """The cells of a line."""
    before, after = (sum(widths[k] for widths in line.widths.values()) for k in (0, 1))
    return {
        "network": f"{line.arch}, {after:,} of {before:,} units",
        "runtime": line.key.runtime,
        "batch": line.key.batch,
        "dense ms": f"{line.times.dense_ms:.3f}",
        "final ms": f"{line.times.final_ms:.3f}",
        "90 %": f"{line.times.final_p90:.3f}",
        "speed-up": f"{line.times.speedup:.2f}x",
        "95 % interval": "{:.2f} to {:.2f}".format(*line.times.speedup_ci95),
        "faster": "yes" if line.times.faster else "",
    }


def batches(text: str) -> list[int]:
    """Batch sizes of an option, for argparse."""
    sizes = list(dict.fromkeys(arguments.whole(part.strip()) for part in text.split(",")))
    if 0 in sizes:
        raise argparse.ArgumentTypeError("a batch has at least 1 image")
    return sizes
