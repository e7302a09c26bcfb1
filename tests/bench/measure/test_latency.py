from itertools import cycle

import pytest
import torch
from torch import nn

from bench.measure import latency, runtimes

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
def clock(monkeypatch):
    """A clock by which each call took the next of the given milliseconds (in the order of the calls)."""

    def set_to(milliseconds):
        times = cycle(milliseconds)

        def timed(call):
            call()
            return next(times)

        monkeypatch.setattr(latency, "WARMUP_S", 0.0)
        monkeypatch.setattr(latency, "_cpu_ms", timed)

    return set_to


def calls_of(runtime, *networks, shape=(1, 2, 2), batch=1):
    x = torch.rand(batch, *shape)
    layout = runtimes.place_of(runtime, CPU, "channels_last")[1]
    return [runtimes.load(runtime, network, shape, CPU, layout)(x) for network in networks]


def test_networks_take_turns_in_eval_mode(monkeypatch):
    rounds, calls = 6, []
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (rounds, rounds))
    networks = [Recorder(name, calls).train() for name in ("dense", "final")]
    samples = latency.interleaved(calls_of("eager", *networks, shape=(3, 8, 8), batch=2), CPU)
    measured = [call[0] for call in calls[-2 * rounds :]]
    assert measured == ["dense", "final", "final", "dense"] * (rounds // 2)
    assert {call[1:] for call in calls} == {((2, 3, 8, 8), torch.float32, True, False, False)}
    assert len(calls) > 2 * rounds  # warm-up
    assert samples.shape == (rounds, 2)
    assert all(sample > 0 and sample == round(sample, 6) for sample in samples.ravel())  # nanoseconds


def test_samples_belong_to_their_networks(monkeypatch):
    """A clock by which a network takes its width in milliseconds, and ten times that once."""
    monkeypatch.setattr(latency, "ROUNDS", (5, 5))
    outliers = iter([10] + [1] * 1000)
    monkeypatch.setattr(latency, "_warm_up", lambda calls, timed: 1.0)
    monkeypatch.setattr(latency, "_cpu_ms", lambda call: float(call().shape[1]) * next(outliers))
    samples = latency.interleaved(calls_of("eager", nn.Conv2d(1, 6, 1), nn.Conv2d(1, 2, 1)), CPU)
    assert samples[:, 0].tolist() == [60.0, 6.0, 6.0, 6.0, 6.0]
    assert samples[:, 1].tolist() == [2.0] * 5


@pytest.mark.parametrize(("ms", "rounds"), [(1e6, 20), (0.001, 300), (10.0, 100)])
def test_rounds_are_as_many_as_fit(clock, ms, rounds):
    """Two networks of 10 ms fit 100 times into two seconds; never below 20, never above 300."""
    clock([ms])
    layers = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    assert len(latency.interleaved(calls_of("eager", *layers), CPU)) == rounds


def test_a_quick_time_is_the_median_of_a_few_rounds(clock):
    clock([100, 100, 2, 6, 6, 2, 2, 6, 90, 90, 2, 6])  # turns: every second round begins with the final network
    layers = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    assert latency.quick(*layers, (1, 2, 2), [3], CPU) == [(3, 6.0, 2.0)]
    calls = []
    latency.quick(Recorder("dense", calls), Recorder("final", calls), (3, 8, 8), [1, 4], CPU)
    assert [call[1][0] for call in calls] == [1] * 12 + [4] * 12
    assert {call[3:] for call in calls} == {(True, False, False)}


def test_a_round_in_bursts_times_several_calls_in_a_row(monkeypatch):
    """Two that are not timed, the median of five: outliers of single calls are no samples."""
    monkeypatch.setattr(latency, "ROUNDS", (2, 2))
    monkeypatch.setattr(latency, "_warm_up", lambda calls, clock: 1.0)
    timed, order = iter([3, 9, 1, 2, 50] * 4), []
    monkeypatch.setattr(latency, "_cpu_ms", lambda call: (call(), next(timed))[1])
    samples = latency.interleaved([lambda: order.append("a"), lambda: order.append("b")], CPU, in_bursts=True)
    assert samples.tolist() == [[3, 3], [3, 3]]
    assert "".join(order) == "a" * 7 + "b" * 14 + "a" * 7


@pytest.mark.usefixtures("onnx_extra")
def test_onnxruntime_times_the_networks_it_is_given(monkeypatch):
    """A clock that takes the number of outputs for milliseconds."""
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))
    monkeypatch.setattr(latency, "_cpu_ms", lambda call: float(call()[0].shape[1]))
    calls = calls_of("onnxruntime", nn.Conv2d(1, 6, 1), nn.Conv2d(1, 2, 1), batch=5)
    assert latency.interleaved(calls, CPU).tolist() == [[6, 2]] * 3


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
