"""Blocks that restore modes and global state at their end."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Batch norms."""


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Within the block all networks are in eval mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untraced(
    network: nn.Module,
    inserted: Iterable[nn.Module],
    device: torch.device,
    batch_statistics: bool = False,
    gradients: bool = False,
    frozen: Container[nn.Module] = (),
) -> Iterator[None]:
    """Within the block, forwards leave no trace: eval mode, no batch norm update, no RNG use, no gradients kept.

    Args:
        network: in eval mode in the block.
        inserted: further modules whose gradients are kept.
        device: whose random numbers are given back.
        batch_statistics: normalise by the batch's own statistics, as in training, without recording them.
        gradients: allow a backward pass; parameters get their former gradients back afterwards.
        frozen: modules that use their running statistics in training, too.
    """
    norms = [(m, m.track_running_stats) for m in network.modules() if isinstance(m, NORMS) and m not in frozen]
    kept = [(p, p.grad) for module in (network, *inserted) for p in module.parameters()]
    devices = [device] if device.type == "cuda" else []
    with evaluating(network), torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
        try:
            for norm, _ in norms if batch_statistics else ():
                norm.training, norm.track_running_stats = True, False
            for parameter, _ in kept if gradients else ():
                parameter.grad = None
            yield
        finally:
            for norm, tracks in norms:
                norm.track_running_stats = tracks
            for parameter, grad in kept:
                parameter.grad = grad


def seed_generators(seed: int) -> None:
    """Start the global generators of torch, numpy and Python, which a network may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def drawn() -> object:
    """A value that changes when numbers are drawn from the global generators."""
    cuda = torch.cuda.get_rng_state().tolist() if torch.cuda.is_initialized() else None
    return torch.get_rng_state().tolist(), cuda, str(np.random.get_state(legacy=False)), random.getstate()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block torch's, numpy's and Python's global state may change; afterwards it is as it was."""
    threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()  # which only warns, too
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(strict)
            np.random.set_state(numpys)
            random.setstate(pythons)
