"""``bench.prune`` on networks of every kind: exact slices, files, and what is carried over the cut."""

import pytest
import torch
from support.networks import CASES, SHAPE, hooks_of
from support.odd_networks import ODD
from support.scripts_of_users import batches, example, same, state_of, world
from torch import nn
from torch.utils._pytree import tree_leaves

import bench
from bench.errors import UsageError

KINDS = {name: (make, coupling) for name, (make, coupling) in CASES.items() if name != "mlp"}
KINDS |= {name: (make, "inner") for name, make in ODD.items()}
FAST = ("residual_A_full", "attention", "Alias", "TupleWhileTraining")
LOGITS = {"DictOutput": lambda out: out["logits"], "TupleWhileTraining": lambda out: tree_leaves(out)[0]}


@pytest.mark.parametrize(
    "kind", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_slice_is_exact_and_is_loaded(kind, tmp_path):
    make, coupling = KINDS[kind]
    network, x = make().train(), example(SHAPE)
    network(batches(SHAPE)[0][0])  # statistics of its own
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    sum(t.float().sum() for t in tree_leaves(network(x))).backward()
    optimizer.step()
    network.zero_grad()
    before, outside = state_of(network), world()
    made = bench.prune(network, x, coupling=coupling, keep_macs=0.8, logits=LOGITS.get(kind))
    assert same(before, state_of(network))
    assert outside == world()
    assert made.difference <= 1e-4
    assert made.cost["pruned"]["macs"] <= 0.8 * made.cost["dense"]["macs"]
    assert type(made.network) is type(network)
    assert hooks_of(made.network) == []
    state = made.network.state_dict()
    assert same(made.follow(network.state_dict()), dict(state))
    mapped = made.optimizer(optimizer)
    sum(t.float().sum() for t in tree_leaves(made.network.train()(x))).backward()
    mapped.step()
    made.save(tmp_path / "small.safetensors")
    loaded, _ = bench.load(tmp_path / "small.safetensors", build=make)
    with torch.no_grad():
        outputs = [tree_leaves(one.eval()(x)) for one in (made.network, loaded)]
    assert same(*outputs)


def test_networks_that_differ_in_a_function_are_not_mixed_up():
    first, second = (KINDS[name][0]() for name in ("gated_by_chunk", "gated_by_stride"))
    assert str(first) == str(second)
    for network in (first, second):
        assert bench.prune(network, example(SHAPE), keep_macs=0.8).difference <= 1e-4


def test_networks_without_a_site_are_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UsageError, match="no exact site: 1 layer: "):
        bench.prune(flat, example(SHAPE), keep_macs=0.5)
