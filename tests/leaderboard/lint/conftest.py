"""Tables of one board with all that a row can be."""

import pytest
from support.boards import CONTROLS, boards_of, latencies_for, plan_for
from support.lint_tables import METHODS
from support.made_records import put

from leaderboard.render import tables


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    folder, records = tmp_path_factory.mktemp("records"), [*CONTROLS, *METHODS]
    finished = [found for found in records if found["status"] == "ok"]
    return boards_of(put(folder, *records), plan_for(records), latencies_for(finished))[0]


@pytest.fixture(scope="module")
def texts(boards):
    return {fmt: tables.render(boards, fmt) for fmt in tables.FORMATS}
