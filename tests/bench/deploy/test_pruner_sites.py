"""``bench.Pruner`` with the words of ``bench.prune``: which sites, which logits, which loss."""

import re

import pytest
import torch
from support.networks import SHAPE, Pair, all_hooks, three_sites
from support.scripts_of_users import batches, example, same
from torch.nn.functional import cross_entropy

import bench
from bench.conformance.tiny_networks import depth


def step(pruner, network, x, y, pick=lambda out: out):
    """One step of plain training."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    pruner.before_forward(x, y)
    (cross_entropy(pick(network(x)), y) + pruner.penalty()).backward()
    pruner.after_backward()
    optimizer.step()
    pruner.after_step()


@pytest.mark.parametrize("method", ["ddrop", "taylor+weight_decay"])
def test_logits_are_picked_while_the_method_works(method):
    def pick(out):
        return out["out"]

    network, data = Pair(), batches()
    with pytest.raises(bench.UsageError, match=r"^the network gives a dict, no tensor"):
        bench.Pruner(network, example(), data, method=method, keep_macs=0.5, steps=3)
    given = {"method": method, "keep_macs": 0.5, "steps": 3, "logits": pick}
    with bench.Pruner(network, example(), data, **given) as pruner:
        for x, y in data:
            assert type(network) is Pair and set(network(x)) == {"out", "twice"}
            step(pruner, network, x, y, pick)
        made = pruner.finish()
    assert type(network) is Pair and type(made.network) is Pair
    assert set(made.network(example())) == {"out", "twice"}
    assert not [m for net in (network, made.network) for m in net.modules() if any(all_hooks(m))]
    bench.prune(made, example(), data, method="taylor", keep_macs=0.4)  # logits go on
    with pytest.raises(ZeroDivisionError), bench.Pruner(network, example(), data, **given):
        raise ZeroDivisionError
    assert type(network) is Pair


def test_result_is_that_of_prune_where_nothing_is_trained():
    def first_class(logits, y):
        return logits[:, 0].square().mean()

    network, data = three_sites(), batches()
    for more in ({}, {"loss": first_class}, {"whole": ["4"]}, {"coupling": "full", "round_to": 4}):
        given = {"keep_macs": 0.6, **more}
        once = bench.prune(network, example(), data, method="taylor", **given)
        with bench.Pruner(network, example(), data, method="taylor", steps=1, **given) as pruner:
            made = pruner.finish()
        assert same(dict(once.masks), dict(made.masks)) and once.cost == made.cost
        assert same(once.network.state_dict(), made.network.state_dict())
        assert same(made.follow(network.state_dict()), made.network.state_dict())
    assert set(made.widths) == {"0", "4", "7"}


@pytest.mark.parametrize(("units", "method"), [("depth", "block_l1"), ("both", "random")])
def test_blocks_leave_after_training(units, method, tmp_path):
    network, data = depth("A"), batches(SHAPE, classes=4)
    given = {"method": f"{method}+weight_decay", "keep_macs": 0.8, "steps": 3}
    with bench.Pruner(network, example(SHAPE), units=units, **given) as pruner:
        for x, y in data:
            step(pruner, network.train(), x, y)
        made = pruner.finish()
    blocks = {name: pair for name, pair in made.widths.items() if name in made._known.costs.blocks}
    assert sum(before - after for before, after in blocks.values()) > 0
    assert (len(blocks) < len(made.widths)) == (units == "both")
    made.save(tmp_path / "small.safetensors")
    loaded, _ = bench.load(tmp_path / "small.safetensors", build=lambda: depth("A"))
    assert torch.equal(loaded(data[0][0]), made.network.eval()(data[0][0]))


def test_what_cannot_be_is_refused():
    network = three_sites()
    for more, why in (
        ({"units": "all"}, "units='all': width, depth or both"),
        ({"units": "depth", "round_to": 8}, "round_to=8: with units='depth' no widths are pruned"),
        ({"whole": "4"}, "whole='4': give a list of names"),
        ({"whole": ["stem"]}, "whole: 'stem' is no layer of the network"),
        ({"coupling": "outer"}, "coupling='outer': inner or full"),
        ({"whole": [4]}, "whole: 4 is no name of a layer: give names of named_modules()"),
        ({"seed": "a"}, "seed='a': a whole number from 0 to 2^63 - 1"),
        ({"optimizer": "sgd"}, "optimizer is a str: give a torch.optim.Optimizer"),
        ({"keep_macs": 0.05, "round_to": 4}, "keep_macs=0.05 cannot be met: .* costs 0.12; round_to=1 reaches 0.017$"),
    ):
        with pytest.raises(bench.UsageError, match=f"^{why if 'cannot' in why else re.escape(why)}"):
            bench.Pruner(network, example(), **{"method": "ddrop", "keep_macs": 0.5, "steps": 1} | more)
    with pytest.raises(bench.UsageError, match=r"^Pruner\.penalty: before_forward has to be called before it$"):
        bench.Pruner(network, example(), method="ddrop", keep_macs=0.5, steps=1).penalty()
    data = [(x, y * 0 + 14) for x, y in batches()]
    given = {"method": "taylor+weight_decay", "keep_macs": 0.5, "steps": 1}
    with pytest.raises(bench.UsageError, match=r"^label 14: the logits are of 10 classes, from 0 on$"):
        bench.Pruner(network, example(), data, **given).finish()
    assert not [m for m in network.modules() if any(all_hooks(m))]
