"""``bench measure --int8``: what is compared, timed, printed and refused; the clock is not real."""

import json

import numpy as np
import pytest
from support.command_tools import answer
from support.quiet_machine import always_quiet

from bench.errors import RunFailed
from bench.measure import bursts, int8, quiet
from bench.measure.quiet import Busy
from bench.runs import int8_check

pytestmark = pytest.mark.usefixtures("onnx_extra")


@pytest.fixture
def ran(finished):
    """Two finished runs of one cell, and the folder they are in."""
    found = [finished(method, "two_layers", "tiny8", train__lr=0.05, seed=seed) for method, seed in CELL]
    return [done for _, done, _ in found], found[0][2]


CELL = (("random", 0), ("l1_norm", 0))


@pytest.fixture
def clock(monkeypatch):
    """A machine that is quiet, on which the files of a list take 1, 2, 3 ... milliseconds."""
    asked = []
    monkeypatch.setattr(quiet, "Machine", lambda wait_s, say: always_quiet(wait_s))
    monkeypatch.setattr(
        bursts, "burst_ms", lambda calls, machine: asked.append(len(calls)) or 1 + np.arange(len(calls))[None, :] * 1.0
    )
    return asked


def measure(capsys, ran, *words):
    done, options = ran
    ids = [record.id for record in done]
    return answer(capsys, "measure", *ids, "--int8", "--out", options.out, "--data-dir", options.data_dir, *words)


def test_both_are_evaluated_timed_and_compared(capsys, ran, clock):
    code, text, _ = measure(capsys, ran, "--json")
    assert code == 0
    rows = json.loads(text)
    assert [row["id"] for row in rows] == [record.id for record in ran[0]]
    for row, record in zip(rows, ran[0], strict=True):
        assert row["top1"] == pytest.approx(record.metrics.final.top1)
        assert 0 <= row["int8_top1"] <= 1
        assert 0.5 <= row["equal"] <= 1
        assert (row["convolutions"], row["int8_convolutions"]) == (1, 1)
    # one shape, then the dense one
    assert clock == [4]
    assert {(row["ms"], row["int8_ms"], row["dense_ms"], row["dense_int8_ms"]) for row in rows} == {(1, 2, 3, 4)}
    code, text, _ = measure(capsys, ran)
    assert code == 0
    assert text.count("3.00x") == text.count("2.00x") == 2
    assert "of 2 methods lose more than 0.5 points of top-1 in int8" in text
    assert "dense: 3.000 ms, 4.000 in int8" in text
    assert "2 runs slower in int8 than in float32" in text


@pytest.mark.parametrize("words", [["--batch", "2"], ["--runtimes", "onnxruntime"], ["--bursts"]])
def test_other_words_on_timing_are_refused(capsys, ran, words):
    code, _, err = measure(capsys, ran, *words)
    assert code == 2 and "measure --int8: in bursts in onnxruntime at batch 1" in err


def test_a_busy_machine_costs_the_milliseconds_only(capsys, ran, clock, monkeypatch):
    def busy(calls, machine):
        raise Busy("busy: others use 0.8 cores")

    monkeypatch.setattr(bursts, "burst_ms", busy)
    code, text, err = measure(capsys, ran)
    assert code == 3
    assert "bench: note: no milliseconds: busy: others use 0.8 cores" in err
    assert "random" in text and " ms" not in text.splitlines()[-1]


def test_runs_of_two_cells_and_what_cannot_be_quantized(capsys, ran, clock, finished, monkeypatch):
    other = finished("random", "two_layers", "tiny8", train__lr=0.05, keep=0.8)[1]
    code, _, err = measure(capsys, ([*ran[0], other], ran[1]))
    assert code == 2
    assert "measure --int8 compares runs of one data set, network and budget" in err

    def refuse(*given):
        raise RunFailed("no int8: of a reason")

    monkeypatch.setattr(int8, "quantized", refuse)
    code, text, err = measure(capsys, ran)
    assert (code, text) == (1, "")
    assert err.count("no int8: of a reason") == 2
    assert int8_check.SEED == 0


def test_a_folder_is_all_of_its_finished_runs_of_a_budget(capsys, ran, finished, clock):
    done, options = ran
    _, other, _ = finished("random", "two_layers", "tiny8", train__lr=0.05, keep=0.8)
    places = ("--out", options.out, "--data-dir", options.data_dir)
    folder = options.out / "records"
    code, text, _ = answer(capsys, "measure", folder, "--keep", "0.5", "--int8", "--json", *places)
    assert code == 0
    assert {row["id"] for row in json.loads(text)} == {record.id for record in done}
    code, _, err = answer(capsys, "measure", folder, "--int8", *places)
    assert code == 2 and "measure --int8 compares runs of one data set, network and budget: there are " in err
    code, _, err = answer(capsys, "measure", folder, "--keep", "0.3", "--int8", *places)
    assert code == 2 and err.endswith("records: no finished run with the budget 0.3\n")
    assert other.id not in text
