"""``bench check``: does a method keep the contract?"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import UsageError, WordsError
from bench.spec.entries import scan
from bench.spec.registry import METHODS, add_plugin


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("check", help="does a method keep the contract?")
    p.set_defaults(function=run)
    p.add_argument("method", nargs="?", metavar="NAME|FILE", help="a method, a+b, or a plugin file: all its methods")
    p.add_argument("--all", action="store_true", help="every method that bench list shows")
    p.add_argument("--list", action="store_true", help="print the checks and why each is made")
    p.add_argument("--only", action="append", metavar="CHECK", help="this check only (never enough to pass)")
    arguments.add_plugin(p)
    p.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="of CPU time for each method (120)")
    arguments.add_formats(p, "JSON instead of lines")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    if chosen.list:
        return _list(chosen)
    names = _names(chosen)
    from bench.conformance.runner import Report, Result, examine, selected

    selected(chosen.only)

    def notify(result: Result) -> None:
        if not chosen.json and (len(names) == 1 or result.outcome == "FAILED"):
            output.print_text(_line(result), chosen)

    reports: list[Report] = []
    for name in names:
        if len(names) > 1:
            print(f"checking {name} ({len(reports) + 1} of {len(names)})", file=sys.stderr, flush=True)
        try:
            reports.append(examine(name, chosen.only, chosen.limit, notify))
        except UsageError as error:
            if len(names) == 1:
                raise
            reports.append(Report(name, results=[Result("runs", "FAILED", str(error))]))  # the others' turn comes
            notify(reports[-1].results[0])
        if not chosen.json:
            output.print_text(str(reports[-1]), chosen)
    if chosen.json:
        output.print_json([_described(report) for report in reports])
    elif len(names) > 1:
        passed = sum(report.verdict == "PASSED" for report in reports)
        print(f"{passed} of {len(names)} methods passed")
    return 0 if all(report.verdict == "PASSED" for report in reports) else 1


def _names(chosen: argparse.Namespace) -> list[str]:
    if bool(chosen.method) == chosen.all:
        raise WordsError("check: give one of NAME, FILE and --all")
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
    from bench.conformance.runner import CHECKS

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


def _list(chosen: argparse.Namespace) -> int:
    rows = [{"check": name, "mandatory": "yes" if mandatory else "no", "why": why} for name, mandatory, why in listed()]
    if chosen.json:
        output.print_json(rows)
    else:
        output.print_table((Column("check"), Column("mandatory", drop=1), Column("why", wrap=True)), rows, chosen)
    return 0


def listed() -> list[tuple[str, bool, str]]:
    """Name, whether it is mandatory, and reason of each check in order, read from the source: that needs no torch."""
    folder = Path(__file__).parent.parent / "conformance"
    package = ast.parse((folder / "runner.py").read_text(encoding="utf-8"))
    parts = next(node.value for node in package.body if isinstance(node, ast.Assign) and _target(node) == "MODULES")
    found = []
    for module in (node.id for node in ast.walk(parts) if isinstance(node, ast.Name)):
        tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        for call in (mark for node in tree.body if isinstance(node, ast.FunctionDef) for mark in node.decorator_list):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check":
                name, why = map(ast.literal_eval, call.args[:2])
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                mandatory = ast.literal_eval(given["mandatory"]) if "mandatory" in given else True
                found.append((name, mandatory, why))
    return found


def _target(node: ast.Assign) -> str:
    return getattr(node.targets[0], "id", "")
