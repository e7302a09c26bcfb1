"""How pages say numbers and texts: the templates' environment and its filters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.spec.spec import place_of_ms
from leaderboard.render import board_sentences
from leaderboard.render.escaping import clean
from leaderboard.render.fields import SHARE_LETTERS, seeds_needed_text, unfinished
from leaderboard.stats.speeds import faster
from leaderboard.stats.verdicts import verdict_text

TEMPLATES = Path(__file__).parent / "templates"
MINUS = "\N{MINUS SIGN}"


def environment() -> Environment:
    """The templates with what they say numbers and texts with."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_tidy,
    )
    found.filters |= {
        "fixed": _fixed,
        "signed": lambda value: _fixed(value, 2, "+"),
        "whole": lambda value: f"{value:,}" if isinstance(value, int) else "",
        "small": lambda value: f"{value:.1e}" if value else "0",
        "plain": lambda value: f"{value:g}",
        "say": _say,
        "exact": _exact,
        "faster": faster,
        "place_of_ms": place_of_ms,
        "unfinished": unfinished,
        "short": board_sentences.short,
        "fair": lambda shares: "".join(letter if key in shares else "·" for key, letter in SHARE_LETTERS.items()),
        "ratio": lambda logarithm: f"{math.exp(-logarithm):.2f}",
        "verdict": verdict_text,
        "needed": seeds_needed_text,
        "capitalfirst": lambda text: text[:1].upper() + text[1:],
        "web": lambda url: url.startswith(("https://", "http://")),
    }
    return found


def _tidy(value: Any) -> Any:
    """Texts without control characters, and nothing for what is not there; templates mark their own HTML."""
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _fixed(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number with a real minus sign; empty where there is none, ``0.00`` never with a sign."""
    if value is None or not math.isfinite(value):
        return ""
    text = f"{value:{sign}.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def _exact(text: str) -> Markup:
    """A command as it is, every space of it; only what does not print is left out."""
    return escape("".join(sign for sign in text if sign.isprintable()))


def _say(value: Any) -> str:
    """A value of any kind in words."""
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
