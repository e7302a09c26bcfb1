"""Runs in int8: their test accuracy next to that in float32, and the milliseconds of both; a check, never a rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.errors import RunFailed
from bench.measure import accuracy, bursts, int8, runtimes
from bench.measure.quiet import Machine
from bench.records.latency import shape_of
from bench.records.schema import Finished
from bench.runs.artifacts import RunArtifacts
from bench.spec.digest import widths_sha256

SEED = 0
"""Of the order in which training images are taken for calibration."""
AT_ONCE = 16
"""Files that are loaded at once to be timed."""
Shape = tuple[str, str]
"""Hashes of architecture and widths: what time depends on."""


@dataclass(frozen=True)
class Int8Result:
    """A run's final network in both.

    Attributes:
        record: of the run.
        top1: of float32, of int8: shares of the test images.
        equal: share of the test images with the same prediction.
        convolutions: that compute in integers, and all of them.
        files: ONNX, float32 and int8.
    """

    record: Finished
    top1: tuple[float, float]
    equal: float
    convolutions: tuple[int, int]
    files: tuple[bytes, bytes]

    @property
    def shape(self) -> Shape:
        """Of the final network."""
        return self.record.structure.arch_sha256, widths_sha256(shape_of(self.record.structure))

    @property
    def dense_shape(self) -> Shape:
        """Of the dense network."""
        widths = {site: (before, before) for site, (before, _) in shape_of(self.record.structure).items()}
        return self.record.structure.arch_sha256, widths_sha256(widths)


def checked(record: Finished, out: Path, data_dir: Path) -> Int8Result:
    """Quantize the final network of a run on training images, and ask both networks about its test images.

    Raises:
        NotAvailable: a file of the run or its data are not here.
        RunFailed: the network cannot be quantized, or it does not answer in float32 as the run did.
    """
    stored = RunArtifacts(record, out)
    train, test = stored.images(data_dir)
    network = stored.final()
    files = int8.files(network, stored.shape, int8.calibration(train.mixed(int8.CALIBRATION[1], SEED)))
    answers = [accuracy.logits_of(network, test), int8.logits_of(files[1], test)]
    labels = test.labels.cpu()
    top1 = [accuracy.correct(logits, labels).double().mean().item() for logits in answers]
    if abs(top1[0] - record.metrics.final.top1) * len(labels) > 1:  # another CPU may move an image
        raise RunFailed(f"{record.id}: top-1 is {top1[0]:.4f} here and {record.metrics.final.top1:.4f} in the record")
    predictions = [logits.argmax(dim=1) for logits in answers]
    equal = (predictions[0] == predictions[1]).double().mean().item()
    return Int8Result(record, (top1[0], top1[1]), equal, int8.convolutions(files[1]), files)


def times(results: Sequence[Int8Result], threads: int, machine: Machine) -> dict[Shape, tuple[float, float]]:
    """Milliseconds of each shape and of the dense networks, float32 and int8: onnxruntime, batch 1, in bursts.

    Raises Busy where other work runs on the machine.
    """
    of_shape: dict[Shape, tuple[Finished, tuple[bytes, bytes]]] = {}
    for result in results:
        of_shape.setdefault(result.shape, (result.record, result.files))
    for result in results:
        if result.dense_shape not in of_shape:
            of_shape[result.dense_shape] = (result.record, _dense_files(result.record))
    found: dict[Shape, tuple[float, float]] = {}
    shapes = list(of_shape)
    with bursts.threads_of(threads):
        for start in range(0, len(shapes), AT_ONCE):
            group = shapes[start : start + AT_ONCE]
            calls = [call for shape in group for call in _calls(*of_shape[shape])]
            ms = bursts.lower_quartile(bursts.burst_ms(calls, machine)).reshape(-1, 2).tolist()
            found |= {shape: (both[0], both[1]) for shape, both in zip(group, ms, strict=True)}
    return found


def _dense_files(record: Finished) -> tuple[bytes, bytes]:
    """Of the dense network with weights that mean nothing, which time does not depend on."""
    stored = RunArtifacts(record, Path())
    noise = torch.randn(int8.CALIBRATION[1], *stored.shape, generator=torch.Generator().manual_seed(SEED))
    return int8.files(stored.shaped("dense"), stored.shape, [noise])


def _calls(record: Finished, files: Iterable[bytes]) -> list[bursts.Call]:
    x = torch.rand(1, *record.data.shape, generator=torch.Generator().manual_seed(SEED))
    return [runtimes.load_file("onnxruntime", content)(x) for content in files]
