"""Real networks in a real runtime: that all are timed, not how long they take."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from support.networks import GREY, three_sites
from support.quiet_machine import Simulated, always_quiet

from bench.measure import bursts
from bench.measure.quiet import Busy
from bench.pruning.cost_model import CostModel
from bench.pruning.latency_model import fitted
from bench.pruning.latency_terms import DENSE_COPIES, terms_of
from bench.pruning.site_discovery import find_sites
from bench.runs import network_timer
from bench.runs.network_timer import NetworkTimer


@pytest.fixture
def timer(monkeypatch):
    monkeypatch.setattr(bursts, "VISITS", (2, 2))
    monkeypatch.setattr(bursts, "WINDOW_S", 0.0)
    network = three_sites()
    sites = find_sites(network, GREY)
    terms = terms_of(network, sites, CostModel(network, sites, GREY), step=2)
    return NetworkTimer(network, sites, GREY, terms, "eager", 1, 1, "channels_last", always_quiet())


def test_each_network_of_a_table_is_timed_and_fitted(timer):
    vectors = [tuple(vector.tolist()) for vector in timer.terms.networks()]
    before, said = torch.get_num_threads(), []
    timed = timer.table(said.append)
    assert (
        sorted(one.vector for one in timed) == sorted(vectors) and vectors[:1] * DENSE_COPIES == vectors[:DENSE_COPIES]
    )
    assert all(one.ms > 0 for one in timed) and len(said) == 1
    assert torch.get_num_threads() == before
    model = fitted(timer.terms, timed)
    assert 0 < model.constant <= model.dense_ms
    measured = timer.measure(timer.terms.networks()[-1])
    assert 0 < measured.low <= measured.ms / measured.dense_ms <= measured.high


def test_large_networks_are_loaded_in_groups_each_with_the_dense_one(timer, monkeypatch):
    monkeypatch.setattr(network_timer, "LOADED_BYTES", 0)
    said = []
    timed = timer.table(said.append)
    dense = [one for one in timed if one.vector == timer.terms.dense]
    assert len(said) > 1 and len(dense) == len(said) * DENSE_COPIES


def test_nothing_is_loaded_while_the_machine_is_busy(timer, monkeypatch):
    monkeypatch.setattr(bursts, "loaded", None)
    busy = dataclasses.replace(timer, machine=Simulated(lambda at: 1.0).machine(wait_s=20))
    with pytest.raises(Busy, match=r"others use 1\.0 cores"):
        busy.table()


def test_slices_have_the_widths_of_their_vector(timer):
    vector = timer.terms.networks()[DENSE_COPIES]
    thin = timer.slice(vector)
    assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in timer.network.parameters())
    assert thin(torch.randn(2, *GREY)).shape == timer.network(torch.randn(2, *GREY)).shape


def test_a_machine_that_slows_down_changes_no_table(timer, monkeypatch):
    """What is timed later is relative to the dense network of its group."""
    slower = itertools.count(1)
    monkeypatch.setattr(network_timer, "LOADED_BYTES", 0)
    monkeypatch.setattr(NetworkTimer, "ms", lambda self, some: next(slower) * np.array([float(v.sum()) for v in some]))
    timed = timer.table()
    assert next(slower) > 2
    assert [one.ms for one in timed] == pytest.approx([sum(one.vector) for one in timed])
