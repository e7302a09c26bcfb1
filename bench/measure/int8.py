"""A network in 8-bit integers: statically quantized by onnxruntime, to see what of a ranking survives it.

Activations are unsigned: with signed ones, onnxruntime's default, its kernels are no faster than float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import RunFailed
from bench.measure import onnx_export
from bench.measure.accuracy import EVALUATION_BATCH, Batched
from bench.measure.onnx_export import INPUT, silent

CALIBRATION = (4, 128)
"""Batches of training images, and images of each, from which the ranges of activations are taken."""


def calibration(images: Iterator[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The first batches of ``images`` (see ``CALIBRATION``); raises RunFailed where all are of one class."""
    taken = [batch for batch, _ in zip(images, range(CALIBRATION[0]))]
    if len({label for _, labels in taken for label in labels.tolist()}) < 2:
        raise RunFailed(
            "calibration: all images are of one class, and ranges of activations would be those of it alone"
        )
    return [x for x, _ in taken]


def quantized(content: bytes, images: Sequence[Tensor]) -> bytes:
    """An ONNX file in int8: QDQ, weights int8 by channel, activations uint8, ranges of ``images`` (least to most).

    Raises RunFailed where onnxruntime cannot.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {INPUT: x.contiguous(memory_format=torch.contiguous_format).cpu().numpy()}

    with tempfile.TemporaryDirectory(prefix="bench-") as folder, silent():
        given, prepared, made = (Path(folder) / name for name in ("given.onnx", "prepared.onnx", "int8.onnx"))
        given.write_bytes(content)
        try:
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            quantize_static(
                *(prepared, made, Reader()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return made.read_bytes()
        except Exception as error:  # onnxruntime's, onnx's and numpy's
            lines = str(error).strip().splitlines() or [""]
            raise RunFailed(f"no int8: {type(error).__name__}: {lines[0]}") from error


def convolutions(content: bytes) -> tuple[int, int]:
    """Convolutions that compute in integers once onnxruntime has optimized a file, and all of them."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 4  # it warns that the file is for this machine only
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    integer = sum(kind in ("QLinearConv", "ConvInteger") for kind in kinds)
    return integer, integer + sum(kind.endswith("Conv") and not kind.startswith("QLinear") for kind in kinds)


def logits_of(content: bytes, images: Batched) -> Tensor:
    """Outputs ``[N, classes]`` of an ONNX file on ``images``."""
    bind = onnx_export.load(content)
    return torch.cat([torch.from_numpy(bind(x)()[0]) for x, _ in images.batches(EVALUATION_BATCH)])


def files(network: nn.Module, shape: tuple[int, ...], images: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """``network`` as an ONNX file in float32, checked against it, and in int8; raises RunFailed where that fails."""
    content = onnx_export.convert(network, shape, quick=True)
    onnx_export.check_onnx(content, network, shape)
    return content, quantized(content, images)
