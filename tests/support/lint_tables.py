"""Records whose tables lint reads, and faults planted in such a table."""

import csv
import io

from support.made_records import made, seeds

METHODS = (
    *seeds("ddrop", [12, 12, 11, 13, 12]),
    *seeds("l1l2", [11, 13, 12, 12, 14], config={"share": 30}),
    *seeds("spectral", [15, 16, 17, 15], cost=2.0),
    made("spectral", 4, status="failed"),
    *seeds("dropnet", [15, 16, 17]),
    *seeds("fpgm", [15, 18, 17, 16, 14]),
)
"""Beside the controls."""
EXACT, PEOPLE = ("csv", "json"), ("text", "markdown", "latex")


def plant(text, row, key, change):
    """The text of a CSV file with one cell changed: of the row with this name, in the column ``key``."""
    lines = list(csv.reader(io.StringIO(text)))
    at = lines[0].index(key)
    (cells,) = (cells for cells in lines[1:] if cells[lines[0].index("name")] == row)
    cells[at] = str(change(float(cells[at])) if callable(change) else change)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def more(by):
    return lambda old: old + by
