"""What the files of boards, methods and figures are called: safe in a path, and no two alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.spec.digest import digest, path_component
from leaderboard.reader.model import Board


def names(wanted: Iterable[str]) -> dict[str, str]:
    """A file name for each text: itself where it is plain, otherwise what is plain of it and a hash; no two alike."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for text in sorted(set(wanted), key=lambda text: (path_component(text).lower() != text, text)):
        plain = path_component(text).lower()
        length = 0 if plain == text and plain else 8
        name = plain
        while length or name in taken:
            length = max(length, 8)
            name = f"{plain[:60]}-{digest(text)[:length]}"
            if name not in taken:
                break
            length += 8
        found[text] = name
        taken.add(name)
    return found


def board_names(boards: Sequence[Board]) -> list[str]:
    """How each board's page is called: data set and network, with a hash where another board may have the same."""
    keys = [f"{b.key['dataset']}-{b.key['arch']}" + (f"-{digest(b.key)[:8]}" if b.differs else "") for b in boards]
    found = names(keys)
    return [found[key] for key in keys]
