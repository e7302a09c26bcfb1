"""From records to tables, pages and verdicts. Knows no torch and no method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

BOARD = Path(__file__).parent / "tables" / "board.json"
"""The board of the suite's own records."""


def load(path: Path | str, cache: bool = True) -> pd.DataFrame:
    """The records at or below ``path``, one row each; see :func:`leaderboard.reader.frame.load`."""
    from leaderboard.reader import frame  # pandas is slow to import, and most commands need none

    return frame.load(path, cache)


def load_board(path: Path | str = BOARD) -> pd.DataFrame:
    """A board that ``bench board --json`` wrote: one row for each row of a table, with the numbers of the file.

    Args:
        path: the file; by default the suite's own board.

    Returns:
        The columns of ``bench board --format csv``; a number that is not there is NaN.

    Raises:
        UsageError: there is no such file, or another kind of file or version.
    """
    from leaderboard.reader import board_frame

    return board_frame.load_board(path)
