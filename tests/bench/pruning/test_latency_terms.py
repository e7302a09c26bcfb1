"""Fused blocks of real networks: which widths they have, which are of one kind, and that a fit of them is exact."""

import pytest
from support.fake_runtime import FakeRuntime

from bench.errors import UsageError
from bench.models.build import build
from bench.pruning import latency_terms
from bench.pruning.cost_model import CostModel
from bench.pruning.latency_model import fitted
from bench.pruning.latency_terms import DENSE_COPIES, terms_of
from bench.pruning.site_discovery import find_sites

SHAPE = (3, 32, 32)


def terms(coupling="inner", units="width", step=1):
    network = build("resnet20", SHAPE, 10, 0)
    sites = find_sites(network, SHAPE, coupling, units)
    return terms_of(network, sites, CostModel(network, sites, SHAPE), step)


def test_blocks_of_one_shape_are_one_kind():
    found = terms()
    assert [term.kind for term in found.terms] == [0, 0, 0, 1, 2, 2, 3, 4, 4]
    assert found.grid[0] == (4, 8, 12, 16) and found.grid[3] == (8, 16, 24, 32) and found.grid[6][:2] == (8, 16)
    assert len(found.sweeps()) == 3 + 2 * 3 + 2 * 7
    assert [found.dense] * DENSE_COPIES == [tuple(v.tolist()) for v in found.networks()[:DENSE_COPIES]]
    coarse = terms(step=16)
    assert coarse.grid[0] == (16,) and coarse.grid[3] == (16, 32) and coarse.sha256 != found.sha256


@pytest.mark.parametrize(("coupling", "units"), [("full", "width"), ("inner", "both")])
def test_fit_of_exact_times_is_exact(coupling, units):
    """With pairs of widths, and with blocks: nothing is left that the model cannot say."""
    found = terms(coupling, units)
    runtime = FakeRuntime(found, bias=0, noise=0)
    model = fitted(found, runtime.table(found.networks()))
    for vector in found.drawn(20, seed=9):
        assert model.ms(vector.tolist()) == pytest.approx(runtime.true(vector), rel=1e-6)


def test_table_of_too_many_networks_is_refused(monkeypatch):
    monkeypatch.setattr(latency_terms, "MOST_NETWORKS", 5)
    with pytest.raises(UsageError, match=r"would need more than 5 networks: 5 kinds of layers differ .*--keep-macs"):
        terms()
