"""ONNX files that any tool made: read without running code of theirs, and run by onnxruntime alone.

Libraries of custom operators are not loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.errors import RunFailed, UsageError
from bench.measure import onnx_export
from bench.models.error_place import first_line

MAX_BYTES = 2**30
"""Of a file and its external data together, unless the user says otherwise; a model beyond 2 GiB is no single file."""
QUANTIZED = 0.05
"""Tolerance of files in 8-bit integers, which each runtime rounds in its own way: some steps of 1/128."""
FLOAT32 = 1
"""``onnx.TensorProto.FLOAT``."""


class OnnxFile:
    """A network of one float32 input ``[batch, channels, rows, columns]``.

    Attributes:
        name: of the file, for messages.
        model: the graph, functions of the file inlined, external data read.
        input: name of its input.
        shape: of one image; None where the file leaves it open.
        batch: images of one call; None: any.

    Raises:
        UsageError: no such file, no ONNX, too large, external data missing, or another kind of input.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.name = path.name
        self.model = _read(path, max_bytes)
        graph = self.model.graph
        stored = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in stored]
        if len(inputs) != 1:
            named = ", ".join(value.name for value in inputs) or "no input"
            raise UsageError(f"{self.name} has {len(inputs)} inputs ({named}): only networks of one image are scored")
        kind = inputs[0].type.tensor_type
        sizes: list[int | None] = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if kind.elem_type != FLOAT32 or len(sizes) != 4:
            raise UsageError(f"{self.name}: its input {inputs[0].name} is not float32 [batch, channels, rows, columns]")
        self.input: str = inputs[0].name
        self.batch = sizes[0]
        image = tuple(size for size in sizes[1:] if size is not None)
        self.shape = image if len(image) == 3 else None

    @property
    def metadata(self) -> dict[str, str]:
        """Texts that the tool stored in the file."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @property
    def tolerance(self) -> float:
        """By how much the outputs of two runtimes may differ, as a share of the largest."""
        kinds = {node.op_type for node in self.model.graph.node}
        return QUANTIZED if any("Quantize" in kind or "QLinear" in kind for kind in kinds) else onnx_export.TOLERANCE

    @cached_property
    def content(self) -> bytes:
        """The file with its external data."""
        content: bytes = self.model.SerializeToString(deterministic=True)
        return content

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Name -> value of each stored tensor."""
        import onnx

        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    def bind(self) -> onnx_export.Bind:
        """The network in onnxruntime on the CPU; raises RunFailed where it refuses the file."""
        try:
            return onnx_export.load(self.content)
        except Exception as error:  # onnxruntime has exceptions of its own, with no common base
            raise RunFailed(f"{self.name} does not run in onnxruntime: {first_line(error)}") from error

    def values(self, names: Iterable[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """What tensors of the graph are for one image of noise (so many as a call takes), nothing optimized away.

        Raises RunFailed where the file does not run.
        """
        import onnx

        wanted = sorted(set(names) - set(self.constants) - {self.input, ""})
        opened = type(self.model)()
        opened.CopyFrom(self.model)
        del opened.graph.output[:]
        opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        x = torch.randn(self.batch or 1, *shape, generator=torch.Generator().manual_seed(0))
        try:
            found = onnx_export.load(opened.SerializeToString(), optimized=False)(x)()
        except Exception as error:  # see bind
            raise RunFailed(f"{self.name} does not run in onnxruntime: {first_line(error)}") from error
        return {self.input: x.numpy()} | self.constants | dict(zip(wanted, found, strict=True))


def _read(path: Path, max_bytes: int) -> Any:
    onnx_export.require()
    import onnx
    import onnx.inliner

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    _require_size(path.name, path.stat().st_size, max_bytes)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's
        raise UsageError(f"{path.name} is no ONNX file") from error
    if not model.graph.node:
        raise UsageError(f"{path.name} is no ONNX file, or an empty one")
    places = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for place in sorted(places):
        if not (path.parent / place).is_file():
            raise UsageError(f"{path.name} keeps its weights in {place}, which is not next to it")
    _require_size(path.name, sum(file.stat().st_size for file in (path, *map(path.parent.joinpath, places))), max_bytes)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # a place outside of the folder, a file that is too short
        raise UsageError(f"{path.name}: its external data cannot be read: {first_line(error)}") from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _require_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UsageError(f"{name} has {size:,} bytes, more than {max_bytes:,}: allow more with --max-bytes {size}")


def attributes(node: Any) -> dict[str, Any]:
    """Name -> value of the attributes of a node."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
