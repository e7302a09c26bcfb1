"""Can an architecture be run and pruned exactly? Each one is built, tested as before a run, halved and compared.

Every network has a process of its own, so that one that takes all memory or crashes the interpreter costs only
itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import BenchError, RunFailed
from bench.measure import flops
from bench.measure.environment import pick_device, pick_precision
from bench.measure.onnx_export import to_onnx
from bench.models.build import Shape, build
from bench.models.error_place import first_line
from bench.models.external import torchvision_names
from bench.models.timm_models import image_size
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import TOLERANCE, gate_slice_difference, randomized_copy
from bench.pruning.site_discovery import NoSite
from bench.pruning.sites import Sites
from bench.runs.network_trial import Situation
from bench.runs.preflight import Fit, fit
from bench.spec.recipe import Recipe, load_recipe
from bench.spec.registry import ARCHS, PLUGINS, add_plugin
from bench.spec.wording import percent

SIDES = (32, 64, 128, 224)
"""Sides of the square images that are tried until the network takes one; torchvision's begin with the second."""
LIMIT_S, GRACE_S = 900, 10
"""Most seconds that one architecture may take, and that its process may take to end once it has answered."""


@dataclass(frozen=True)
class Request:
    """How architectures are examined.

    Attributes:
        coupling: of their sites; where ``inner`` finds none, ``full`` is tried.
        onnx: whether their slices are exported too.
        shape: of the images; None for the smallest of ``SIDES`` that a network takes, or the size it was made for.
        classes: logits of one image.
        recipe: of the runs that they are fit for.
    """

    coupling: str = "inner"
    onnx: bool = False
    shape: Shape | None = None
    classes: int = 10
    recipe: Recipe = field(default_factory=lambda: load_recipe("synthetic"))


@dataclass(frozen=True)
class Finding:
    """What became of one architecture.

    Attributes:
        name: of the architecture.
        outcome: ``pass``; ``skipped``: a run would refuse it, in the same words; ``FAILED``: its slice is wrong, or its
            process ended.
        why: the reason where it did not pass, and what is unusual where it did.
        shape: of the images.
        coupling: of the sites.
        sites, units: how many.
        least: share of the MACs with one unit in every site.
        keep_macs, keep_params: shares of the network with half the units of every site.
        difference: between gated and sliced network, relative to the output, in double precision.
        onnx: between the half network in PyTorch and in onnxruntime, relative to the output; None: not asked for.
        seconds: of CPU time for the sites, and for the cost model.
        rejected: candidate -> why it is no site.
    """

    name: str
    outcome: str
    why: str = ""
    shape: Shape | None = None
    coupling: str = "inner"
    sites: int = 0
    units: int = 0
    least: float | None = None
    keep_macs: float | None = None
    keep_params: float | None = None
    difference: float | None = None
    onnx: float | None = None
    seconds: tuple[float, float] | None = None
    rejected: dict[str, str] = field(default_factory=dict)


def every_name() -> list[str]:
    """The suite's own architectures and all of torchvision's classifiers."""
    return [*ARCHS.entries(), *(f"torchvision:{name}" for name in torchvision_names())]


def check_architectures(names: Sequence[str], request: Request) -> Iterator[Finding]:
    """Examine architectures one after the other; never raises for what one does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which torch imports when a network is first used
    for name in names:
        mine, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(name, request, [str(file) for file in PLUGINS], theirs))
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


def _work(name: str, request: Request, plugins: list[str], answer: Connection) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a network prints is no part of the table
            for file in plugins:
                add_plugin(file)
            finding = examine(name, request)
    except Exception as error:
        finding = Finding(name, "FAILED", first_line(error))
    answer.send(finding)


def examine(name: str, request: Request | None = None) -> Finding:
    """Build ``name``, test its fit, slice it at half, test the slice and maybe export it; see :class:`Finding`."""
    request = request or Request()
    try:
        network, shape = _built(name, request)
    except BenchError as error:
        return Finding(name, "skipped", _without_name(error, name))
    coupling, note = request.coupling, ""
    try:
        found = _fit(name, network, shape, coupling, request)
    except BenchError as error:
        none = error.__cause__
        if not isinstance(none, NoSite) or not none.sites:
            return Finding(name, "skipped", _without_name(error, name), shape, coupling)
        coupling, note = "full", f"no site with {coupling}"
        try:
            found = _fit(name, network, shape, coupling, request)
        except BenchError as other:
            return Finding(name, "skipped", _without_name(other, name), shape, coupling)
    sites, model = found.sites, found.model
    least = model.macs(np.ones_like(model.dense)) / model.macs(model.dense)
    if note:
        note = f"{note}; {len(sites)} with full, least MACs {percent(least)}"
    elif found.note:
        note = f"runs in {found.layout} memory format: {found.note}"
    about = Finding(name, "pass", note, shape, coupling, len(sites), sum(sites.widths.values()), least)
    about = dataclasses.replace(about, seconds=found.seconds, rejected=sites.rejected)
    generator = torch.Generator().manual_seed(0)
    masks = {n: torch.randperm(w, generator=generator) < (w + 1) // 2 for n, w in sites.widths.items()}
    try:
        difference = _difference(network, sites, masks, shape)
        sliced = sites.slice(network, masks)
        macs = _macs(sliced, model, masks, shape)
        exported = _exported(sliced, shape) if request.onnx else None
    except RunFailed as error:
        return dataclasses.replace(about, outcome="FAILED", why=str(error))
    params = flops.parameters(sliced) / flops.parameters(network)
    return dataclasses.replace(about, keep_macs=macs, keep_params=params, difference=difference, onnx=exported)


def _without_name(error: BenchError, name: str) -> str:
    return re.sub(rf"^architecture '{re.escape(name)}':? ", "", str(error))


def _fit(name: str, network: nn.Module, shape: Shape, coupling: str, request: Request) -> Fit:
    """What a run needs to know; raises BenchError where one would be refused."""
    device = pick_device("cpu")
    precision = pick_precision(request.recipe.precision, device)
    return fit(name, network, Situation(shape, request.classes, coupling, request.recipe, device, precision))


def _built(name: str, request: Request) -> tuple[nn.Module, Shape]:
    """The network and the shape of its images, the smallest that it takes where none is asked for.

    Raises BenchError where it cannot be built, also for the largest images; whether it runs is not looked at here.
    """
    if request.shape is not None:
        return build(name, request.shape, request.classes), request.shape
    sides: tuple[int, ...] = SIDES[1:] if name.startswith("torchvision:") else SIDES
    if name.startswith("timm:"):
        own = image_size(name.removeprefix("timm:"))
        sides = SIDES if own is None or own in SIDES else (*SIDES, own)
    for side in sides:
        shape = (3, side, side)
        try:
            network = build(name, shape, request.classes)
            with torch.no_grad():
                network.eval()(torch.zeros(2, *shape))
        except Exception:  # whatever a network raises for images that are too small
            if side == sides[-1]:
                return build(name, shape, request.classes), shape
        else:
            return network, shape
    raise AssertionError("there is a largest side")


def _difference(network: nn.Module, sites: Sites, masks: dict[str, Tensor], shape: Shape) -> float:
    probe = randomized_copy(network)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sliced = sites.slice(probe, masks)
    difference = gate_slice_difference(probe, sliced, sites.bind(probe), masks, x, least=1e-30)
    if not difference <= TOLERANCE:
        raise RunFailed(f"gated and sliced network differ by {difference:.1e}")
    with torch.no_grad():
        if torch.equal(probe(x), sliced(x)):
            raise RunFailed("its output does not depend on the units that were removed")
    return difference


def _macs(sliced: nn.Module, model: CostModel, masks: dict[str, Tensor], shape: Shape) -> float:
    """Share of the MACs that the slice keeps; the cost model and fvcore must agree."""
    foreseen = model.macs(model.array({name: int(mask.sum()) for name, mask in masks.items()}))
    counted = flops.count(sliced, shape).total
    if counted != foreseen:
        raise RunFailed(f"fvcore counts {counted:,} MACs, the cost model {foreseen:,}")
    return counted / model.macs(model.dense)


def _exported(sliced: nn.Module, shape: Shape) -> float:
    """Difference of the exported network's outputs in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        return to_onnx(sliced, shape, Path(folder) / "network.onnx").difference
