"""The committed tables are what the committed records say; ``leaderboard/make`` writes them again."""

import hashlib

import pytest
from support.html_pages import broken_links
from support.paths import ROOT

import leaderboard
from bench.cli import main
from bench.cli.board import read_plans
from leaderboard.lint.check import check
from leaderboard.reader.latency_files import load as latencies_in
from leaderboard.render.tables import ENDINGS, render
from leaderboard.stats.boards import build

BOARD = ROOT / "leaderboard"
TABLES = [BOARD / "tables" / f"board.{ending}" for ending in ("json", "md")]


@pytest.fixture(scope="module")
def frame():
    return leaderboard.load(BOARD / "records", cache=False)


@pytest.fixture(scope="module")
def built(frame):
    return build(frame, read_plans([BOARD / "plans/digits-resnet20.toml"]), latencies_in(BOARD / "latency"))


@pytest.fixture(scope="module")
def boards(built):
    return built[0]


def test_every_record_is_taken(frame, built):
    assert [*frame.attrs["problems"], *built[1], *latencies_in(BOARD / "latency").problems] == []
    plan = hashlib.sha256((BOARD / "plans/digits-resnet20.toml").read_bytes()).hexdigest()
    assert set(frame["plan_sha256"]) == {plan}
    (asked,) = read_plans([BOARD / "plans/digits-resnet20.toml"])
    assert sum(map(len, asked.seeds.values())) == len(frame)
    assert (frame["status"] != "interrupted").all()


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_tables_are_those_of_the_records(file, boards):
    assert file.read_text() == render(boards, ENDINGS[file.suffix])


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_tables_are_clean(file, boards):
    assert check(file) == []
    assert check(file, boards) == []


@pytest.mark.slow
def test_pages_of_the_records_are_whole(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records").symlink_to(BOARD / "records")
    assert main(["board", "records", "--no-cache", "--site", "site"]) == 0
    assert len(list((tmp_path / "site" / "records").iterdir())) == len(frame)
    assert broken_links(tmp_path / "site") == []
