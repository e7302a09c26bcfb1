"""Texts of records, which may be hostile, as each format shows them: no commands, no cell ends, nothing hidden."""

from __future__ import annotations

import functools
import re
import unicodedata

from tabulate import LATEX_ESCAPE_RULES

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")
MARKDOWN_MARKS = re.compile(r"[\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.")
HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


@functools.lru_cache(maxsize=65536)
def clean(text: str) -> str:
    """One line without escape codes, control, format (direction of text) and unassigned characters."""
    if text.isascii() and text.isprintable():  # nearly always
        return " ".join(text.split())
    text = ANSI.sub("", text)
    return " ".join("".join(" " if c.isspace() else c for c in text if c.isspace() or _harmless(c)).split())


def _harmless(character: str) -> bool:
    return (character.isascii() and character.isprintable()) or unicodedata.category(character)[0] != "C"


@functools.lru_cache(maxsize=65536)
def markdown(text: str) -> str:
    """The text as Markdown shows it: no HTML, no links, no code, no cell ends."""
    return MARKDOWN_MARKS.sub(r"\\\g<0>", "".join(HTML.get(c, c) for c in clean(text)))


@functools.lru_cache(maxsize=65536)
def latex(text: str) -> str:
    """The text as LaTeX sets it: no commands, no comments, no mathematics."""
    return "".join(LATEX_ESCAPE_RULES.get(c, c) for c in clean(text))


def spreadsheet(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    text = clean(text)
    return f"'{text}" if FORMULA.match(text) else text
