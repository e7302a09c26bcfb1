"""What a user has in the middle of a script, and whether all of it is as it was."""

import random

import numpy as np
import torch
from support.networks import GREY, three_sites


def batches(shape=GREY, count=3, size=8, classes=10):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, *shape, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(count)
    ]


def example(shape=GREY):
    return batches(shape, 1, 4)[0][0]


def state_of(network):
    tensors = {name: (t.clone(), t.dtype, t.stride()) for name, t in network.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]
    return (
        tensors,
        grads,
        [m.training for m in network.modules()],
        hooks,
        [p.requires_grad for p in network.parameters()],
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and not isinstance(one, torch.Size):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def world():
    return (
        *(torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        *(torch.get_default_dtype(), torch.get_num_threads(), torch.get_deterministic_debug_mode()),
        *(torch.get_default_device(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    )


def prepared():
    """A network in the middle of a script: some gradients, a frozen layer, mixed modes."""
    network = three_sites().train()
    network(example()).sum().backward()
    network[0].requires_grad_(False)
    network[1].eval()
    return network
