"""Can an architecture be pruned exactly? Each one is built, searched for sites, halved and put to the test.

Every network has a process of its own, so that one that takes all memory or crashes the interpreter costs only
itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.archs import Shape, build
from bench.archs.outside import torchvision_names
from bench.budget import CostModel
from bench.checkpoint import load_tensors, save_tensors
from bench.discovery import find_sites, shaken
from bench.errors import BenchError, RunFailed, UsageError
from bench.export import to_onnx
from bench.measure import flops
from bench.registry import ARCHS, PLUGINS, add_plugin
from bench.sites import TOLERANCE, Sites, gate_slice_difference

CLASSES = 10
SIDES = (32, 64, 128, 224)
"""Sides of the square images that are tried until the network takes one; torchvision's begin with the second."""
LIMIT_S, GRACE_S = 900, 10
"""Most seconds that one architecture may take, and that its process may take to end once it has answered."""


@dataclass(frozen=True)
class Finding:
    """What became of one architecture.

    Attributes:
        name: of the architecture.
        outcome: ``pass``, ``skipped`` (it has no exact site, or cannot be traced) or ``FAILED``.
        why: the reason where it did not pass.
        side: of the images.
        sites, units: how many.
        keep_macs, keep_params: shares of the network with half the units of every site.
        difference: between gated and sliced network, relative to the output, in double precision.
        onnx: between the half network in PyTorch and in onnxruntime, relative to the output; None: not asked for.
    """

    name: str
    outcome: str
    why: str = ""
    side: int | None = None
    sites: int = 0
    units: int = 0
    keep_macs: float | None = None
    keep_params: float | None = None
    difference: float | None = None
    onnx: float | None = None


def every_name() -> list[str]:
    """The suite's own architectures and all of torchvision's classifiers."""
    return [*ARCHS.entries(), *(f"torchvision:{name}" for name in torchvision_names())]


def survey(names: Sequence[str], onnx: bool = False) -> Iterator[Finding]:
    """Examine architectures one after the other, with ``onnx`` their export too; never raises for what one does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for name in names:
        mine, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(name, onnx, [str(file) for file in PLUGINS], theirs))
        worker.start()
        theirs.close()
        try:
            if mine.poll(LIMIT_S):
                yield mine.recv()
                worker.join(GRACE_S)
            else:
                yield Finding(name, "FAILED", f"not done after {LIMIT_S} s")
        except EOFError:
            worker.join()
            killed = ", as when memory runs out" if worker.exitcode == -signal.SIGKILL else ""
            yield Finding(name, "FAILED", f"its process ended with code {worker.exitcode}{killed}")
        finally:
            worker.kill()
            worker.join()
            mine.close()


def _work(name: str, onnx: bool, plugins: list[str], answer: Connection) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a network prints is no part of the table
            for file in plugins:
                add_plugin(file)
            finding = examine(name, onnx)
    except Exception as error:
        finding = Finding(name, "FAILED", f"{type(error).__name__}: {error}".split("\n")[0])
    answer.send(finding)


def examine(name: str, onnx: bool = False) -> Finding:
    """Build ``name``, find its sites, slice it at half, test the slice and maybe export it; see :class:`Finding`."""
    try:
        network, side = _built(name)
        shape = (3, side, side)
        sites = find_sites(network, shape)
    except BenchError as error:
        return Finding(name, "skipped", str(error))
    generator = torch.Generator().manual_seed(0)
    masks = {n: torch.randperm(w, generator=generator) < (w + 1) // 2 for n, w in sites.widths.items()}
    try:
        difference = _difference(network, sites, masks, shape)
        sliced = sites.slice(network, masks)
        macs = _macs(network, sliced, sites, masks, shape)
        _lives_on(network, sliced, sites, masks, shape)
        exported = _exported(sliced, shape) if onnx else None
    except RunFailed as error:
        return Finding(name, "FAILED", str(error), side, len(sites), sum(sites.widths.values()))
    params = flops.parameters(sliced) / flops.parameters(network)
    units = sum(sites.widths.values())
    return Finding(name, "pass", "", side, len(sites), units, macs, params, difference, exported)


def _built(name: str) -> tuple[nn.Module, int]:
    """The network for the smallest images it takes; raises BenchError."""
    sides = SIDES[1:] if name.startswith("torchvision:") else SIDES
    for side in sides:
        try:
            network = build(name, (3, side, side), CLASSES)
            with torch.no_grad():
                network.eval()(torch.zeros(2, 3, side, side))
            return network, side
        except BenchError:
            if side == sides[-1]:
                raise
        except (RuntimeError, ValueError) as error:
            if side == sides[-1]:
                raise RunFailed(f"it takes no image of {side}x{side}: {error}") from error
    raise UsageError(f"no image size to try for '{name}'")


def _difference(network: nn.Module, sites: Sites, masks: dict[str, Tensor], shape: Shape) -> float:
    probe = shaken(network)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sliced = sites.slice(probe, masks)
    difference = gate_slice_difference(probe, sliced, sites.on(probe), masks, x, least=1e-30)
    if not difference <= TOLERANCE:
        raise RunFailed(f"gated and sliced network differ by {difference:.1e}")
    with torch.no_grad():
        if torch.equal(probe(x), sliced(x)):
            raise RunFailed("its output does not depend on the units that were removed")
    return difference


def _macs(network: nn.Module, sliced: nn.Module, sites: Sites, masks: dict[str, Tensor], shape: Shape) -> float:
    """Share of the MACs that the slice keeps; the cost model and fvcore must agree."""
    model = CostModel(network, sites, shape)
    foreseen = model.macs(model.array({name: int(mask.sum()) for name, mask in masks.items()}))
    counted = flops.count(sliced, shape).total
    if counted != foreseen:
        raise RunFailed(f"fvcore counts {counted:,} MACs, the cost model {foreseen:,}")
    return counted / model.macs(model.dense)


def _lives_on(network: nn.Module, sliced: nn.Module, sites: Sites, masks: dict[str, Tensor], shape: Shape) -> None:
    """Train the slice for a step, save it, rebuild and load it: the same outputs."""
    x, y = torch.rand(4, *shape, generator=torch.Generator().manual_seed(2)), torch.arange(4)
    optimizer = torch.optim.SGD(sliced.parameters(), lr=1e-3)
    loss = F.cross_entropy(sliced.train()(x), y)
    loss.backward()
    optimizer.step()
    if not bool(loss.isfinite()):
        raise RunFailed(f"its loss is {float(loss)} in the first step")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.safetensors"
        save_tensors(file, sliced.state_dict())
        again = sites.slice(network, masks)
        again.load_state_dict(load_tensors(file))
    with torch.no_grad():
        if not torch.equal(again.eval()(x), sliced.eval()(x)):
            raise RunFailed("saved and loaded again it gives another output")


def _exported(sliced: nn.Module, shape: Shape) -> float:
    """Difference of the exported network's outputs in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        return to_onnx(sliced, shape, Path(folder) / "network.onnx").difference
