"""``bench run``: one method on one network at one budget, for one seed or several."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import output, runs, submit
from bench.errors import RunFailed, UsageError, WordsError
from bench.records import store
from bench.runs.planned_spec import planned_spec
from bench.spec.registry import ARCHS, DATASETS, add_plugin, model_name

if TYPE_CHECKING:
    from bench.runs.pipeline import Options
    from bench.spec.spec import Budget, Spec

DEFAULT_KEEP_MACS = 0.5
RECIPE_OF = {"cifar10": "cifar", "cifar100": "cifar", "fashion_mnist": "mnist", "kmnist": "mnist"}
"""Default recipes of data sets that share one; any other data set's recipe has its own name."""
FOLDER_RECIPES = ("folder_small", "folder_large")
SMALL_SIDE = 64
"""Images of a folder up to this side have the first of its recipes, larger ones the second."""


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("run", help="train, prune, slice, fine-tune, measure, record")
    p.set_defaults(function=run)
    what = p.add_argument_group("what to run")
    what.add_argument("-m", "--method", required=True, metavar="NAME[+NAME]", help="see: bench list methods")
    what.add_argument("-a", "--arch", required=True, metavar="NAME", help="see: bench list archs")
    what.add_argument("-d", "--dataset", default="digits", metavar="NAME|folder:PATH[@SIZE]", help="default: digits")
    what.add_argument("--recipe", metavar="NAME|FILE", help="default: the data set's")
    what.add_argument("--seeds", "--seed", default="0", metavar="N[-M][,...]", help="such as 0, 0-4 or 1,5 (default 0)")
    budget = p.add_argument_group("budget")
    budget.add_argument("--keep-macs", type=_number, metavar="SHARE", help=f"default {DEFAULT_KEEP_MACS}")
    budget.add_argument("--keep-params", type=_number, metavar="SHARE", help="instead of --keep-macs")
    budget.add_argument(
        "--like", metavar="RECORD", help="instead: as many units in each site as this record's network kept"
    )
    budget.add_argument("--native", action="store_true", help="instead: the method chooses, as its paper does")
    budget.add_argument("--ranking", metavar="global|layer", help="default: the method's own")
    budget.add_argument("--min-keep", type=whole, default=1, metavar="N", help="units that stay in every site (1)")
    budget.add_argument(
        "--coupling", choices=("inner", "full"), default="inner", help="full also prunes residual streams"
    )
    change = p.add_argument_group("settings")
    change.add_argument("-p", dest="options", action="append", default=[], metavar="KEY=VALUE", help="method option")
    change.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="recipe value, such as train.epochs=5",
    )
    change.add_argument("--epochs", type=whole, metavar="N", help="short for --set train.epochs=N")
    change.add_argument("--finetune-epochs", type=whole, metavar="N", help="short for --set finetune.epochs=N")
    where = add_places(p)
    where.add_argument("--retry", action="store_true", help="run again; the old record moves to superseded/")
    where.add_argument(
        "--dry-run", action="store_true", help="print the specification and the record's path, run nothing"
    )
    submit.add_cluster(p, default="inline")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    submit.require_sense(chosen)
    for file in chosen.plugin:
        add_plugin(file)
    seeds = parse_seeds(chosen.seeds)
    specs = [make(chosen, seed) for seed in seeds]
    if chosen.cluster != "inline":
        return submit.submit(chosen, specs, options_of(chosen), chosen.method, ("ok", "failed") if chosen.retry else ())
    if chosen.dry_run:
        for spec in specs:
            planned = {"id": spec.id, "record": str(store.path_of(chosen.out, spec)), "spec": spec.as_dict()}
            output.print_json(planned)
        return 0
    _say_what_was_not_asked(chosen, specs[0])
    return _carry_out(chosen, specs)


def _carry_out(chosen: argparse.Namespace, specs: list[Spec]) -> int:
    """Run one after the other in this process; what failed is named and the rest is run."""
    from bench.runs.execute import execute

    options = options_of(chosen)
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
            print(json.dumps(done))
        else:
            output.print_text(_result(spec, done, path, output.limit(chosen)), chosen)
    if len(records) > 1 and not failures and not chosen.json:
        output.print_text(f"\n{runs.over_seeds(records)}", chosen)
    if not chosen.quiet:
        print(runs.what_next(chosen.out), file=sys.stderr)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(specs)} seeds failed: {', '.join(map(str, failures))}")
    return 0


def _result(spec: Spec, done: dict[str, Any], path: Path, width: int | None) -> str:
    """What is printed of a run that is done."""
    from leaderboard.render.summary import summary

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


def make(chosen: argparse.Namespace, seed: int) -> Spec:
    """The specification that the command line asks for; raises UsageError."""
    from bench.spec.recipe import load_recipe
    from bench.spec.registry import method_names

    method_names(chosen.method)
    arch = model_name(chosen.arch)
    ARCHS.require(arch)
    if chosen.dataset.startswith("folder:"):
        from bench.data.loading import resolve

        chosen.dataset, chosen.data_dir = resolve(chosen.dataset, chosen.data_dir)
    else:
        DATASETS.require(chosen.dataset)
    settings = pairs(chosen.settings, "--set")
    for flag, key in ((chosen.epochs, "train.epochs"), (chosen.finetune_epochs, "finetune.epochs")):
        if flag is not None:
            settings[key] = str(flag)
    chosen.recipe = chosen.recipe or recipe_of(chosen)  # once, for all seeds
    recipe = load_recipe(chosen.recipe, settings)
    if recipe.precision == "auto" and chosen.cluster == "slurm":
        raise UsageError(
            f"recipe {recipe.name}: precision auto depends on the machine, and jobs run on another one than this: "
            "give --set precision=fp32 or bf16"
        )
    budget, options = make_budget(chosen), pairs(chosen.options, "-p")
    asked = (chosen.method, arch, chosen.dataset, recipe, budget, seed, chosen.coupling, options, chosen.device)
    planned = planned_spec(*asked) if chosen.dry_run else None
    if planned is not None:
        return planned
    from bench.runs.method_factory import make_spec

    return make_spec(*asked)


def default_recipe(dataset: str, shape: tuple[int, ...] = ()) -> str:
    """Name of the default recipe of a data set; that of a folder depends on the ``shape`` of its images."""
    if dataset.startswith("folder:"):
        return FOLDER_RECIPES[max(shape[1:]) > SMALL_SIDE]
    return RECIPE_OF.get(dataset, dataset)


def recipe_of(chosen: argparse.Namespace) -> str:
    """Name of the default recipe of the data set that is asked for."""
    if not chosen.dataset.startswith("folder:"):
        return default_recipe(chosen.dataset)
    from bench.data.loading import find
    from bench.progress import Progress

    cache = None if chosen.dry_run else chosen.out / "cache"
    found = find(chosen.dataset, chosen.data_dir, cache, Progress(chosen.dataset, chosen.quiet))
    return default_recipe(chosen.dataset, found.shape)


def make_budget(chosen: argparse.Namespace) -> Budget | None:
    """The budget that the command line asks for, None for ``--native``; raises UsageError."""
    from bench.spec.spec import Budget

    asked = {"--keep-macs": chosen.keep_macs, "--keep-params": chosen.keep_params, "--like": chosen.like}
    given = [flag for flag, value in asked.items() if value is not None] + ["--native"] * chosen.native
    if len(given) > 1:
        raise WordsError(f"{' and '.join(given)}: give one of them")
    if chosen.native:
        if chosen.ranking is not None or chosen.min_keep != 1:
            raise WordsError("--native: the method chooses by itself, without --ranking and --min-keep")
        return None
    widths = None
    if chosen.like is not None:
        try:
            like = store.load(Path(chosen.like))
        except store.RecordError as error:
            raise UsageError(f"--like: {error}") from error
        if like["status"] != "ok":
            raise UsageError(f"--like {chosen.like}: that run {like['status']}")
        widths = tuple(after for _, after in like["structure"]["widths"].values())
    keep_macs = chosen.keep_macs if given else DEFAULT_KEEP_MACS
    return Budget(keep_macs, chosen.keep_params, chosen.ranking, chosen.min_keep, widths)


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` texts as a dictionary; raises UsageError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise WordsError(f"{option} {text}: give KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def parse_seeds(text: str) -> list[int]:
    """``0``, ``0-4`` or ``1,5`` as a list; raises UsageError."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise WordsError(f"--seeds {text}: give whole numbers such as 0, 0-4 or 1,5")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise WordsError(f"--seeds {text}: no seed")
    return list(dict.fromkeys(seeds))


def add_places(parser: argparse.ArgumentParser) -> Any:
    """Add where and how, for every command that carries out runs; returns the group."""
    group = parser.add_argument_group("where and how")
    group.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file that defines methods, architectures or data sets",
    )
    group.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="records, bases, artifacts (results)"
    )
    group.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="data sets (data)")
    group.add_argument("--download", action="store_true", help="fetch data set and weights if not there")
    add_machine(group)
    output.add_formats(group)
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return group


def add_machine(parser: Any) -> None:
    """Add what a network is timed on and in."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=whole, metavar="N", help="CPU threads; runs side by side need their share")
    parser.add_argument(
        "--runtimes",
        type=lambda text: tuple(dict.fromkeys(part.strip() for part in text.split(","))),
        default=("eager",),
        metavar="NAME[,...]",
        help="what latency is measured in: eager (default), onnxruntime",
    )


def options_of(chosen: argparse.Namespace) -> Options:
    """Where and how, as :func:`add_places` asked it."""
    from bench.runs.pipeline import Options

    names = [field.name for field in dataclasses.fields(Options)]
    return Options(**{name: getattr(chosen, name) for name in names if hasattr(chosen, name)})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def whole(text: str) -> int:
    """``text`` as a whole number, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)
