"""The command line: ``python -m bench COMMAND``, or ``bench COMMAND``. Data on stdout, messages on stderr.

Exit codes: 0 done and good; 1 something ran and failed; 2 usage; 3 this machine cannot do it; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bench import __version__
from bench.cli.announce import announced
from bench.cli.output import survive_ascii
from bench.errors import BenchError, SetupError, WordsError
from bench.spec.near_names import near_matches, unknown
from bench.spec.registry import add_plugin

PROGRAM = "bench"
RESUMED = dict.fromkeys(("run", "sweep", "reproduce", "prune"), "resumes after the last epoch") | {
    "latency": "measures what is missing"
}
"""What a command that was interrupted does when it is given again."""
EXAMPLES = """\
examples:
  bench list methods
  bench run --method l1_norm --arch resnet20 --keep-macs 0.3 --seeds 0-4
  bench list runs
  bench board
  bench COMMAND --help
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line and near matches for mistyped commands and options."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**({"formatter_class": argparse.RawDescriptionHelpFormatter} | named))

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{PROGRAM}: usage: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is left over here, where the help of the command can be named, not in the whole program."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            options = [text[2:] for action in self._actions for text in action.option_strings if text[:2] == "--"]
            near = near_matches(left[0].strip("-").partition("=")[0], options) if left[0].startswith("--") else []
            hint = f": did you mean {' or '.join(f'--{name}' for name in near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        return found, left

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse ``--name=--``: argparse takes ``--`` for the end of the options, and would give an empty list."""
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            noun = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(
                None if noun == "command" else action,
                str(unknown(noun, str(value), map(str, action.choices))),
            )


def parser() -> Parser:
    """The whole command line. Builds without importing torch."""
    from bench.cli import (
        board,
        check,
        export,
        latency,
        lint,
        list_,
        new,
        page,
        prune,
        reproduce,
        run,
        score,
        show,
        status,
        sweep,
    )

    text = "Train, prune, slice and measure networks, and leave a record of it."
    top = Parser(prog=PROGRAM, description=text, epilog=EXAMPLES)
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for part in (
        run,
        prune,
        sweep,
        status,
        list_,
        show,
        board,
        lint,
        latency,
        export,
        score,
        reproduce,
        check,
        new,
        page,
    ):
        part.add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    survive_ascii()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        parser().print_help(sys.stderr)
        return WordsError.exit_code
    chosen = None
    try:
        chosen = parser().parse_args(words)
        with announced(quiet=getattr(chosen, "quiet", False)):
            for file in getattr(chosen, "plugin", ()):
                add_plugin(file)
            return int(chosen.function(chosen))
    except BenchError as error:
        if os.environ.get("BENCH_DEBUG"):
            raise
        kind = "usage" if isinstance(error, WordsError) else "error"
        print(f"{PROGRAM}: {kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        again = f"; the same command {RESUMED[chosen.command]}" if chosen and chosen.command in RESUMED else ""
        print(f"{PROGRAM}: interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a name that is too long, where no command looked for it
        if os.environ.get("BENCH_DEBUG"):
            raise
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return SetupError.exit_code
