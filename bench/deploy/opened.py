"""Networks that any tool made, from a file or a record: what they cost, what they answer, and how they are timed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.data.image_set import ImageSet
from bench.deploy import program_file, saved_file
from bench.errors import RunFailed, UsageError
from bench.measure import flops, onnx_export, onnx_file, onnx_macs, products, runtimes
from bench.measure.accuracy import EVALUATION_BATCH, logits_of
from bench.measure.onnx_export import Bind
from bench.measure.onnx_file import OnnxFile
from bench.measure.products import NetworkCount
from bench.models.build import Shape, build
from bench.models.error_place import first_line
from bench.models.external import require_fit
from bench.models.memory_format import LAYOUT, LAYOUTS, laid_out, place
from bench.models.shared_parameters import copied
from bench.records import store
from bench.records.lookup import find_one
from bench.records.schema import Finished, finished
from bench.runs.artifacts import RunArtifacts
from bench.spec.registry import ARCHS, model_name
from bench.training.checkpoint import load_metadata, load_tensors, weight_bytes

FORMS = ".onnx, .pt2, file:PATH:FUNCTION[:WEIGHTS.safetensors], torchvision:NAME:WEIGHTS, timm:NAME.WEIGHTS, or an id"
CPU = torch.device("cpu")
PICKLES = (".pt", ".pth", ".pkl", ".ckpt", ".bin")
RUN_FILES = tuple(name for name, how in runtimes.RUNTIMES.items() if how.load_file)
"""Runtimes that take an ONNX file as it is."""


@dataclass(frozen=True)
class Where:
    """How texts that name networks are read.

    Attributes:
        shape, classes: of the images.
        out: folder of runs, for ids.
        max_bytes: largest file.
        download: whether published weights may be fetched.
    """

    shape: Shape
    classes: int
    out: Path
    max_bytes: int = onnx_file.MAX_BYTES
    download: bool = False


@dataclass(frozen=True)
class Facts:
    """What a network says of the images it wants, and of the run that made it; None where it says nothing."""

    dataset: str | None = None
    seed: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Opened(ABC):
    """A network on the CPU, of one float32 input ``[B, *shape]`` and logits ``[B, classes]``.

    Attributes:
        name: without folders.
        form: ``onnx``, ``program``, ``module`` or ``record``.
        batch: images of one call; None: any.
        layout: memory format that it takes, where that is its own choice; that of most networks otherwise.
        where: images and places.
    """

    name: str
    form: str
    batch: int | None
    layout: str = LAYOUT
    where: Where

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of the file, or of the weights."""

    @abstractmethod
    def logits(self, images: ImageSet) -> Tensor:
        """Outputs ``[N, classes]``."""

    @abstractmethod
    def bind(self, runtime: str, device: torch.device, layout: str, file: Path) -> Bind:
        """The network in a runtime, which may keep what it needs in ``file``."""

    @property
    @abstractmethod
    def cost(self) -> tuple[NetworkCount, int, int]:
        """Products, parameters, bytes."""

    @abstractmethod
    def as_file(self) -> OpenedFile:
        """The network as an ONNX file."""


class OpenedFile(Opened):
    """An ONNX file."""

    form = "onnx"

    def __init__(self, path: Path, where: Where, name: str | None = None) -> None:
        self.file = OnnxFile(path, where.max_bytes)
        self.name, self.where, self.batch = name or path.name, where, self.file.batch
        if self.file.shape is not None and self.file.shape != where.shape:
            raise UsageError(_other_shape(self.name, _by(self.file.shape), where))

    @property
    def sha256(self) -> str:
        """See :class:`Opened`; with its external data."""
        return hashlib.sha256(self.file.content).hexdigest()

    def logits(self, images: ImageSet) -> Tensor:
        """See :class:`Opened`; the last call of a file with a fixed batch is filled up."""
        bind, size = self.file.bind(), self.batch or EVALUATION_BATCH
        found = []
        for x, _ in images.batches(size):
            filled = torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if self.batch else x
            try:
                outputs = bind(filled)()
            except Exception as error:  # onnxruntime has exceptions of its own
                raise RunFailed(f"{self.name} does not run in onnxruntime: {first_line(error)}") from error
            found.append(self._picked(outputs, len(filled))[: len(x)])
        return torch.cat(found)

    def _picked(self, outputs: list[object], size: int) -> Tensor:
        shapes = [tuple(getattr(out, "shape", ())) for out in outputs]
        wanted = size, self.where.classes
        if shapes.count(wanted) != 1:
            given = " and ".join(map(str, shapes))
            raise UsageError(f"{self.name} gives {given} for {size} images, not one output of logits {wanted}")
        return torch.as_tensor(outputs[shapes.index(wanted)]).float()

    def bind(self, runtime: str, device: torch.device, layout: str, file: Path) -> Bind:
        """See :class:`Opened`; raises UsageError for a runtime that takes no such file."""
        require_runs(self, runtime)
        if not file.exists():
            file.write_bytes(self.file.content)
        return runtimes.load_file(runtime, file.read_bytes(), self.file.tolerance)

    @cached_property
    def cost(self) -> tuple[NetworkCount, int, int]:
        """See :class:`Opened`; parameters are the elements of stored tensors that products or norms read."""
        stored = self.file.constants
        params = sum(value.size for value in stored.values() if value.dtype.kind == "f" or value.dtype.itemsize == 1)
        return onnx_macs.count(self.file, self.where.shape), params, len(self.file.content)

    def as_file(self) -> OpenedFile:
        """Itself."""
        return self


class OpenedModule(Opened):
    """A network of torch, in eval mode."""

    batch = None

    def __init__(self, network: nn.Module, name: str, form: str, where: Where, layout: str | None = None) -> None:
        self.network, self.name, self.form, self.where = network.eval(), name, form, where
        self.layout = layout or _layout_of(network, where.shape)

    @property
    def sha256(self) -> str:
        """See :class:`Opened`."""
        found = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def logits(self, images: ImageSet) -> Tensor:
        """See :class:`Opened`."""
        return logits_of(place(self.network, CPU, self.layout), images.laid_out(self.layout))

    def bind(self, runtime: str, device: torch.device, layout: str, file: Path) -> Bind:
        """See :class:`Opened`."""
        return runtimes.load(runtime, self.network, self.where.shape, device, layout, file)

    @cached_property
    def cost(self) -> tuple[NetworkCount, int, int]:
        """See :class:`Opened`; raises RunFailed where two counters disagree."""
        found, counted = products.read(self.network, self.where.shape), flops.count(self.network, self.where.shape)
        if found.macs != counted.products:
            raise RunFailed(f"{self.name}: its operators cost {found.macs:,} MACs, fvcore counts {counted.products:,}")
        return found, flops.parameters(self.network), weight_bytes(self.network)

    def as_file(self) -> OpenedFile:
        """Its export, checked against it."""
        content = onnx_export.convert(self.network, self.where.shape)
        onnx_export.check_onnx(content, self.network, self.where.shape)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(content)
            return OpenedFile(path, self.where, self.name)


def _layout_of(network: nn.Module, shape: Shape) -> str:
    """The first memory format that a network takes; one that views maps as rows does not take the usual one."""
    for layout in LAYOUTS:
        try:
            with torch.inference_mode():
                place(copied(network), CPU, layout)(laid_out(torch.zeros(2, *shape), layout))
        except RuntimeError:  # of a view, or what the next one fails with too
            continue
        return layout
    return LAYOUT


def require_runs(network: Opened, runtime: str) -> None:
    """Raise UsageError where a runtime cannot take a network."""
    if network.form == "onnx" and runtime not in RUN_FILES:
        raise UsageError(f"--runtimes {runtime}: {network.name} is an ONNX file; use {' or '.join(RUN_FILES)}")


def opened(text: str, which: str, where: Where) -> Opened:
    """The network that a user named.

    Args:
        text: a file, or (the start of) a record's id.
        which: network of a record: ``final`` or ``dense``.
        where: how to read it.

    Raises:
        UsageError: there is no such network, or it is of another kind.
        SetupError: a package or a file of the run is missing.
        RunFailed: the file cannot be read, or is not the recorded one.
    """
    path = Path(text)
    if text.startswith("file:"):
        return _from_function(text, where)
    if path.suffix == ".onnx":
        return OpenedFile(path, where)
    if path.suffix in PICKLES:
        raise UsageError(f"{path.name}: such files run code when loaded; give {FORMS}")
    if path.suffix == ".safetensors":
        raise UsageError(f"{path.name} holds weights, not a network: give file:PATH:FUNCTION:{path.name}")
    if path.suffix == ".pt2":
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        if path.stat().st_size > where.max_bytes:
            raise UsageError(f"{path.name} has {path.stat().st_size:,} bytes, more than --max-bytes {where.max_bytes}")
        network = program_file.load(path)
        _require_fit(path.name, network, where)
        return OpenedModule(network, path.name, "program", where)
    if text.partition(":")[0] in ARCHS.prefixes:
        return OpenedModule(build(text, where.shape, where.classes, 0, where.download), text, "module", where)
    stored = RunArtifacts(record_of(text, where.out), where.out)
    if (stored.shape, stored.classes) != (where.shape, where.classes):
        raise UsageError(_other_shape(stored.record.id, f"{_by(stored.shape)} and {stored.classes} classes", where))
    return OpenedModule(stored.network(which), f"{stored.record.id} {which}", "record", where, stored.layout)


def record_of(text: str, out: Path) -> Finished:
    """The finished record that a user named; raises UsageError."""
    try:
        found = store.load(find_one(text, out))
    except UsageError as error:
        raise UsageError(f"{error}; a network is {FORMS}") from error
    if not finished(found):
        raise UsageError(f"run {found.id} {found.status}, it left no network")
    return found


def facts_of(text: str, out: Path, max_bytes: int) -> Facts:
    """What a network says before it is opened: a record, or an ONNX file that the suite exported."""
    path = Path(text)
    if path.suffix == ".onnx":
        return _said(OnnxFile(path, max_bytes).metadata)
    if ":" in text or path.suffix in (*PICKLES, ".pt2", ".safetensors"):
        return Facts()
    spec = record_of(text, out).spec
    return Facts(spec.dataset, spec.seed)


def _said(metadata: Mapping[str, str]) -> Facts:
    """The metadata of ``bench export``, which are texts of a file and may be anything."""
    seed = metadata.get("record", "").rpartition("-s")[2]

    def numbers(key: str) -> tuple[float, ...] | None:
        try:
            return tuple(float(value) for value in json.loads(metadata[key]))
        except (KeyError, ValueError, TypeError):
            return None

    return Facts(metadata.get("dataset"), int(seed) if seed.isdecimal() else None, numbers("mean"), numbers("std"))


def _from_function(text: str, where: Where) -> OpenedModule:
    """``file:PATH:FUNCTION[:WEIGHTS.safetensors]``."""
    source, _, weights = text.rpartition(":") if text.endswith(".safetensors") else (text, "", "")
    network = build(model_name(source), where.shape, where.classes)
    name = f"{Path(source.removeprefix('file:').rpartition(':')[0]).name}:{source.rpartition(':')[2]}"
    if weights:
        path = Path(weights)
        if not path.is_file():
            raise UsageError(f"{weights}: no such file")
        if saved_file.KEY in load_metadata(path):  # of PrunedNetwork.save
            network, _ = saved_file.load(path, lambda: network)
            return OpenedModule(network, f"{name}:{path.name}", "module", where)
        tensors = load_tensors(path)
        problem = next(_misfits(network, tensors), "")
        if problem:
            raise UsageError(f"{path.name} does not fit {name}: {problem}")
        network.load_state_dict(tensors)
        name += f":{path.name}"
    return OpenedModule(network, name, "module", where)


def _misfits(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What keeps a network from taking tensors."""
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors:
            yield f"only {'the file' if name in tensors else 'the network'} has {name}"
        elif own[name].shape != tensors[name].shape:
            yield f"{name} is {_by(tensors[name].shape)} in the file, {_by(own[name].shape)} in the network"


def _require_fit(name: str, network: nn.Module, where: Where) -> None:
    try:
        require_fit(name, network, where.shape, where.classes)
    except UsageError as error:
        raise UsageError(str(error).replace("architecture ", "", 1)) from error


def _other_shape(name: str, theirs: str, where: Where) -> str:
    grey = "; save grey images as RGB for a network for colours" if where.shape[0] == 1 else ""
    return (
        f"{name} takes images of {theirs}, the data set has {_by(where.shape)} and {where.classes} classes: choose "
        f"another with --dataset (folder:PATH@SIZE resizes{grey})"
    )


def _by(sizes: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, sizes)) or "one number"
