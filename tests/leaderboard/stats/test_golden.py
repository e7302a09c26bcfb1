"""One board of thirty records, to the last byte: ties, missing seeds, failed runs, two counters.

After a change that is meant: RENEW_GOLDEN=1 pytest tests/leaderboard/stats/test_golden.py, and read the difference.
"""

import os
import random
from pathlib import Path

import pytest
from support.boards import boards_of, latencies_for, plan_for
from support.made_records import made, put, seeds

from leaderboard.render.tables import FORMATS, render

GOLDEN = Path(__file__).parent / "golden"
ENDING = {"text": "txt", "latex": "tex"}
"""The committed board is JSON and Markdown; CSV is read into the rows of JSON (test_lint.py)."""
RECORDS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("uniform_thin", [21, 20, 23, 22, 20], starts_from="init", cost=0.5),
    *seeds("tie", [20, 21, 22, 20, 19], config={"share": 30.0}),
    *[made("lacking", seed, 22 + seed) for seed in (0, 1, 2, 4)],
    *[made("broken", seed, 1) for seed in (0, 1)],
    made("broken", 2, status="diverged", error="the loss of epoch 3 is not finite"),
    *[made("alone", seed, 20 + seed, counter="thop") for seed in range(3)],
)
FINISHED = [found for found in RECORDS if found["status"] == "ok" and found["spec"]["method"] != "alone"]


def table(folder, fmt, records=RECORDS):
    boards, problems = boards_of(put(folder, *records), plan_for(records), latencies_for(FINISHED))
    assert problems == []
    return render(boards, fmt)


def test_there_are_thirty():
    assert len(RECORDS) == 30


@pytest.mark.parametrize("fmt", ENDING)
def test_the_board_of_thirty_records(tmp_path, fmt):
    golden = GOLDEN / f"board.{ENDING[fmt]}"
    made_now = table(tmp_path, fmt)
    if os.environ.get("RENEW_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(made_now)
    assert made_now == golden.read_text()


@pytest.mark.parametrize("fmt", FORMATS)
def test_same_records_in_any_order_same_bytes(tmp_path, fmt):
    mixed = list(RECORDS)
    random.Random(1).shuffle(mixed)
    assert table(tmp_path, fmt, mixed) == table(tmp_path / "again", fmt)
