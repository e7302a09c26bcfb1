"""Errors for unknown names, with the known names that are near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bench.errors import WordsError

SYNONYMS = {"magnitude": ("l1_norm", "l2_norm"), "gradient": ("taylor",), "activation": ("act_mean", "apoz")}
"""What methods are called elsewhere."""
NEAR = 4
"""Most names that are offered for an unknown one."""


def unknown(noun: str, name: str, known: Iterable[str], hint: str = "") -> WordsError:
    """The error for a name that is not known.

    Args:
        noun: what it names.
        name: as it was given.
        known: names that there are.
        hint: what to say in place of near matches, or of all that is known.
    """
    names = sorted(known)  # which may be an iterator
    near = near_matches(name, names)
    hint = hint or (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}")
    return WordsError(f"unknown {noun} '{name}': {hint}")


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """Known names that a mistyped one may mean, whatever the case of its letters, the nearest first."""
    names: dict[str, str] = {text.lower(): text for text in sorted(known)}
    asked = name.lower()
    if asked in names:
        return [names[asked]]
    also = [text for text in SYNONYMS.get(asked, ()) if text in names]
    close = difflib.get_close_matches(asked, names, n=NEAR, cutoff=0.5)
    begin = [text for text in names if len(asked) > 1 and text.startswith(asked)]
    inside = [text for text in names if len(asked) > 2 and asked in text]
    return [names[text] for text in dict.fromkeys([*also, *close, *begin, *inside])][:NEAR]
