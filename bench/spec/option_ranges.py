"""Ranges of a method's options, as its ``Config`` declares them."""

from __future__ import annotations

import re
from typing import Any

INTERVAL = re.compile(r"([\[(])([^,]+), ([^,]+)([\])])")


def require_ranges(config: Any, **ranges: str) -> None:
    """Raise ValueError, in one line with the value and the range, where an option is outside of its range.

    Args:
        config: a dataclass of options; what is None is not given, and in its range.
        ranges: option -> its interval, such as ``[0, 1)``: a square bracket where the end is in it, a round one where
            it is not, ``inf`` where there is none.
    """
    for name, text in ranges.items():
        found = INTERVAL.fullmatch(text)
        if not found:
            raise ValueError(f"range {text} of {name}: an interval such as [0, 1) or (0, inf)")
        first, low, high, last = found.groups()
        value = getattr(config, name)
        above = value is None or (value >= float(low) if first == "[" else value > float(low))
        below = value is None or (value <= float(high) if last == "]" else value < float(high))
        if not (above and below):
            raise ValueError(f"{name} {value}: {_words(first, low, high, last)}")


def _words(first: str, low: str, high: str, last: str) -> str:
    """An interval in words."""
    if high == "inf":
        return f"{low} or more" if first == "[" else f"above {low}"
    if (first, last) == ("[", "]"):
        return f"from {low} to {high}"
    return f"{'at least' if first == '[' else 'above'} {low} and {'at most' if last == ']' else 'below'} {high}"
