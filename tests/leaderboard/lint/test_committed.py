"""The committed board is what the committed records say, in tables and pages; made anew with the commands of
leaderboard/records/README.md."""

import filecmp
import tempfile
from pathlib import Path

import pytest
from support.paths import ROOT

import leaderboard
from bench.cli import main
from leaderboard.lint import check
from leaderboard.render.tables import ENDINGS, render
from leaderboard.stats.boards import build

BOARD = ROOT / "leaderboard"
TABLES = sorted((BOARD / "tables").iterdir())


@pytest.fixture(scope="module")
def frame():
    return leaderboard.load(BOARD / "records", cache=False)


def test_every_record_is_taken(frame):
    assert frame.attrs["problems"] == ()
    assert build(frame)[1] == []
    assert (frame["status"] != "interrupted").all()


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_tables_are_those_of_the_records(file, frame):
    assert file.read_text() == render(build(frame)[0], ENDINGS[file.suffix])


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.name)
def test_tables_are_clean(file, frame):
    assert check.check(file, frame) == []


@pytest.mark.slow
def test_pages_are_those_of_the_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    with tempfile.TemporaryDirectory(dir=BOARD, prefix=".site-") as folder:  # links to records depend on the place
        words = ["leaderboard/records", "--verified", "leaderboard/verified.json", "--no-cache"]
        assert main(["board", *words, "--site", folder]) == 0
        pages = sorted(page.relative_to(BOARD / "site").as_posix() for page in (BOARD / "site").rglob("*.html"))
        assert pages == sorted(page.relative_to(folder).as_posix() for page in Path(folder).rglob("*.html"))
        same, other, _ = filecmp.cmpfiles(BOARD / "site", folder, pages, shallow=False)
        assert (len(same), other) == (len(pages), [])
