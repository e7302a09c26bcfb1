"""Options that several commands have, each defined once, and what they make: requests and run options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.runs.resolve import DEFAULT_KEEP_MACS
from bench.spec.request import RunOptions, RunRequest
from bench.spec.spec import UNITS, WIDTH

SEEDS = "N[-M][,...]"


def add_request(parser: argparse.ArgumentParser) -> None:
    """Add what to run: the fields of a :class:`bench.spec.request.RunRequest`."""
    what = parser.add_argument_group("what to run")
    what.add_argument("-m", "--method", required=True, metavar="NAME[+NAME]", help="see: bench list methods")
    what.add_argument("-a", "--arch", required=True, metavar="NAME", help="see: bench list archs")
    what.add_argument("-d", "--dataset", default="digits", metavar="NAME|folder:PATH[@SIZE]", help="default: digits")
    what.add_argument("--recipe", metavar="NAME|FILE", help="default: the data set's")
    what.add_argument("--seeds", "--seed", default="0", metavar=SEEDS, help="such as 0, 0-4 or 1,5 (default 0)")
    add_budget(parser)
    add_settings(parser)


def add_budget(parser: argparse.ArgumentParser, steps: str = "1") -> None:
    """Add how much stays, and of what; ``steps`` says which ``--round-to`` is the command's default."""
    budget = parser.add_argument_group("budget")
    budget.add_argument("--keep-macs", type=_number, metavar="SHARE", help=f"default {DEFAULT_KEEP_MACS}")
    budget.add_argument("--keep-params", type=_number, metavar="SHARE", help="instead of --keep-macs")
    budget.add_argument(
        "--keep-latency", type=_number, metavar="SHARE", help="instead: of the dense network's milliseconds"
    )
    budget.add_argument("--latency-ms", type=_number, metavar="MS", help="instead: milliseconds of an inference")
    budget.add_argument(
        "--like", metavar="RECORD", help="instead: as many units in each site as this record's network kept"
    )
    budget.add_argument("--native", action="store_true", help="instead: the method chooses, as its paper does")
    budget.add_argument("--ranking", metavar="global|layer", help="default: the method's own")
    budget.add_argument("--min-keep", type=whole, default=1, metavar="N", help="units that stay in every site (1)")
    budget.add_argument(
        "--round-to", type=whole, default=1, metavar="N", help=f"each width a multiple of N channels, or full ({steps})"
    )
    add_coupling(budget, "full also prunes residual streams")
    add_units(budget, "what is pruned: channels (width), blocks (depth) or both")
    budget.add_argument(
        "--keep-blocks", type=_number, metavar="SHARE", help="with --units both: of the blocks, whatever they cost"
    )
    budget.add_argument("--min-blocks", type=whole, metavar="N", help="blocks that stay in every site of blocks (1)")
    where = parser.add_argument_group("where milliseconds hold")
    runtime = RunRequest.runtime
    where.add_argument("--runtime", default=runtime, metavar="NAME", help=f"program that infers ({runtime})")
    where.add_argument("--batch", type=whole, default=1, metavar="N", help="images of an inference (1)")
    where.add_argument("--runtime-threads", type=whole, default=1, metavar="N", help="its CPU threads (1)")
    add_latency_table(where)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add options of the method, and values of the recipe."""
    change = parser.add_argument_group("settings")
    _add_repeated(change, "-p", dest="options", metavar="KEY=VALUE", help="method option")
    _add_repeated(change, "--set", dest="settings", metavar="KEY=VALUE", help="recipe value, such as train.epochs=5")
    change.add_argument("--epochs", type=whole, metavar="N", help="short for --set train.epochs=N")
    change.add_argument("--finetune-epochs", type=whole, metavar="N", help="short for --set finetune.epochs=N")


def add_latency_table(parser: Any) -> None:
    """Add ``--latency-table``."""
    parser.add_argument(
        "--latency-table", metavar="FILE", help="table of milliseconds; default: the one in --out, or a new one"
    )


def add_options(parser: argparse.ArgumentParser) -> Any:
    """Add where and how, the fields of :class:`bench.spec.request.RunOptions` but ``retry``; returns the group."""
    group = parser.add_argument_group("where and how")
    add_plugin(group)
    add_places(group, "records, bases, artifacts")
    group.add_argument("--download", action="store_true", help="fetch data set and weights if not there")
    add_machine(group)
    add_formats(group)
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return group


def add_plugin(parser: Any) -> None:
    """Add ``--plugin``."""
    _add_repeated(
        parser, "--plugin", metavar="FILE", help="Python file that defines methods, architectures or data sets"
    )


def add_out(parser: Any, what: str) -> None:
    """Add ``--out``, the folder where ``what`` is."""
    default = RunOptions.out
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help=f"{what} ({default})")


def add_data_dir(parser: Any, what: str = "data sets") -> None:
    """Add ``--data-dir``, the folder of ``what``."""
    default = RunOptions.data_dir
    parser.add_argument("--data-dir", type=Path, default=default, metavar="DIR", help=f"{what} ({default})")


def add_places(parser: Any, what: str, data: str = "data sets") -> None:
    """Add ``--out`` and ``--data-dir``."""
    add_out(parser, what)
    add_data_dir(parser, data)


def add_machine(parser: Any) -> None:
    """Add ``--device`` and ``--threads``."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=whole, metavar="N", help="CPU threads; runs side by side need their share")


def add_coupling(parser: Any, what: str) -> None:
    """Add ``--coupling``."""
    parser.add_argument("--coupling", choices=("inner", "full"), default="inner", help=what)


def add_units(parser: Any, what: str) -> None:
    """Add ``--units``."""
    parser.add_argument("--units", choices=UNITS, default=WIDTH, help=what)


def add_json(parser: Any, what: str = "JSON instead of tables") -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def add_formats(parser: Any, what: str = "JSON instead of tables") -> None:
    """Add ``--json`` and ``--wide``."""
    add_json(parser, what)
    parser.add_argument(
        "--wide", "-v", action="store_true", help="all columns of a table, also where the terminal is too narrow"
    )


def whole(text: str) -> int:
    """``text`` as a whole number, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def _add_repeated(parser: Any, flag: str, **named: Any) -> None:
    parser.add_argument(flag, action="append", default=[], **named)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers that are separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers, such as 0.485,0.456,0.406") from None
