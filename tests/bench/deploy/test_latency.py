"""``bench.prune`` within a budget of milliseconds of a fake runtime."""

import pytest
import torch
from support.fake_runtime import timed_by_formula
from torch import nn

import bench
from bench.errors import UsageError
from bench.measure.quiet import Busy

EAGER = {"runtime": "eager"}


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 5)]
    return nn.Sequential(*layers)


@pytest.fixture
def timer(monkeypatch):
    return timed_by_formula(monkeypatch)


def test_milliseconds_are_met_and_said(timer, tmp_path):
    example = torch.randn(2, 3, 8, 8)
    pruned = bench.prune(network(), example, keep_latency=0.6, tables=tmp_path, **EAGER)
    again = bench.prune(network(), example, keep_latency=0.6, tables=tmp_path, **EAGER)
    assert timer.tables == ["eager"] and len(list(tmp_path.rglob("*.jsonl"))) == 1
    assert pruned.widths == again.widths and len(timer.measured) == len(pruned.cost["latency"]["rounds"])
    last = pruned.cost["latency"]["rounds"][-1]
    assert last["ms"] <= 0.6 * 1.03 * last["dense_ms"]
    assert list(last["vector"]) == [after for _, after in pruned.widths.values()]
    assert pruned.cost["asked"] == {"keep_latency": 0.6} and f"-> {last['ms']:.3f}" in pruned.summary()
    assert pruned.network(example).shape == (2, 5)
    slower = bench.prune(network(), example, latency_ms=last["ms"] * 1.2, tables=tmp_path, **EAGER)
    assert slower.cost["pruned"]["macs"] >= pruned.cost["pruned"]["macs"]


def test_progress_and_other_work_are_said(timer, tmp_path, capsys, monkeypatch):
    def busy(self, say):
        say("2 of 9 networks are timed")
        raise Busy("busy: others use 1.5 cores; end that work, or wait longer for its end with --wait SECONDS")

    monkeypatch.setattr(timer, "table", busy)
    why = r"^keep_latency=0\.7: busy: others use 1\.5 cores; end that work, and call again$"
    with pytest.raises(Busy, match=why):
        bench.prune(network(), torch.randn(2, 3, 8, 8), keep_latency=0.7, tables=tmp_path, **EAGER)
    assert capsys.readouterr().err == "bench.prune keep_latency=0.7: 2 of 9 networks are timed\n"


def test_what_cannot_be(timer, tmp_path):
    example = torch.randn(2, 3, 8, 8)
    for asked, why in (
        ({"keep_latency": 0.6, "keep_macs": 0.5}, "^one budget, not two: keep_macs=0.5 and keep_latency=0.6$"),
        ({"keep_latency": 1.5}, "^keep_latency=1.5: above 0 and at most 1$"),
        ({"latency_ms": 0}, "^latency_ms=0: above 0$"),
        ({"latency_ms": 50.0}, r"^latency_ms=50\.0: the dense network takes \d\.\d\d ms already$"),
        (
            {"keep_latency": 0.01},
            r"^keep_latency=0\.01: cannot be met in eager at batch 1: .*; use coupling=.* or units=\"both\"$",
        ),
    ):
        with pytest.raises(UsageError, match=why):
            bench.prune(network(), example, tables=tmp_path, **asked, **EAGER)
    pruned = bench.prune(network(), example, keep_macs=0.5)
    with pytest.raises(UsageError, match=r"^keep_latency=0\.6: the network is pruned already"):
        bench.prune(pruned, example, keep_latency=0.6, **EAGER)
