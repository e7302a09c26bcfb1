"""``bench.Pruner``: methods that act while a network trains, in a loop of the user's."""

import pytest
import torch
from support.networks import GREY, all_hooks, three_sites
from torch import nn
from torch.nn.functional import cross_entropy

import bench
from bench.spec.registry import METHODS
from bench.training.method import Method

IN_LOOP = [
    name
    for name in sorted(METHODS.entries())
    if (cls := METHODS.get(name)).plan is Method.plan and cls.starts_from == "init"
]
"""Of the registry: all that act while a network trains and have the default plan."""
FAST = ("ddrop", "l1l2", "sfp")


def batches(count=4):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, *GREY, generator=generator), torch.randint(10, (8,), generator=generator)) for _ in range(count)
    ]


def neurons():
    """Two sites of linear layers."""
    layers = nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)
    return nn.Sequential(nn.Flatten(), *layers)


def hooked(network):
    return [m for m in network.modules() if any(all_hooks(m))]


def trained(network, method, optimizer=None, epochs=2, **options):
    """Train in a plain loop; returns what is pruned."""
    optimizer = optimizer or torch.optim.AdamW(network.parameters(), 0.01)
    data = batches()
    given = {"optimizer": optimizer, "method": method, "keep_macs": 0.5, "val": batches(2), "options": options}
    with bench.Pruner(network, data[0][0], data, steps=epochs * len(data), epochs=epochs, **given) as pruner:
        for _ in range(epochs):
            for x, y in data:
                network.train()
                pruner.before_forward(x, y)
                loss = cross_entropy(network(x), y) + pruner.penalty()
                optimizer.zero_grad()
                loss.backward()
                pruner.after_backward()
                optimizer.step()
                pruner.after_step()
            pruner.end_epoch()
        return pruner.finish()


@pytest.mark.parametrize(
    "method", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in IN_LOOP]
)
def test_every_method_with_the_default_plan_works(method):
    network = neurons() if method == "dropneuron" else three_sites()
    made = trained(network, method)
    assert made.difference <= 1e-6
    assert 0.45 < made.cost["pruned"]["macs"] / made.cost["dense"]["macs"] <= 0.5
    assert not hooked(network)
    assert not hooked(made.network)
    assert all(bool(t.isfinite().all()) for t in made.network.parameters())


def test_methods_are_those_of_the_registry():
    assert {"ddrop", "l1l2", "sfp", "spectral", "edropout", "weight_decay"} <= set(IN_LOOP)
    assert len(IN_LOOP) >= 9


def test_penalty_and_gates_act():
    plain, penalised = three_sites(), three_sites()
    penalised.load_state_dict(plain.state_dict())
    norms = []
    for network, strength in ((plain, 1e-9), (penalised, 1.0)):
        trained(network, "group_lasso", torch.optim.SGD(network.parameters(), 0.1), strength=strength)
        norms.append(float(network[4].weight.detach().norm()))
    assert norms[1] < 0.9 * norms[0]
    network, x = three_sites().eval(), batches(1)[0]
    with bench.Pruner(network, x[0], method="dropout", options={"p": 0.5}, keep_macs=0.5, steps=1) as pruner:
        before = network(x[0])
        pruner.before_forward(*x)
        assert not torch.equal(network(x[0]), before)
        pruner.after_step()
        assert torch.equal(network(x[0]), before)


def test_exception_leaves_no_hook():
    network, seen = three_sites(), []

    def fails():
        with bench.Pruner(network, batches(1)[0][0], method="ddrop", keep_macs=0.5, steps=2) as pruner:
            seen.append(pruner)
            pruner.before_forward(*batches(1)[0])
            assert hooked(network)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not hooked(network)
    with pytest.raises(bench.UsageError, match=r"Pruner\.finish: it is finished or closed"):
        seen[0].finish()


def test_settings_and_random_numbers_stay():
    network = three_sites()
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    with bench.Pruner(network, batches(1)[0][0], method="l2_norm+weight_decay", keep_macs=0.5, steps=2) as pruner:
        made = pruner.finish()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.are_deterministic_algorithms_enabled()
    assert isinstance(made.network, nn.Sequential)


def test_compensation_leaves_the_network_as_it_was():
    network, data = three_sites(), batches()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    given = {"method": "l2_norm+weight_decay+refit_ridge", "keep_macs": 0.5, "steps": 2}
    with bench.Pruner(network, data[0][0], data, **given) as pruner:
        made = pruner.finish()
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    plain = made.follow(before)
    assert not all(torch.equal(t, plain[name]) for name, t in made.network.state_dict().items())


def test_what_cannot_be_is_refused():
    network, example = three_sites(), batches(1)[0][0]
    given = {"keep_macs": 0.5, "steps": 4}
    for method, why in (("distill", "acts after the cut or replaces the loss"), ("dropnet", "plans its own training")):
        with pytest.raises(bench.UsageError, match=why):
            bench.Pruner(network, example, method=method, **given)
    with pytest.raises(bench.UsageError, match="steps=0, epochs=1: at least 1"):
        bench.Pruner(network, example, method="ddrop", keep_macs=0.5, steps=0)
    with pytest.raises(bench.UsageError, match="'l1l2' looks at training batches: give data"):
        bench.Pruner(network, example, method="l1l2", **given)
    assert not hooked(network)
    pruner = bench.Pruner(network, example, batches(), method="l1l2", **given)
    with pytest.raises(bench.UsageError, match="depend on the learning rate: give optimizer"):
        pruner.after_step()
    assert not hooked(network)
