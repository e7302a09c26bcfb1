"""``bench check``: does a method keep the contract?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.registry import METHODS, add_plugin, scan


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("check", help="does a method keep the contract?")
    p.set_defaults(function=run)
    p.add_argument("method", nargs="?", metavar="NAME|FILE", help="a method, a+b, or a plugin file: all its methods")
    p.add_argument("--all", action="store_true", help="every method that bench list shows")
    p.add_argument("--list", action="store_true", help="print the checks and why each is made")
    p.add_argument("--only", action="append", metavar="CHECK", help="this check only (never enough to pass)")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="file that defines what NAME names")
    p.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="of CPU time for each method (120)")
    p.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    if chosen.list:
        return _list(chosen.json)
    names = _names(chosen)
    from bench.check import Report, Result, examine, selected

    selected(chosen.only)

    def tell(result: Result) -> None:
        if not chosen.json and (len(names) == 1 or result.outcome == "FAILED"):
            print(_line(result), flush=True)

    reports: list[Report] = []
    for name in names:
        if len(names) > 1:
            print(f"checking {name} ({len(reports) + 1} of {len(names)})", file=sys.stderr, flush=True)
        try:
            reports.append(examine(name, chosen.only, chosen.limit, tell))
        except UsageError as error:
            if len(names) == 1:
                raise
            reports.append(Report(name, results=[Result("runs", "FAILED", str(error))]))  # the others' turn comes
            tell(reports[-1].results[0])
        if not chosen.json:
            print(reports[-1], flush=True)
    if chosen.json:
        print(json.dumps([_described(report) for report in reports], indent=1))
    elif len(names) > 1:
        passed = sum(report.verdict == "PASSED" for report in reports)
        print(f"{passed} of {len(names)} methods passed")
    return 0 if all(report.verdict == "PASSED" for report in reports) else 1


def _names(chosen: argparse.Namespace) -> list[str]:
    if bool(chosen.method) == chosen.all:
        raise UsageError("check: give one of NAME, FILE and --all")
    for file in chosen.plugin:
        add_plugin(file)
    if chosen.all:
        return list(METHODS.entries())
    if not chosen.method.endswith(".py"):
        return [chosen.method]
    add_plugin(chosen.method)
    names = [entry.name for entry in scan(Path(chosen.method), METHODS.decorators, lambda: None)]
    if not names:
        raise UsageError(f"check {chosen.method}: it defines no method")
    return names


def _line(result: Any) -> str:
    from bench.check import CHECKS

    text = f"  {result.outcome:8}{result.name}" + (f": {result.detail}" if result.detail else "")
    return text + (f"\n          why: {CHECKS[result.name].why}" if result.outcome == "FAILED" else "")


def _described(report: Any) -> dict[str, Any]:
    counts = {key.replace(" ", "_"): report.count(key) for key in ("ok", "FAILED", "skipped", "not run")}
    return {
        "method": report.method,
        "defined_in": report.origin,
        "verdict": report.verdict,
        "counts": {key.lower(): value for key, value in counts.items()},
        "seconds": round(report.seconds, 1),
        "checks": [vars(result) for result in report.results],
        "missing": report.missing,
    }


def _list(as_json: bool) -> int:
    from tabulate import tabulate

    from bench.check import CHECKS

    rows = [{"check": c.name, "mandatory": "yes" if c.mandatory else "no", "why": c.why} for c in CHECKS.values()]
    print(json.dumps(rows, indent=1) if as_json else tabulate(rows, headers="keys", tablefmt="simple"))
    return 0
