"""A board that was written as JSON, as a frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from leaderboard.render.exact_tables import KIND, SCHEMA

if TYPE_CHECKING:
    import pandas as pd


def load_board(path: Path | str) -> pd.DataFrame:
    """See :func:`leaderboard.load_board`."""
    import pandas as pd  # slow, and the tables need none

    boards = _boards(Path(path))
    return pd.DataFrame.from_records(
        [
            {"table": number}
            | {f"board_{name}": value for name, value in board["key"].items()}
            | {"budget_kind": table["kind"], "budget_keep": table["keep"]}
            | {name: value for name, value in row.items() if name != "runs"}
            for number, (board, table) in enumerate(((b, table) for b in boards for table in b["tables"]), 1)
            for row in table["rows"]
        ]
    )


def _boards(path: Path) -> list[dict[str, Any]]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"load_board {path}: {error.strerror}; bench board PATH --json > FILE writes one") from error
    except ValueError as error:
        raise UsageError(f"load_board {path}: not JSON: {error}; give what bench board --json printed") from error
    if not isinstance(written, dict) or written.get("kind") != KIND:
        raise UsageError(f"load_board {path}: no board; give what bench board --json printed")
    if written.get("schema") != SCHEMA:
        raise UsageError(
            f"load_board {path}: its form is {written.get('schema')}, this version reads {SCHEMA}; write it again"
        )
    boards: list[dict[str, Any]] = written["boards"]
    return boards
