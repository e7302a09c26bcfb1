"""From records to tables, pages and verdicts. Knows no torch and no method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(path: Path | str, cache: bool = True) -> pd.DataFrame:
    """The records at or below ``path``, one row each; see :func:`leaderboard.reader.frame.load`."""
    from leaderboard.reader import frame  # pandas is slow to import, and most commands need none

    return frame.load(path, cache)
