"""One line of a record becomes one row."""

import os

import pytest
from support.made_records import made
from support.records import line

import leaderboard
from leaderboard.reader import extract


def test_numbers_of_every_size_are_read_as_they_were_written():
    numbers = (1e-05, -1.5e-05, 9.99e-05, 1e-06, 2.5e-300, 0.0001, 0.5, 1e15, 1e16, 1.5e22, -2.0, 7, True, None)
    config = {f"n{k}": number for k, number in enumerate(numbers)} | {"note": 'a": 1e5, "b'}
    row = dict(zip(extract.COLUMNS[1:], extract.read(line(made(config=config, method="l1l2"))), strict=True))
    assert all(f"n{k}={number}" in row["name"] for k, number in enumerate(numbers))


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0123456789ab-s0.json")
    os.mkfifo(tmp_path / "digits-net.jsonl.gz")
    told = {problem.file: problem.message for problem in leaderboard.load(tmp_path, cache=False).attrs["problems"]}
    assert told["0123456789ab-s0.json"] == "not a file"
    assert set(told) == {"0123456789ab-s0.json", "digits-net.jsonl.gz"}
