"""Many networks in bursts, on a clock of known milliseconds."""

import numpy as np
import pytest
import torch
from support.quiet_machine import Simulated, always_quiet
from torch import nn

from bench.measure import bursts, latency
from bench.measure.quiet import Busy


class Network:
    """A call that takes so many milliseconds; the first after another network ten times as long."""

    last = None

    def __init__(self, ms, order):
        self.ms, self.order = ms, order

    def __call__(self):
        cold, Network.last = Network.last is not self, self
        self.order.append(self)
        return self.ms * (10 if cold else 1)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Calls return what they take; windows are one visit."""
    monkeypatch.setattr(latency, "_cpu_ms", lambda call: float(call()))
    monkeypatch.setattr(bursts, "WINDOW_S", 0.0)
    monkeypatch.setattr(bursts, "VISITS", (12, 12))


def test_a_network_has_its_own_time_in_any_company():
    """Cold first calls are not timed, every visit has another order, and a seed gives the same orders again."""
    order = []
    calls = [Network(ms, order) for ms in (1.0, 1.02, 3.0, 7.0)]
    found = bursts.burst_ms(calls, always_quiet())
    assert bursts.lower_quartile(found).tolist() == [1.0, 1.02, 3.0, 7.0]
    assert found.shape == (12, 4)
    visited = [order[k] for k in range(0, len(order), 7)]
    assert all(order[k : k + 7] == [visited[k // 7]] * 7 for k in range(0, len(order), 7))
    rounds = {tuple(calls.index(call) for call in visited[k : k + 4]) for k in range(0, len(visited), 4)}
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds) and len(rounds) > 6
    again = order.copy()
    order.clear()
    bursts.burst_ms(calls, always_quiet())
    assert order == again


def test_the_lower_quartile_of_visits_is_taken():
    assert bursts.lower_quartile(np.array([[4.0, 5.0, 90.0, 6.0, 4.0], [1, 1, 1, 9, 9]]).T).tolist() == [4.0, 1.0]


def test_a_disturbed_window_is_timed_again_and_a_busy_machine_refused():
    simulated, timed = Simulated(lambda at: 0.5 if 6 < at < 7 else 0.01), []
    found = bursts.burst_ms([lambda: timed.append(simulated.pass_time(0.02)) or 1.0], simulated.machine())
    assert found.shape == (12, 1)
    assert len(timed) > 7 * 13
    busy = Simulated(lambda at: 0.5)
    with pytest.raises(Busy, match=r"others use 0\.5 cores"):
        bursts.burst_ms([lambda: busy.pass_time(0.02) or 1.0], busy.machine(60))


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with bursts.threads_of(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
@pytest.mark.usefixtures("onnx_extra")
def test_each_network_is_loaded_as_often_as_asked(runtime, tmp_path):
    """For a batch of random images; no file is left."""
    networks = [nn.Conv2d(3, 5, 1), nn.Conv2d(3, 2, 1)]
    calls = bursts.loaded(networks, (3, 4, 4), 3, runtime, "channels_last", tmp_path, copies=2)
    outputs = [[call() if runtime == "eager" else call()[0] for call in of_network] for of_network in calls]
    assert [[tuple(output.shape[:2]) for output in each] for each in outputs] == [[(3, 5)] * 2, [(3, 2)] * 2]
    assert list(tmp_path.iterdir()) == []
