"""Work in processes of their own: what they answer, and what is said where one cannot."""

import sys

import pytest

from bench.errors import SetupError
from leaderboard.reader.processes import spread

DOUBLES = """
import sys
from leaderboard.processes import answer
if __name__ == "__main__":
    answer(lambda numbers: [int(sys.argv[1]) * number for number in numbers])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "one_of_ours.py").write_text(text)
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        return "one_of_ours"

    return write


def test_answers_come_in_the_order_of_the_parts(module):
    parts = [[1, 2], [], [3.5, -1]]
    assert spread(module(DOUBLES), ["2"], parts) == [[2, 4], [], [7, -2]]
    assert spread(module(DOUBLES), ["2"], []) == []


def test_a_process_that_ends_early_is_told(module):
    with pytest.raises(SetupError, match="ended with 7; was there too little memory"):
        spread(module("raise SystemExit(7)"), [], [[1]])
