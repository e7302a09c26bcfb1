"""Both ways of reading a record say the same: the quick one and the careful one."""

import json
import os

import pytest
from support.made_records import made, put

from bench.records import store
from leaderboard.reader import extract

FORMS = {"as made": store.to_text, "in one line": json.dumps, "wide": lambda found: json.dumps(found, indent=4)}


@pytest.mark.parametrize("form", FORMS)
def test_spaces_and_order_do_not_matter(tmp_path, form):
    found = made(config={"strength": 1e-05, "big": 1e22, "note": 'a": 1e5, "b'}, method="l1l2")
    path = tmp_path / f"{found['id']}.json"
    path.write_text(FORMS[form](found))
    assert extract._as_written(path) in (None, store.load(path))
    assert extract.read(path) == extract.read(put(tmp_path / "plain", found) / "l1l2" / path.name)


def test_the_quick_way_takes_what_the_suite_writes(tmp_path):
    numbers = (1e-05, -1.5e-05, 9.99e-05, 1e-06, 2.5e-300, 0.0001, 0.5, 1e15, 1e16, 1.5e22, -2.0)
    put(tmp_path, made(config={f"n{k}": number for k, number in enumerate(numbers)}, method="l1l2"))
    (file,) = tmp_path.rglob("*.json")
    assert extract._as_written(file) == store.load(file)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0123456789ab-s0.json")
    assert extract.read(tmp_path / "0123456789ab-s0.json") == "not a file"
