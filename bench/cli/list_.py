"""``bench list``: what there is, without importing it; and the sites of an architecture."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from bench.cli import arguments, output, runs
from bench.cli.output import Column
from bench.errors import WordsError
from bench.spec import wording
from bench.spec.near_names import near_matches, unknown
from bench.spec.recipe import RECIPES, load_recipe, recipe_names
from bench.spec.registry import ARCHS, DATASETS, METHODS, PREFIXES, Registry, model_name

if TYPE_CHECKING:
    from torch import nn

    from bench.runs.preflight import Fit
    from bench.runs.width_steps import TypeSteps

REGISTRIES: dict[str, Registry] = {"methods": METHODS, "archs": ARCHS, "datasets": DATASETS}
OUTSIDE = f"also: {PREFIXES}: every classifier of torchvision (list archs 'torchvision:*') and timm, and your own"
MOST = 100
"""Most names from outside that are printed."""
STEPS_WAIT_S = 600
COLUMNS = (
    *(Column("name"), Column("kind", drop=3), Column("paper", drop=2), Column("options", wrap=True, drop=1)),
    *(Column("defined in", drop=4), Column("what", wrap=True)),
)
SITES = (
    *(Column("site", wrap=True), Column("kind", drop=1), Column("units", right=True)),
    *(Column("MACs a unit", right=True), Column("params a unit", right=True, drop=2)),
    *(Column("produced by", wrap=True, drop=4), Column("read by", wrap=True, drop=3)),
)


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("list", help="methods, architectures, data sets, recipes, sites, runs")
    p.set_defaults(function=run)
    p.add_argument(
        "what", nargs="?", choices=(*REGISTRIES, "recipes", "sites", "runs"), help="default: all but sites and runs"
    )
    p.add_argument("pattern", nargs="?", help="these names only: 'tp_*', 'torchvision:vgg*', 'timm:resnet*'")
    p.add_argument(
        "-a",
        "--arch",
        action="append",
        default=[],
        metavar="NAME[,...]",
        help="for sites: the architecture; for archs --check: these only (may be repeated)",
    )
    p.add_argument(
        "--check",
        action="store_true",
        help="for archs: build each, also torchvision's, slice it at half and test the slice",
    )
    p.add_argument(
        "-d",
        "--dataset",
        metavar="NAME",
        help="for sites: gives the input shape (cifar10); for archs --check: in place of the smallest images taken",
    )
    arguments.add_coupling(p, "for sites and archs --check: full adds residual streams")
    arguments.add_units(p, "for sites: those of channels (width), of blocks (depth) or both")
    p.add_argument("--runtime", metavar="NAME", help="for sites: time there, at batch 1, which steps of widths pay")
    p.add_argument("--onnx", action="store_true", help="with --check: also export the half network and compare")
    arguments.add_plugin(p)
    arguments.add_places(p, "for runs: where records are")
    arguments.add_formats(p)


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    if chosen.runtime and chosen.what != "sites":
        raise WordsError("list --runtime: say list sites")
    if (chosen.check or chosen.onnx) and (chosen.what != "archs" or not chosen.check):
        raise WordsError("list --check and --onnx: say list archs --check")
    if chosen.pattern and chosen.what not in (*REGISTRIES, "recipes"):
        raise WordsError(f"list {chosen.what} takes no '{chosen.pattern}'; see bench list --help")
    if chosen.what == "sites":
        return _sites(chosen)
    if chosen.what == "runs":
        return runs.list_runs(chosen)
    if chosen.check:
        return _survey(chosen)
    kinds = [chosen.what] if chosen.what else [*REGISTRIES, "recipes"]
    found = {kind: _recipes() if kind == "recipes" else _entries(REGISTRIES[kind]) for kind in kinds}
    if chosen.pattern:
        found = {chosen.what: _matching(found[chosen.what], chosen.what, chosen.pattern)}
    if chosen.json:
        output.print_json(found)
        return 0
    for kind, rows in found.items():
        print(kind)
        shown = rows if not chosen.pattern else rows[:MOST]
        output.print_table([column for column in COLUMNS if column.header in shown[0]], shown, chosen)
        output.print_text(f"{OUTSIDE}\n" if kind == "archs" and not chosen.pattern else "", chosen)
        if len(shown) < len(rows):
            print(f"and {len(rows) - len(shown):,} more: a longer pattern, or --json for all", file=sys.stderr)
    return 0


def _entries(registry: Registry) -> list[dict[str, str]]:
    rows = []
    for entry in registry.entries().values():
        row = {"name": entry.name}
        if registry is METHODS:
            row |= {"kind": entry.kind, "paper": str(entry.paper or "")}
        options = ", ".join(f"{option.name}={option.default}" for option in entry.options)
        rows.append(row | {"options": options, "defined in": entry.origin, "what": entry.summary})
    return rows


def _matching(rows: list[dict[str, str]], kind: str, pattern: str) -> list[dict[str, str]]:
    """Those of ``rows`` whose names match ``pattern``; names from outside where it begins with their prefix."""
    prefix, colon, _ = pattern.partition(":")
    if kind == "archs" and colon and (names := ARCHS.outside(prefix)):
        rows = [{"name": f"{prefix}:{name}"} for name in names]
    matching = [row for row in rows if fnmatchcase(row["name"], pattern)]
    if not matching:
        noun = REGISTRIES[kind].noun if kind in REGISTRIES else "recipe"
        near = near_matches(pattern.strip("*"), [row["name"] for row in rows])
        raise unknown(noun, pattern, (), "no name matches" + (f"; near it: {', '.join(near)}" if near else ""))
    return matching


def _recipes() -> list[dict[str, str]]:
    rows = []
    for name in recipe_names():
        values = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
        rows.append({"name": name, "defined in": f"bench/spec/recipes/{name}.toml", "what": values["description"]})
    return rows


def _survey(chosen: argparse.Namespace) -> int:
    from bench.conformance.architecture_check import Request, check_architectures, every_name

    if chosen.onnx:
        from bench.measure import onnx_export

        onnx_export.require()
    names = _archs(chosen) or every_name()
    for name in names:
        ARCHS.require(name)
    rows = []
    request = Request(chosen.coupling, chosen.onnx)
    if chosen.dataset:
        request = dataclasses.replace(request, **_data_of(chosen))
    for finding in check_architectures(names, request):
        rows.append(dataclasses.asdict(finding))
        print(f"{finding.outcome:8}{finding.name}  {finding.why}".rstrip(), file=sys.stderr, flush=True)
    count = Counter(row["outcome"] for row in rows)
    if chosen.json:
        output.print_json(rows)
    else:
        _print_survey([_shown(row, chosen.onnx) for row in rows], chosen)
        lines = [f"* {row['outcome']} {row['name']}: {row['why']}" for row in rows if row["why"]]
        for row in rows if chosen.wide else ():
            lines += [f"\n{row['name']}, no sites:"] if row["rejected"] else []
            lines += [f"  {name}: {why}" for name, why in row["rejected"].items()]
        output.print_text("\n".join(["", *lines]), chosen)
    passed = f"{count['pass']} of {len(rows)} pass ({100 * count['pass'] / len(rows):.1f} %)"
    print(f"{passed}, {count['skipped']} skipped, {count['FAILED']} failed", file=sys.stderr)
    return 1 if count["FAILED"] else 0


def _shown(row: dict[str, Any], onnx: bool) -> dict[str, str]:
    """A finding as a line of the table."""

    def scientific(number: float | None) -> str:
        return "" if number is None else f"{number:.0e}"

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.1f} %"

    return {
        "architecture": row["name"],
        "images": "x".join(map(str, row["shape"])).removeprefix("3x") if row["shape"] else "",
        "sites": row["sites"] or "",
        "units": output.number_text(row["units"] or None),
        "least MACs": "" if row["least"] is None else wording.percent(row["least"]),
        "MACs at half": percent(row["keep_macs"]),
        "params at half": percent(row["keep_params"]),
        "gate - slice": scientific(row["difference"]),
        **({"ONNX": scientific(row["onnx"])} if onnx else {}),
        "outcome": row["outcome"],
    }


def _print_survey(rows: list[dict[str, str]], chosen: argparse.Namespace) -> None:
    """As Markdown, for the documents; for people where there is a terminal."""
    if output.limit(chosen) is None:
        print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
        return
    drops = {"units": 1, "params at half": 2, "images": 3, "sites": 4, "gate - slice": 5, "MACs at half": 6}
    headers = list(rows[0]) if rows else []
    columns = [Column(h, h not in ("architecture", "outcome"), h == "architecture", drops.get(h, 0)) for h in headers]
    output.print_table(columns, rows, chosen)


def _archs(chosen: argparse.Namespace) -> list[str]:
    """The architectures that are asked for, without repetition."""
    return list(dict.fromkeys(model_name(name) for names in chosen.arch for name in names.split(",")))


def _data_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Shape and classes of the data set that is asked for, and its default recipe."""
    from bench.data.loading import find

    facts = find(chosen.dataset, chosen.data_dir)
    recipe = facts.recipe if facts.recipe in recipe_names() else "synthetic"  # of a plugin's data set
    return {"shape": facts.shape, "classes": facts.classes, "recipe": load_recipe(recipe)}


def _steps(runtime: str, network: nn.Module, found: Fit) -> list[TypeSteps]:
    """What narrowing the sites of each type saves in a runtime; raises Busy on a busy machine."""
    from bench.measure.quiet import Machine
    from bench.measure.runtimes import require
    from bench.runs.width_steps import steps_of

    require([runtime], many=True)
    return steps_of(network, found.sites, found.model, runtime, 1, 1, found.layout, Machine(STEPS_WAIT_S))


def _print_steps(steps: Sequence[TypeSteps], chosen: argparse.Namespace) -> None:
    sizes = sorted({fewer for one in steps for fewer in one.saved})
    columns = [Column("sites", wrap=True), Column("units", right=True)]
    columns += [*(Column(f"-{fewer}", right=True) for fewer in sizes), Column("step", right=True)]
    rows = [
        {
            "sites": one.sites[0] + (f" and {len(one.sites) - 1} more" if len(one.sites) > 1 else ""),
            "units": one.units,
            "step": one.step or "none",
        }
        | {f"-{fewer}": f"{100 * saved:.1f} %" for fewer, saved in one.saved.items()}
        for one in steps
    ]
    output.print_text(
        f"\nshare of the time in {chosen.runtime} that goes when all such sites lose so many units:", chosen
    )
    output.print_table(columns, rows, chosen)
    output.print_text("step: the smallest that pays, for --round-to; none: nothing is saved beyond noise", chosen)


def _sites(chosen: argparse.Namespace) -> int:
    from bench.measure.environment import pick_device, pick_precision
    from bench.models.build import build
    from bench.runs.network_trial import Situation
    from bench.runs.preflight import fit

    archs = _archs(chosen)
    if len(archs) != 1:
        raise WordsError("list sites: say of which network with --arch NAME")
    chosen.dataset = chosen.dataset or "cifar10"
    data, device = _data_of(chosen), pick_device("cpu")
    network = build(archs[0], data["shape"], data["classes"])
    precision = pick_precision(data["recipe"].precision, device)
    how = {"coupling": chosen.coupling, "units": chosen.units, "device": device, "precision": precision}
    found = fit(archs[0], network, Situation(**how, **data))
    sites, model = found.sites, found.model
    rows = []
    for name, site in sites.items():
        fewer = [sites.ones()[name] for _ in (site.blocks or (1,))]  # blocks may differ in cost, channels do not
        for unit, mask in enumerate(fewer):
            mask[unit] = False
        without = [model.array(sites.ones() | {name: mask}) for mask in fewer]
        rows.append(
            {
                "site": name,
                "kind": site.kind,
                "units": site.n_units,
                "MACs a unit": round(model.macs(model.dense) - sum(map(model.macs, without)) / len(without)),
                "params a unit": round(model.params(model.dense) - sum(map(model.params, without)) / len(without)),
                "produced by": ", ".join(site.producers),
                "read by": ", ".join(tap.layer for tap in site.consumers),
            }
        )
    steps = _steps(chosen.runtime, network, found) if chosen.runtime else []
    if chosen.json:
        timed = {"steps": [dataclasses.asdict(one) for one in steps]} if chosen.runtime else {}
        output.print_json({"sites": rows, "rejected": sites.rejected, "layout": found.layout} | timed)
        return 0
    shown = [{key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()} for row in rows]
    output.print_table(SITES, shown, chosen)
    lines = [
        f"\n{len(sites)} sites, gate == slice checked; dense: {model.macs(model.dense):,} MACs, "
        f"{model.params(model.dense):,} parameters, input {list(data['shape'])}"
    ]
    lines += [f"it runs in {found.layout} memory format: {found.note}"] if found.note else []
    lines += ["\nno sites:"] if sites.rejected else []
    lines += [f"  {name}: {why}" for name, why in sites.rejected.items()]
    output.print_text("\n".join(lines), chosen)
    if steps:
        _print_steps(steps, chosen)
    return 0
