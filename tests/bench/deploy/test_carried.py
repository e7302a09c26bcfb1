"""Optimizer states and averages across a cut."""

import copy
import itertools

import pytest
import torch
from support.networks import GREY, SHAPE, Encoder, residual, three_sites
from torch import nn

import bench
from bench.errors import UsageError

SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


def batch(seed, shape=GREY):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, *shape, generator=generator).double(), torch.randint(4, (8,), generator=generator)


def step(network, optimizer, seed, shape=GREY):
    x, y = batch(seed, shape)
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def grouped(network, make, **options):
    """Two groups with other rates, of which the last layer is one; the first layer is frozen."""
    layers = list(network.parameters())
    layers[0].requires_grad_(False)
    return make([{"params": layers[:-2]}, {"params": layers[-2:], "lr": 0.01, "tag": "head"}], **options)


def masked_step(network, optimizer, seed, sites, masks, shape):
    """A step of the dense network whose removed units read as zero."""
    from bench.pruning.gates import Gates

    gates = Gates(network, sites.bind(network))
    gates.set({name: mask.double() for name, mask in masks.items()})
    step(network, optimizer, seed, shape)
    gates.remove()


ADAMW = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}
RMSPROP = {"lr": 0.01, "momentum": 0.5, "centered": True}
NETWORKS = {
    "chain": (three_sites, GREY),
    "shortcut": (lambda: residual("A"), SHAPE),
    "heads": (lambda: Encoder(1, 4, 4), GREY),
}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, SGD),
    "adamw": (torch.optim.AdamW, ADAMW),
    "rmsprop": (torch.optim.RMSprop, RMSPROP),
}
FAST = {("chain", "sgd"), ("shortcut", "adamw"), ("heads", "sgd")}


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
        for pair in itertools.product(NETWORKS, OPTIMIZERS)
    ],
)
def test_later_steps_are_those_of_the_masked_network(network, optimizer):
    build, shape = NETWORKS[network]
    make, options = OPTIMIZERS[optimizer]
    network = build().double()
    optimizer = grouped(network, make, **options)
    for seed in range(3):
        step(network, optimizer, seed, shape)
    made = bench.prune(network, batch(0, shape)[0], keep_macs=0.6)
    mapped = made.optimizer(optimizer)
    assert type(mapped) is make
    assert [group["lr"] for group in mapped.param_groups] == [group["lr"] for group in optimizer.param_groups]
    assert mapped.param_groups[1]["tag"] == "head"
    small = {id(p) for p in made.network.parameters()}
    assert {id(p) for group in mapped.param_groups for p in group["params"]} == small
    sites = made._known.sites
    for seed in range(3, 6):
        step(made.network, mapped, seed, shape)
        masked_step(network, optimizer, seed, sites, made.masks, shape)
    wanted = made.follow(dict(network.state_dict()))
    differences = [float((wanted[n] - t).abs().max()) for n, t in made.network.state_dict().items() if t.numel()]
    assert max(differences) < (1e-9 if make is torch.optim.RMSprop else 1e-11)  # it divides by roots of almost nothing


def test_states_are_gathered_and_not_shared():
    network = three_sites()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, *GREY)).sum().backward()
    optimizer.step()
    made = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5)
    before = copy.deepcopy(optimizer.state_dict())
    mapped = made.optimizer(optimizer)
    kept = made.masks["0"]
    old, new = (optimizer.state[network[0].weight], mapped.state[made.network[0].weight])
    assert torch.equal(new["exp_avg"], old["exp_avg"][kept])
    assert torch.equal(new["step"], old["step"])
    for state in mapped.state.values():
        for tensor in state.values():
            tensor.zero_()
    assert all(
        torch.equal(t, optimizer.state_dict()["state"][k][name])
        for k, state in before["state"].items()
        for name, t in state.items()
    )
    mapped.load_state_dict(mapped.state_dict())  # it is whole


def test_averages_follow_the_cut():
    network = three_sites()
    made = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5)
    followed = made.follow(network.state_dict())
    assert all(torch.equal(followed[name], t) for name, t in made.network.state_dict().items())
    with pytest.raises(UsageError, match="follow: give a dict of tensors by the names of parameters and buffers"):
        made.follow([torch.zeros(1)])
    with pytest.raises(UsageError, match="follow: 'nothing' is no parameter or buffer of the network"):
        made.follow({"nothing": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"follow: '0.weight' is \[3\], in the network \[12, 1, 3, 3\]"):
        made.follow({"0.weight": torch.zeros(3)})


def test_foreign_and_strange_optimizers_are_refused():
    network = three_sites()
    made = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5)
    with pytest.raises(UsageError, match="optimizer: it holds none of this network's parameters"):
        made.optimizer(torch.optim.SGD(three_sites().parameters(), 0.1))
    with pytest.raises(UsageError, match=r"optimizer is a dict: give a torch\.optim\.Optimizer"):
        made.optimizer(torch.optim.SGD(network.parameters(), 0.1).state_dict())
    rows = torch.optim.Adafactor(network.parameters())
    network(torch.randn(2, *GREY)).sum().backward()
    rows.step()
    with pytest.raises(UsageError, match=r"optimizer: its state 'row_var' of .* make a new optimizer"):
        made.optimizer(rows)
    why = "optimizer: LBFGS keeps tensors in '_params', which are not its state: make a new one"
    with pytest.raises(UsageError, match=why):
        made.optimizer(torch.optim.LBFGS(network.parameters()))
    with pytest.raises(UsageError, match=r"follow: '0.weight' is a int: give a tensor"):
        made.follow({"0.weight": 3})


def test_attributes_of_an_optimizer_of_the_users_stay():
    class Counting(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, 0.1)
            self.calls, self.marks = 0, ["a"]

        def step(self, closure=None):
            self.calls += 1
            return super().step(closure)

    network = three_sites()
    optimizer = Counting(network.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    network(torch.randn(2, *GREY)).sum().backward()
    optimizer.step()
    schedule.step()
    mapped = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5).optimizer(optimizer)
    mapped.step()
    mapped.marks.append("b")
    assert (mapped.calls, optimizer.calls, optimizer.marks) == (2, 1, ["a"])
    assert mapped.param_groups[0]["lr"] == pytest.approx(0.01)


def test_parameters_of_others_stay_in_their_group():
    network, own = three_sites(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*network.parameters(), own], 0.1, momentum=0.9)
    (network(torch.randn(2, *GREY)).sum() + own.sum()).backward()
    optimizer.step()
    mapped = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5).optimizer(optimizer)
    assert mapped.param_groups[0]["params"][-1] is own
    assert torch.equal(mapped.state[own]["momentum_buffer"], torch.ones(3))


def test_named_parameters_keep_their_names():
    network = three_sites()
    optimizer = torch.optim.SGD(network.named_parameters(), 0.1)
    mapped = bench.prune(network, torch.randn(2, *GREY), keep_macs=0.5).optimizer(optimizer)
    assert mapped.param_groups[0]["param_names"] == [name for name, _ in network.named_parameters()]


def test_state_keeps_its_memory_format():
    network = three_sites().double()
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    step(network, optimizer, 0)
    for layer in network.parameters():
        state = optimizer.state[layer]
        if layer.dim() == 4:
            state["momentum_buffer"] = state["momentum_buffer"].contiguous(memory_format=torch.channels_last)
    made = bench.prune(network, batch(1)[0], method="l1_norm", keep_macs=0.5)
    found = made.optimizer(optimizer).state.values()
    kernels = [state["momentum_buffer"] for state in found if state["momentum_buffer"].dim() == 4]
    assert any(each.shape[2:] != (1, 1) for each in kernels)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels)
