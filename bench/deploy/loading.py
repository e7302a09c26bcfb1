"""``bench.load``: the network of a run, or of a file that ``PrunedNetwork.save`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from bench.deploy import saved_file
from bench.deploy.apart import apart
from bench.errors import UsageError
from bench.runs import python_api
from bench.spec.request import RunOptions

FILES = (".safetensors", ".pt", ".pth")
"""Suffixes of files of networks; of these only the first can be loaded."""
READERS = {".onnx": "onnxruntime.InferenceSession", ".pt2": "torch.export.load"}
"""Of files that :meth:`bench.PrunedNetwork.export` writes."""


def load(
    record: str | Path,
    out: str | Path = RunOptions.out,
    which: str = "final",
    plugins: Iterable[str] = (),
    *,
    build: Callable[[], nn.Module] | None = None,
) -> tuple[nn.Module, Any]:
    """A network on the CPU in evaluation mode, and what is known of it.

    Args:
        record: a file of :meth:`bench.PrunedNetwork.save`; or a run: file of its record, or (the start of) its id.
        out: folder that the run wrote to.
        which: ``final``, or ``dense``: the unpruned network that it is compared with.
        plugins: files that define what the record names.
        build: of a saved file: makes the dense network; its weights do not matter.

    Returns:
        The network, and the run's record; of a saved file what :meth:`bench.PrunedNetwork.as_dict` says, and versions.

    Raises:
        UsageError: there is no such record or file, or several records; ``build`` makes another network.
        SetupError: a file of the run is not there.
        RunFailed: a file is not as it was written, or the loaded network computes something else.
    """
    if Path(record).suffix in READERS:
        raise UsageError(f"{record} is a network that was exported: {READERS[Path(record).suffix]} reads it")
    if build is None and Path(record).suffix not in FILES:
        with apart():
            return python_api.load(record, out, which, plugins)
    if build is None and Path(record).suffix == FILES[0]:
        raise UsageError(f"{record} holds weights, not code: give build, which makes the dense network")
    with apart():
        return saved_file.load(Path(record), build or nn.Identity)
