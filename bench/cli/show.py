"""``bench show`` and ``bench verify``: read records, and check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output
from bench.errors import UsageError
from bench.records import pack, store
from bench.records.latency_files import SUFFIX
from bench.records.lookup import find_all, find_one

if TYPE_CHECKING:
    from bench.runs.verify import Check


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    p = commands.add_parser("show", help="one record, readable")
    p.set_defaults(function=show)
    p.add_argument("run", metavar="ID|FILE", help="a record's file, PACK#ID, or (the start of) its id under --out")
    arguments.add_out(p, "where records are")
    arguments.add_formats(p, "the record itself")
    p = commands.add_parser("verify", help="recompute what a record, or a file of latencies, claims")
    p.set_defaults(function=verify)
    p.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="records, packs, latencies, folders, ids (--out)"
    )
    arguments.add_places(p, "where artifacts are", "data sets, to evaluate again")
    arguments.add_plugin(p)
    arguments.add_formats(p, "JSON instead of lines")


def _compared(asked: Sequence[Path]) -> dict[str, list[Check]]:
    """The checks of records in folders and packs compared with all records that these belong to, by resolved path."""
    from bench.runs.verify import Check
    from leaderboard.reader import trust
    from leaderboard.reader.frame import find

    made: dict[str, list[Check]] = {}
    for root in sorted({trust.all_records(path) for path in asked if path.is_dir() or pack.is_pack(path)}):
        found = find(root, screened=True)
        names = [str(row[0]) for row in found.rows] + [problem.file for problem in found.problems]
        place = root if root.is_dir() else root.parent
        for name in names:
            made[str(place / name)] = []
        for problem in found.problems:
            if problem.kind:
                outcome = "FAILED" if problem.refused else "not run" if problem.kind == "unranked" else "ok"
                made[str(place / problem.file)].append(Check("compared with all records", outcome, problem.message, 2))
        for checks in made.values():
            checks += [] if checks else [Check("compared with all records", "ok", "", 2)]
    return made


def show(chosen: argparse.Namespace) -> int:
    """Print one record."""
    from bench.runs import rerun
    from leaderboard.render.record_summary import details

    found = store.load(find_one(chosen.run, chosen.out))
    if chosen.json:
        output.print_data(store.encode(found).decode())
        return 0
    print(details(found, output.limit(chosen)))
    output.print_text(f"\nmade with: {rerun.made_with(found)}", chosen)
    try:
        output.print_command(rerun.command(found), chosen, "again: ")
    except UsageError as error:
        output.print_text(f"no command makes it here: {error}", chosen)
    return 0


def verify(chosen: argparse.Namespace) -> int:
    """Check records and files of latencies; exit 1 when one does not hold."""
    from bench.runs.verify import LEVELS, level_of, verify_file, verify_latency

    asked = chosen.paths or [chosen.out / "records"]
    files = [file for path in asked for file in ([path] if path.suffix == SUFFIX else sorted(path.glob(f"*{SUFFIX}")))]
    paths = [path for text in asked if text not in files for path in find_all(str(text), chosen.out)]
    results = {str(file): verify_latency(file) for file in files}
    latencies = {*results}
    results |= {str(path): verify_file(path, chosen.out, chosen.data_dir) for path in paths}
    compared = _compared(asked)
    for record in paths:
        checks = results[str(record)]
        checks += [] if level_of(checks) is None else compared.get(str(record.resolve()), [])
    if chosen.json:
        output.print_json({path: [vars(c) for c in checks] for path, checks in results.items()})
    else:
        for name, checks in results.items():
            lines = [f"  {c.outcome:7} {c.name}{': ' + c.detail if c.detail else ''}" for c in checks]
            reached = None if name in latencies else level_of(checks)
            lines += [] if reached is None else [f"  level   {reached} ({LEVELS[reached]})"]
            output.print_text("\n".join([name, *lines]), chosen)
    bad = sum(any(c.outcome == "FAILED" for c in checks) for checks in results.values())
    what = f"{len(paths)} records" + (f" and {len(files)} files of latencies" if files else "")
    print(f"{what}, {bad} do not hold", file=sys.stderr)
    return 1 if bad or not results else 0
