"""``bench list runs``, and what ``bench run`` says of several seeds, of runs that are done, and of what comes next."""

import json
from pathlib import Path

import pytest
from support.command_tools import answer
from support.made_records import made, put, seeds
from support.records import record
from support.terminals import on_a_terminal

from bench.cli import runs
from bench.records import store
from leaderboard.reader.frame import load
from leaderboard.render.text_table import wide
from leaderboard.stats.boards import build

SMALL = ["--arch", "two_layers", "--dataset", "tiny", "--recipe", "synthetic", "--set", "batch_size=32"]
SMALL += ["--set", "latency_batch=4", "--set", "recalibrate=2", "--keep-macs", "0.5"]


@pytest.fixture
def out(tmp_path):
    put(tmp_path / "records", *seeds("l1_norm", [10, 12, 11]), made("l1_norm", 3, status="failed", error="the reason"))
    put(tmp_path / "records", *seeds("fpgm", [9], keep=0.25, config={"share": 3}), made("dense", 0, 5, None))
    put(tmp_path / "records", made("edropout", 1, 22, None, native=True), made("random", 0, 30, kind="params"))
    return tmp_path


def test_list_runs_shows_each_record(out, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    code, text, err = answer(capsys, "list", "runs", "--out", out)
    assert (code, err) == (0, "")
    header, _, *lines = text.splitlines()
    assert header.split("  ")[0] == "id"
    assert [line.split()[1] for line in lines] == ["dense", "edropout", "fpgm", *["l1_norm"] * 4, "random"]
    assert "0.25 MACs" in lines[2] and "share=3" in lines[2] and "98.20" in lines[2]
    assert " none " in lines[0] and " native " in lines[1] and "0.5 params" in lines[7]
    assert "failed" in lines[6] and "the reason" in lines[6]
    assert all(" done " in line for line in (*lines[:6], lines[7]))


def test_list_runs_shows_steps(tmp_path, capsys):
    put(tmp_path / "records", made("l1_norm", 0), made("l1_norm", 0, step=8))
    _, text, _ = answer(capsys, "list", "runs", "--out", tmp_path)
    assert [line.partition("0.5 MACs")[2].split()[0] for line in text.splitlines()[2:]] == ["0", "step"]
    found = json.loads(answer(capsys, "list", "runs", "--out", tmp_path, "--json")[1])
    assert [row["round_to"] for row in found] == [1, 8]


def test_list_runs_shows_milliseconds(tmp_path, capsys):
    where = {"runtime": "eager", "batch": 1, "threads": 1}
    asked = [{"kind": "latency", "keep": 0.5, "step": 8}, {"kind": "ms", "keep": 1.2}]
    put(tmp_path / "records", *(made("l1_norm", 0, where=where, **each) for each in asked))
    _, text, _ = answer(capsys, "list", "runs", "--out", tmp_path)
    assert "0.5 of ms step 8" in text and "1.2 ms" in text


def test_list_runs_as_json(out, capsys):
    found = json.loads(answer(capsys, "list", "runs", "--out", out, "--json")[1])
    assert len(found) == 8
    failed = next(row for row in found if row["status"] == "failed")
    assert (failed["top1"], failed["error"], failed["seed"]) == (None, "the reason", 3)
    assert {row["top1"] for row in found if row["method"].startswith("fpgm")} == {1 - 9 / 500}


def test_list_runs_without_any_and_with_an_unreadable_one(tmp_path, out, capsys):
    empty = tmp_path / "empty"
    code, text, err = answer(capsys, "list", "runs", "--out", empty)
    assert (code, text) == (0, "")
    assert err == f"bench: no record in {empty / 'records'}; bench run makes one\n"
    assert answer(capsys, "list", "runs", "--out", empty, "--json") == (0, "[]\n", "")
    (out / "records" / "bad-s0.json").write_text("{")
    code, text, err = answer(capsys, "list", "runs", "--out", out)
    assert (code, len(text.splitlines())) == (0, 10)
    assert "bench: bad-s0.json: not JSON" in err


def test_list_runs_fits_the_terminal(out):
    code, lines = on_a_terminal(["list", "runs", "--out", out], 60)
    assert code == 0
    assert max(map(wide, lines)) <= 60
    assert {"method", "budget", "seed", "top-1", "state"} <= set(lines[0].split())


@pytest.fixture
def small(plugins, monkeypatch, capsys, tmp_path):
    def call(*words):
        return answer(capsys, "run", "-m", "l1_norm", *SMALL, "--out", tmp_path / "out", *words)

    return call


def test_several_seeds_end_with_their_mean_and_what_comes_next(small, tmp_path):
    words = ["--epochs", "1", "--finetune-epochs", "1"]
    code, text, err = small("--seeds", "0-2", *words)
    assert code == 0
    assert "sets those that were not given" not in err
    records = [store.load(path) for path in sorted((tmp_path / "out" / "records").rglob("*.json"))]
    assert text.splitlines()[-1] == runs.over_seeds(records)
    assert err.splitlines()[-1] == f"next: bench board {tmp_path / 'out' / 'records'}"
    assert runs.what_next(Path("results")) == "next: bench board"
    code, text, err = small("--seeds", "1", *words, "-q")
    assert "over" not in text
    assert err.startswith(f"bench: note: {records[1].id} was done on 20")
    assert err.endswith("; --retry runs it again\n")
    assert str(tmp_path / "out" / "records") in err


def test_mean_over_seeds_is_that_of_the_board(tmp_path):
    found = seeds("l1_norm", [10, 12, 11, 15])
    (board,), _ = build(load(put(tmp_path, *found), cache=False))
    mean = board.tables[0].rows[0].top1
    assert runs.over_seeds([*map(record, found)]) == (
        f"top-1 over 4 seeds: {mean.mean:.2f} \u00b1 {mean.half:.2f} % (mean and 95 % interval)"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--epochs", "1", "--set", "finetune.epochs=2"],
            "1 epochs of training and 2 of fine-tuning; --finetune-epochs",
        ),
        (["--finetune-epochs", "1", "--set", "train.epochs=2"], "2 epochs of training and 1 of fine-tuning; --epochs"),
    ],
)
def test_epochs_that_were_not_given_are_named(small, words, says):
    code, _, err = small(*words)
    assert code == 0
    assert says in err
    assert "sets those that were not given" in err
