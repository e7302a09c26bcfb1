"""Which step of channels pays in a runtime of known milliseconds."""

import json

import numpy as np
import pytest
from support.command_tools import answer
from support.networks import SHAPE
from support.quiet_machine import always_quiet
from torch import nn

from bench.conformance.tiny_networks import conv, head
from bench.measure import bursts, quiet
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.runs.width_steps import DENSE_COPIES, best, steps_of

LAYERS = [conv(3, 32), nn.ReLU(), conv(32, 24), nn.ReLU(), conv(24, 24), nn.ReLU(), conv(24, 6), nn.ReLU(), *head(6)]


@pytest.fixture
def runtime(monkeypatch):
    """A runtime in which convolutions take what a function says of their widths, loaded copies 0.1 % more or less."""

    def set_to(ms):
        copies = iter(np.tile([1.0, 1.001, 0.999], 100))
        asked = []

        def loaded(networks, *how):
            asked.append(how)
            return [[sum(map(ms, (m.out_channels for m in n.modules() if isinstance(m, nn.Conv2d))))] for n in networks]

        monkeypatch.setattr(bursts, "loaded", loaded)
        monkeypatch.setattr(bursts, "burst_ms", lambda calls, machine: np.array([[c * next(copies) for c in calls]]))
        return asked

    return set_to


def found():
    network = nn.Sequential(*LAYERS).eval()
    sites = find_sites(network, SHAPE)
    return network, sites, CostModel(network, sites, SHAPE)


def test_a_staircase_of_8_is_found(runtime):
    """Channels in groups of 8 but up to 8, where each counts; 6 units are narrowed by 4 at most."""
    asked = runtime(lambda width: 10 * -(-width // 8) if width > 8 else width)
    network, sites, model = found()
    steps = steps_of(network, sites, model, "onnxruntime", 3, 1, "channels_last", always_quiet())
    assert [one.units for one in steps] == [32, 24, 24, 6]
    assert [one.step for one in steps[:3]] == [8, 8, 8]
    assert [*steps[0].saved] == [1, 2, 4, 8, 16] and [*steps[3].saved] == [1, 2, 4]
    dense = 40 + 30 + 30 + 6
    assert steps[0].saved[16] == pytest.approx(20 / dense, abs=0.003)
    assert steps[0].saved[4] == pytest.approx(0, abs=0.003)
    assert asked[0][:4] == (SHAPE, 3, "onnxruntime", "channels_last")


def test_smallest_step_that_pays():
    assert best({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08}, 0.003) == 1
    assert best({1: -0.05, 2: 0.0, 4: 0.001, 8: 0.002, 16: 0.03}, 0.003) == 16
    assert best({1: 0.0, 2: 0.0, 4: 0.03, 8: 0.04}, 0.003) == 4
    assert best({1: 0.002, 8: 0.004, 16: 0.03}, 0.003) == 16  # the first is noise
    assert best({1: 0.001, 2: 0.002}, 0.003) is None
    assert best({}, 0.003) is None


def test_sites_of_a_type_are_narrowed_together(runtime):
    seen = runtime(lambda width: width)
    network = nn.Sequential(conv(3, 16), nn.ReLU(), *[layer for _ in range(3) for layer in (conv(16, 16), nn.ReLU())])
    network = nn.Sequential(*network, *head(16)).eval()
    sites = find_sites(network, SHAPE)
    steps = steps_of(network, sites, CostModel(network, sites, SHAPE), "eager", 1, 1, "channels_last", always_quiet())
    assert sorted(len(one.sites) for one in steps) == [1, 1, 2] and len(seen) == 1
    both = next(one for one in steps if len(one.sites) == 2)
    assert both.saved[8] == pytest.approx(2 * 8 / 64, abs=0.003)
    assert both.step == 1
    assert DENSE_COPIES >= 5


def test_command_prints_the_steps(runtime, capsys, monkeypatch):
    runtime(lambda width: -(-width // 8))
    monkeypatch.setattr(quiet, "Machine", always_quiet)
    words = ("list", "sites", "--arch", "lenet", "--dataset", "mnist", "--runtime")
    code, text, _ = answer(capsys, *words, "eager")
    assert code == 0
    assert "share of the time in eager that goes" in text and "for --round-to" in text
    timed = json.loads(answer(capsys, *words, "eager", "--json")[1])["steps"]
    assert {one["units"] for one in timed} == {20, 50, 500}
    code, _, err = answer(capsys, *words, "compile")
    assert code == 2 and "runtime compile takes 10 s" in err
    code, _, err = answer(capsys, "list", "archs", "--runtime", "eager")
    assert code == 2 and "list --runtime: say list sites" in err
