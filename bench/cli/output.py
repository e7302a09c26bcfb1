"""What commands print: tables and sentences within the terminal's width, JSON, and data as they are.

A terminal gets no line that is longer than itself: a table leaves out the columns that matter least and wraps its
texts; ``--wide`` shows all. What is not a terminal gets everything, each row on a line of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from leaderboard.render.text_table import Column, sentences, table

CONTINUED = " \\"
"""Ends a line of a command that continues on the next."""
__all__ = [
    *("Column", "folded", "limit", "mean_text", "number_text", "p_text"),
    *("print_command", "print_data", "print_json", "print_table", "print_text", "survive_ascii"),
]


def terminal_width() -> int | None:
    """Characters in a line of the terminal, or what ``COLUMNS`` says; None: no limit, stdout is no terminal."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def limit(chosen: argparse.Namespace) -> int | None:
    """The width that tables of this command have to keep; None: any."""
    return None if getattr(chosen, "wide", False) else terminal_width()


def print_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    """Print rows (header -> cell) under their headers."""
    print(table(columns, rows, limit(chosen)))


def print_text(text: str, chosen: argparse.Namespace) -> None:
    """Print lines of text, each folded to the terminal's width."""
    print(sentences(text, limit(chosen)), flush=True)


def print_command(text: str, chosen: argparse.Namespace, lead: str = "") -> None:
    """Print a command for a shell after ``lead``; one that is too wide over several lines that a shell joins."""
    width, words = limit(chosen), shlex.split(text)
    if width is None or len(lead) + len(text) <= width or shlex.join(words) != text:
        print(lead + text, flush=True)
        return
    lines: list[str] = []
    for word in map(shlex.quote, words):
        if lines and len(f"{lines[-1]} {word}{CONTINUED}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    print("\n".join([*([lead.rstrip()] if lead else []), f"{CONTINUED}\n".join(lines)]), flush=True)


@contextmanager
def folded(chosen: argparse.Namespace) -> Iterator[None]:
    """Within the block, whatever is printed is folded to the terminal's width at its end."""
    width = limit(chosen)
    if width is None:
        yield
        return
    with redirect_stdout(io.StringIO()) as text:
        yield
    print(sentences(text.getvalue(), width), end="", flush=True)


def print_json(value: Any) -> None:
    """A document for a machine, of ASCII characters only."""
    print(json.dumps(value, indent=1))


def print_data(text: str) -> None:
    """A text as it is, in UTF-8 whatever the terminal can show: it may be the content of a file."""
    if (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", ""):
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def mean_text(mean: float, half: float | None, sign: str = "") -> str:
    """A mean of two decimals, with half the width of its interval where it is known; ``sign`` ``+`` shows its sign."""
    return f"{mean:{sign}.2f}" + ("" if half is None else f" ± {half:.2f}")


def p_text(p: float | None) -> str:
    """A p-value; empty where there is none."""
    return "" if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"


def number_text(value: float | None) -> str:
    """A whole number with commas, another one with two decimals; empty where there is none."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def survive_ascii() -> None:
    """Question marks for what stdout and stderr cannot encode, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a stream that a test put there may have none
        if reconfigure is not None:
            reconfigure(errors="replace")
