"""The command line: ``python -m bench COMMAND``. Data on stdout, messages on stderr.

Exit codes: 0 done and good; 1 something ran and failed; 2 usage; 3 this machine cannot do it; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from bench import __version__
from bench.errors import BenchError, UsageError
from bench.registry import unknown


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line and near matches for mistyped commands."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            noun = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if noun == "command" else action,
                str(unknown(noun, str(value), map(str, action.choices))),
            )


def parser() -> Parser:
    """The whole command line. Builds without importing torch."""
    from bench.cli import board, check, export, jobs, lint, listing, measure, new, page, reproduce, run, show, sweep

    top = Parser(prog="bench", description="Train, prune, slice and measure networks, and leave a record of it.")
    top.add_argument("--version", action="version", version=f"bench {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for part in (run, sweep, jobs, listing, show, board, lint, measure, export, reproduce, check, new, page):
        part.add_to(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        chosen = parser().parse_args(arguments)
        return int(chosen.function(chosen))
    except UsageError as error:
        return _fail(error, "usage")
    except BenchError as error:
        return _fail(error, "error")
    except KeyboardInterrupt:
        print("bench: interrupted; the same command goes on from the last epoch", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(error: BenchError, kind: str) -> int:
    if os.environ.get("BENCH_DEBUG"):
        raise error
    print(f"bench: {kind}: {error}", file=sys.stderr)
    return error.exit_code
