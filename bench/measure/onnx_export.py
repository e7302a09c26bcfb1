"""Export to ONNX; a file is written only if its outputs equal those of the network.

With ``onnx_file`` the door of onnx, and the only one of onnxruntime. They are the optional extra ``onnx``, so they
are imported inside functions; :func:`require` says what to do where they are missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import RunFailed, SetupError, UsageError
from bench.files import write_atomic
from bench.models.shared_parameters import copied, plain

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
"""Operator set of the files: the one that torch's exporter writes by itself, so that nothing has to be converted."""

INPUT, OUTPUT = "images", "logits"
TOLERANCE = 1e-4
"""Largest difference to PyTorch, as a share of the largest output, also where outputs are tiny (rounding: 1e-6)."""

CHECKED_BATCHES = (1, 5)
"""Batch sizes of the random images that are compared; the network is exported at neither."""

SETTINGS = {"session.force_spinning_stop": "1"}
"""Of onnxruntime. Threads that keep spinning after a call would take the cores from the network that is timed next."""

Bind = Callable[[Tensor], Callable[[], Any]]
"""Images ``[B, *shape]`` -> a call that runs a network on them, with nothing left to prepare."""


@dataclass(frozen=True)
class Exported:
    """A file that was written: where, its size, and by how much it differs from PyTorch (see :func:`check_onnx`)."""

    path: Path
    bytes: int
    difference: float


def require() -> None:
    """Raise SetupError unless all that the export needs is installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f'{", ".join(missing)} not installed here: pip install -e ".[onnx]"')


def require_free(path: Path, replace: bool) -> None:
    """Raise UsageError unless a file may be written to ``path``."""
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder: give the name of a file, such as {path / 'network.onnx'}")
    if os.path.exists(path) and not replace:  # pathlib raises for a name that is too long
        raise UsageError(f"{path} is already there: choose another name, or replace it with --force")


def to_onnx(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    images: Tensor | None = None,
    replace: bool = False,
) -> Exported:
    """Write ``network`` to an ONNX file, after comparing their outputs.

    The file has one input ``images``, float32 ``[batch, *shape]``, and one output ``logits``; ``batch`` is free.

    Args:
        network: any network of one input and one output; left as it is. Exported in eval mode and float32.
        shape: of one input, without the batch axis.
        path: where; a reader sees all of the file or none.
        metadata: texts to store in the file.
        images: compared as well, float32 ``[B, *shape]``, normalised.
        replace: whether an existing file may be replaced.

    Raises:
        SetupError: a package is missing, or the file cannot be written.
        UsageError: the file is already there.
        RunFailed: the network cannot be exported, or the file computes something else; no file is written.
    """
    require()
    require_free(path, replace)
    model = convert(network, shape, metadata)
    difference = check_onnx(model, network, shape, images)
    try:
        written = write_atomic(path, lambda p: p.write_bytes(model), exclusive=not replace)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another place") from error
    if not written:
        require_free(path, replace)
    return Exported(path, len(model), difference)


def convert(
    network: nn.Module, shape: tuple[int, ...], metadata: Mapping[str, str] | None = None, quick: bool = False
) -> bytes:
    """The content of an ONNX file of ``network``, see :func:`to_onnx`; the same network gives the same bytes.

    Args:
        network: see :func:`to_onnx`.
        shape: of one input, without the batch axis.
        metadata: texts to store in the file.
        quick: use torch's older exporter where it takes the network, in a tenth of the time. What a network does
            otherwise at another batch size is lost; runtimes need as long for its files.

    Raises RunFailed when the network cannot be exported.
    """
    frozen = _frozen(network)
    example = torch.zeros(2, *shape)  # 0 and 1 would be taken for constants
    try:
        with silent():
            model = _quickly(frozen, example) if quick else _exported(frozen, example)
    except Exception as error:  # whatever the exporter and the network's own code raise
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [""]
        name = type(network).__name__
        raise RunFailed(f"{name} cannot be exported to ONNX: {type(cause).__name__}: {lines[0]}") from error
    _strip(model)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString(deterministic=True)


def _exported(frozen: nn.Module, example: Tensor) -> Any:
    program = torch.onnx.export(
        frozen,
        (example,),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    return program.model_proto


def _quickly(frozen: nn.Module, example: Tensor) -> Any:
    try:
        return _traced(frozen, example)
    except Exception:  # of whatever kind
        return _exported(frozen, example)


def _traced(frozen: nn.Module, example: Tensor) -> Any:
    import onnx

    file = io.BytesIO()
    torch.onnx.export(
        frozen,
        (example,),
        file,  # type: ignore[arg-type]  # which says paths only
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
    )
    return onnx.load_from_string(file.getvalue())


def check_onnx(model: bytes | Path, network: nn.Module, shape: tuple[int, ...], images: Tensor | None = None) -> float:
    """Largest difference between the outputs of an ONNX file and of ``network`` in eval mode, float32, on the CPU.

    As a share of the largest output; over random images at several batch sizes, and over ``images``. Raises RunFailed
    when onnx's checker or onnxruntime refuses the file, or the difference exceeds ``TOLERANCE``.
    """
    import onnx

    content = model if isinstance(model, bytes) else model.read_bytes()
    frozen, generator = _frozen(network), torch.Generator().manual_seed(0)
    inputs = [torch.randn(batch, *shape, generator=generator) for batch in CHECKED_BATCHES]
    inputs += [] if images is None else [images.detach().float().cpu()]
    worst = 0.0
    try:
        onnx.checker.check_model(content, full_check=True)
        bind = load(content)
        outputs = [torch.from_numpy(bind(x)()[0]) for x in inputs]
    except Exception as error:  # both libraries have exceptions of their own, with no common base
        raise RunFailed(f"the ONNX file does not run: {type(error).__name__}: {error}") from error
    for x, got in zip(inputs, outputs):
        with torch.inference_mode():
            expected = frozen(x)
        found = difference(got, expected)
        if not found <= TOLERANCE:  # not a number fails too
            raise RunFailed(
                f"the ONNX file and PyTorch differ by {found:.2e} of the largest output at batch {len(x)}, "
                f"above {TOLERANCE:g}"
            )
        worst = max(worst, found)
    return worst


def difference(got: Tensor, expected: Tensor, whose: str = "PyTorch") -> float:
    """Largest difference to whose outputs, as a share of the largest; raises RunFailed for another shape."""
    if expected.shape != got.shape:
        raise RunFailed(f"its output is {list(got.shape)}, {whose}'s {list(expected.shape)}")
    size = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((expected - got).abs().max() / size)


def load(model: bytes | Path, optimized: bool = True) -> Bind:
    """An ONNX file of one input in onnxruntime on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors; they come as exceptions too
    for name, value in SETTINGS.items():
        options.add_session_config_entry(name, value)
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, bytes) else model.read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: partial(session.run, None, {name: x.contiguous().numpy()})


def _frozen(network: nn.Module) -> nn.Module:
    """A copy in eval mode, float32, on the CPU, in the plain memory format."""
    frozen = plain(copied(network).float().cpu()).to(memory_format=torch.contiguous_format)
    return frozen.requires_grad_(False)


def _strip(message: Any) -> None:
    """Remove what the exporter notes for debugging: stack traces with this machine's folders, names of classes."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if isinstance(value, Sequence) else (value,):
                _strip(inner)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Within the block nothing is printed, logged or warned of; exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as spoken:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(spoken):
                yield
    finally:
        logging.disable(before)
