"""``bench page``: what a method's source says of it."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli import arguments, output


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("page", help="print what a method's source says of it, as Markdown")
    p.set_defaults(function=run)
    p.add_argument("name", metavar="NAME[,NAME]", help="a method, or several that share one block")
    arguments.add_plugin(p)
    arguments.add_json(p, "JSON: the block")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    from bench.cli import method_page

    block = method_page.marked(name.strip() for name in chosen.name.split(","))
    if chosen.json:
        output.print_json({"block": block})
    else:
        output.print_data(f"{block}\n")
    return 0
