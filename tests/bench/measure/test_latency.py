import statistics
from itertools import cycle

import pytest
import torch
from torch import nn

from bench.measure import latency

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """Notes who is called and how."""

    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        last = x.is_contiguous(memory_format=torch.channels_last)
        self.calls.append((self.name, tuple(x.shape), x.dtype, last, self.training, torch.is_grad_enabled()))
        return self.layer(x)


@pytest.fixture
def compare(monkeypatch):
    """Compare two recorders in ``rounds`` rounds; returns result and calls."""

    def run(rounds=6, batch=2):
        monkeypatch.setattr(latency, "WARMUP_S", 0.0)
        monkeypatch.setattr(latency, "ROUNDS", (rounds, rounds))
        calls = []
        dense, sliced = Recorder("dense", calls).train(), Recorder("sliced", calls).train()
        return latency.compare(dense, sliced, (3, 8, 8), [batch], CPU)[0], calls

    return run


@pytest.fixture
def clock(monkeypatch):
    """A clock that says each call took the next of the given milliseconds (in the order of the calls)."""

    def set_to(milliseconds):
        times = cycle(milliseconds)

        def timed(call):
            call()
            return next(times)

        monkeypatch.setattr(latency, "_cpu_ms", timed)

    return set_to


@pytest.mark.parametrize("rounds", [3, 6])
def test_all_samples_are_returned_and_the_medians_are_theirs(compare, rounds):
    found, _ = compare(rounds, batch=5)
    assert (found["rounds"], found["batch"]) == (rounds, 5)
    for which in ("dense", "sliced"):
        samples = found[f"{which}_samples_ms"]
        assert len(samples) == rounds
        assert all(isinstance(s, float) and s > 0 for s in samples)
        assert all(len(f"{s!r}".partition(".")[2]) <= 6 for s in samples)  # nanoseconds
        assert found[f"{which}_ms"] == pytest.approx(statistics.median(samples))
    assert found["speedup"] == pytest.approx(found["dense_ms"] / found["sliced_ms"])
    low, high = found["speedup_ci95"]
    assert low <= high
    assert (found["dtype"], found["layout"], found["runtime"]) == ("float32", "channels_last", "eager")
    assert found["threads"] == torch.get_num_threads()
    assert found["device"]


def test_networks_take_turns_in_eval_mode(compare):
    rounds = 6
    _, calls = compare(rounds)
    measured = [call[0] for call in calls[-2 * rounds :]]
    assert measured == ["dense", "sliced", "sliced", "dense"] * (rounds // 2)
    assert {call[1:] for call in calls} == {((2, 3, 8, 8), torch.float32, True, False, False)}
    assert len(calls) > 2 * rounds  # warm-up


def test_speed_up_is_the_ratio_of_medians(monkeypatch):
    """A clock by which a network takes its width in milliseconds, and ten times that once."""
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (5, 5))
    outliers = iter([10] + [1] * 1000)
    monkeypatch.setattr(latency, "_warm_up", lambda calls, timed: 1.0)
    monkeypatch.setattr(latency, "_cpu_ms", lambda call: float(call().shape[1]) * next(outliers))
    [found] = latency.compare(nn.Conv2d(1, 6, 1), nn.Conv2d(1, 2, 1), (1, 2, 2), [1], CPU)
    assert found["dense_samples_ms"] == [60.0, 6.0, 6.0, 6.0, 6.0]
    assert found["sliced_samples_ms"] == [2.0] * 5
    assert found["speedup"] == 3.0
    low, high = found["speedup_ci95"]
    assert low == 3.0
    assert 3.0 <= high <= 30.0


@pytest.mark.parametrize("ms", [0.5, 1.0, 4.0])
def test_speed_up_of_equal_times_is_one_without_width(compare, clock, ms):
    clock([ms])
    found, _ = compare(5)
    assert found["dense_samples_ms"] == found["sliced_samples_ms"] == [ms] * 5
    assert (found["speedup"], found["speedup_ci95"]) == (1.0, [1.0, 1.0])


@pytest.mark.parametrize(("ms", "rounds"), [(1e6, 20), (0.001, 300), (10.0, 100)])
def test_rounds_are_as_many_as_fit(clock, monkeypatch, ms, rounds):
    """Two networks of 10 ms fit 100 times into two seconds; never below 20, never above 300."""
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    clock([ms])
    layer = nn.Conv2d(1, 1, 1)
    [found] = latency.compare(layer, nn.Conv2d(1, 1, 1), (1, 2, 2), [1], CPU)
    assert found["rounds"] == rounds


def test_peak_memory_grows_with_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    one, four, sixteen = (latency.peak_memory_bytes(network, (3, 8, 8), batch, CPU) for batch in (1, 4, 16))
    assert one < four < sixteen


def test_peak_memory_holds_weights_and_what_the_layers_pass_on():
    """While the second layer runs, the hidden values and its output are there: 4 bytes each."""
    network, batch = nn.Sequential(nn.Linear(50, 3000), nn.Linear(3000, 2000)), 64
    weights = 4 * (50 * 3000 + 3000 + 3000 * 2000 + 2000)
    least = weights + 4 * batch * (3000 + 2000)
    assert least <= latency.peak_memory_bytes(network, (1, 1, 50), batch, CPU) <= 1.5 * least


def test_peak_memory_counts_statistics_and_falls_with_width():
    wide, narrow = (nn.Sequential(nn.Conv2d(3, w, 3), nn.BatchNorm2d(w)) for w in (64, 8))
    assert latency.peak_memory_bytes(narrow, (3, 32, 32), 4, CPU) < latency.peak_memory_bytes(wide, (3, 32, 32), 4, CPU)
