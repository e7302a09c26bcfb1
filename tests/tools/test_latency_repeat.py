"""The script that asks whether latencies can be believed, with invented samples."""

import json
import sys

import pytest
from support.quiet_machine import always_quiet
from support.timed_shapes import Clock, made

from bench.records import store
from bench.runs import latency_pass
from tools.timing import latency_repeat


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """Its exit code and output, for records of six shapes."""
    for kept in range(1, 7):
        (tmp_path / f"{kept}").mkdir()
        (tmp_path / f"{kept}" / f"{made(kept).id}.json").write_bytes(store.encode(made(kept)))
    monkeypatch.setattr(latency_repeat, "Machine", always_quiet)
    monkeypatch.setattr(latency_repeat, "HOW", latency_pass.How(("eager",), (1, 64), 1, "cpu"))

    def run(clock, *words):
        monkeypatch.setattr(latency_pass, "in_new_process", clock)
        monkeypatch.setattr(sys, "argv", ["latency_repeat", str(tmp_path), *map(str, words)])
        return latency_repeat.main(), capsys.readouterr().out

    return run


def test_equal_networks_and_equal_days(script, tmp_path):
    code, out = script(Clock(), "--pairs", 10, "--again", 3, "--out", tmp_path / "day")
    assert code == 0
    assert "10 pairs of equal networks: 0 called different" in out
    assert "measured twice today: 3 speed-ups, " in out
    assert ", 0 above 3 %" in out
    day = json.loads((tmp_path / "day").read_text())
    assert len(day) == 3
    (tmp_path / "day").write_text(json.dumps({name: 1.05 * value for name, value in day.items()}))
    code, out = script(Clock(), "--pairs", 2, "--again", 3, "--before", tmp_path / "day")
    assert code == 1
    assert "another day and today: 3 speed-ups, " in out
    assert ", 3 above 3 %" in out


def test_networks_that_seem_different(script):
    class Biased(Clock):
        def __call__(self, work):
            for window in super().__call__(work):
                window.samples.dense_ns[:] = [round(1.1 * ns) for ns in window.samples.dense_ns]
                yield window

    code, out = script(Biased(), "--pairs", 4, "--again", 1)
    assert code == 1
    assert "4 pairs of equal networks: 4 called different" in out
