"""What a call of ``bench.prune`` does once: each copy and each count of a network takes a tenth of its time."""

from types import SimpleNamespace

import pytest
import torch
from support import once
from support.networks import residual
from support.scripts_of_users import batches, example, same

import bench
from bench.deploy import known
from bench.measure import flops
from bench.models import shared_parameters
from bench.pruning.sites import Sites

SHAPE = (3, 8, 8)


@pytest.fixture
def done(monkeypatch):
    """What a call did: networks copied, counted by fvcore, sliced."""
    counts = {"copies": 0, "counts": 0, "slices": 0}

    def counted(owner, name, what):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            counts[what] += 1
            return function(*args, **kwargs)

        return call

    deepcopy = counted(shared_parameters.copy, "deepcopy", "copies")
    monkeypatch.setattr(shared_parameters, "copy", SimpleNamespace(deepcopy=deepcopy))
    monkeypatch.setattr(flops, "count", once.count_anew)
    monkeypatch.setattr(flops, "traced", once.trace_anew)
    monkeypatch.setattr(flops, "_analysed", counted(flops, "_analysed", "counts"))
    monkeypatch.setattr(Sites, "slice", counted(Sites, "slice", "slices"))
    monkeypatch.setattr(known, "_known", type(known._known)())
    return counts


@pytest.mark.parametrize("method", ["l1_norm", "taylor"])
def test_a_second_call_copies_and_counts_what_it_must(done, method):
    """A copy to work on, the slice, and what is counted of that."""
    network = residual("A")
    bench.prune(network, example(SHAPE), batches(SHAPE, classes=4), method=method, keep_macs=0.7)
    done.update(copies=0, counts=0, slices=0)
    made = bench.prune(network, example(SHAPE), batches(SHAPE, classes=4), method=method, keep_macs=0.6)
    assert done == {"copies": 3, "counts": 1, "slices": 1}
    assert made.cost["pruned"]["by_operator"] == flops.count(made.network, SHAPE).by_op
    assert made.cost["dense"]["by_operator"] == flops.count(network, SHAPE).by_op


def test_result_is_the_network_s_own_weights(done):
    """To the bit, those of what is kept, the statistics of norms included."""
    network = residual("A")
    with torch.no_grad():
        network.train()(example(SHAPE))
    made = bench.prune(network, example(SHAPE), keep_macs=0.6)
    assert same(made.follow(network.state_dict()), made.network.state_dict())
    assert done["slices"] > 1
