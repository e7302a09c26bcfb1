"""Programs that execute a network, one entry each: what it takes, how it is set, and that it computes the same.

Packages of runtimes are imported where they are used; :func:`require` says what to do where one is missing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError, RunFailed, SetupError, UsageError
from bench.files import write_atomic
from bench.measure import onnx_export
from bench.measure.onnx_export import TOLERANCE, Bind
from bench.models.error_place import first_line
from bench.models.memory_format import LAYOUT, laid_out, place
from bench.spec.near_names import unknown

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """A program that executes a network, from a module or from an ONNX file.

    Attributes:
        package: whose version is recorded.
        require: given the device, raises SetupError where it cannot run.
        load: ``(network, device, layout)`` -> what binds the network to images; None where it takes files.
        load_file: the content of an ONNX file -> what binds it to images; None where it takes modules.
        settings: how it is set, apart from the threads, as recorded.
        calls: whether much of what it takes at batch 1 is calls from Python, whatever the network.
        quick: whether a network is loaded in well below a second, so that tables can be made of many.
    """

    package: str
    require: Callable[[torch.device], object]
    load: Callable[[nn.Module, torch.device, str], Bind] | None = None
    load_file: Callable[[bytes], Bind] | None = None
    settings: Callable[[], dict[str, str]] = dict
    calls: bool = False
    quick: bool = True

    @property
    def device(self) -> torch.device | None:
        """The only one it runs on here; None for any."""
        return CPU if self.load_file else None

    @property
    def layout(self) -> str | None:
        """Memory format of the images; None for that of the networks."""
        return "channels_first" if self.load_file else None


def eager(network: nn.Module, device: torch.device, layout: str = LAYOUT) -> Bind:
    """``network`` itself, layer by layer: eval mode, float32, memory format as in ``bench.models.memory_format``."""
    placed = place(network, device, layout).float().eval()
    return lambda x: partial(placed, laid_out(x, layout))


# --- torch.compile --------------------------------------------------------------------------------------------------


def _require_compiler(device: torch.device) -> None:
    """Raise SetupError where torch.compile has nothing to compile with."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise SetupError("compile: triton is not installed here, which torch.compile writes GPU code with")
    elif shutil.which(_cpp_compiler()) is None:
        raise SetupError(f"compile: there is no C++ compiler {_cpp_compiler()} here: install one, or name it in CXX")


def _cpp_compiler() -> str:
    """The program that torch.compile calls."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def _compile_settings() -> dict[str, str]:
    said = subprocess.run([_cpp_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    return {"dynamic": "False", "fullgraph": "True", "compiler": " ".join(said.partition("\n")[0].split())[:100]}


def _compiled(network: nn.Module, device: torch.device, layout: str) -> Bind:
    placed = place(network, device, layout).float().eval()

    def forward(x: Tensor) -> Any:
        return placed(x)

    # torch keeps eight compiled versions of a code object and runs what comes later eagerly: each network has its own
    own = types.FunctionType(forward.__code__.replace(), globals(), closure=forward.__closure__)
    call = torch.compile(own, dynamic=False, fullgraph=True)
    return lambda x: partial(call, laid_out(x, layout))


# --- OpenVINO -------------------------------------------------------------------------------------------------------

OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False, "NUM_STREAMS": 1}
"""Its own choice is bfloat16 where the CPU has it, and threads that stay on a core, also where others use that core."""


def _require_openvino(device: torch.device) -> None:
    """Raise SetupError where OpenVINO or what exports networks is missing."""
    onnx_export.require()
    if importlib.util.find_spec("openvino") is None:
        raise SetupError('openvino not installed here: pip install -e ".[onnx,openvino]"')


PLACES = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")
"""How lines of its errors begin that say where in its code, or only that it failed."""


@functools.cache
def _openvino() -> Any:
    """The package, without telemetry: importing it would send a message and write files below the home folder."""
    telemetry = "openvino_telemetry"
    if telemetry in sys.modules or "openvino" in sys.modules:
        import openvino
    else:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            import openvino
        finally:
            del sys.modules[telemetry]
    return openvino


def _load_openvino(content: bytes) -> Bind:
    """An ONNX file in OpenVINO on the CPU, compiled for each number of images, with as many threads as torch has."""
    openvino = _openvino()
    core, precision = openvino.Core(), getattr(openvino.Type, str(OPENVINO["INFERENCE_PRECISION_HINT"]))
    settings = OPENVINO | {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}

    def bind(x: Tensor) -> Callable[[], Any]:
        model = core.read_model(content, b"")
        model.reshape(list(x.shape))
        compiled = core.compile_model(model, "CPU", settings)
        for name, asked in settings.items():
            if (found := compiled.get_property(name)) != asked:
                raise RunFailed(f"openvino has {name} {found}, and {asked} was asked for")
        request, images = compiled.create_infer_request(), x.contiguous().numpy()
        return partial(request.infer, [images], share_inputs=True, share_outputs=True)

    return bind


# --- all ------------------------------------------------------------------------------------------------------------

YARDSTICK = "onnxruntime"
"""What other runtimes are compared with where there is no network of PyTorch, and which says what is too slow."""
RUNTIMES = {
    "eager": Runtime("torch", lambda device: None, eager, calls=True),
    "compile": Runtime(
        "torch",
        _require_compiler,
        _compiled,
        settings=_compile_settings,
        calls=True,
        quick=False,
    ),
    "onnxruntime": Runtime(
        "onnxruntime",
        lambda device: onnx_export.require(),
        load_file=onnx_export.load,
        settings=lambda: dict(onnx_export.SETTINGS),
    ),
    "openvino": Runtime(
        "openvino",
        _require_openvino,
        load_file=_load_openvino,
        settings=lambda: {name: str(value) for name, value in OPENVINO.items()},
    ),
}


def require(runtimes: Iterable[str], device: torch.device = CPU, many: bool = False) -> None:
    """Raise UsageError for an unknown runtime, or a slow one for ``many`` networks; SetupError where it cannot run."""
    for name in runtimes:
        if name not in RUNTIMES:
            raise unknown("runtime", name, RUNTIMES)
        if many and not RUNTIMES[name].quick:
            quick = ", ".join(other for other, how in RUNTIMES.items() if how.quick)
            raise UsageError(f"runtime {name} takes 10 s or more to load one of many networks: use {quick}")
        RUNTIMES[name].require(device)


def place_of(runtime: str, device: torch.device, layout: str) -> tuple[torch.device, str]:
    """Device and memory format in which a runtime runs a network, for which these were asked."""
    how = RUNTIMES[runtime]
    return how.device or device, how.layout or layout


def version_of(runtime: str) -> str:
    """Version of the package that executes networks."""
    return metadata.version(RUNTIMES[runtime].package)


def load_file(runtime: str, content: bytes, tolerance: float = TOLERANCE) -> Bind:
    """An ONNX file of any tool in a runtime that takes such files, its outputs compared with onnxruntime's.

    Raises RunFailed: the runtime does not take the file; when bound, also: outputs differ by more than ``tolerance``.
    """
    bind = _loaded(runtime, content)
    if runtime == YARDSTICK:
        return bind
    return _checked(runtime, bind, _loaded(YARDSTICK, content), YARDSTICK, tolerance)


def _loaded(runtime: str, content: bytes) -> Bind:
    load_file = RUNTIMES[runtime].load_file
    assert load_file is not None
    with _named(runtime):
        return load_file(content)


def load(
    runtime: str,
    network: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    layout: str,
    file: Path | None = None,
    quick: bool = False,
) -> Bind:
    """``network`` in a runtime: what binds it to images, after its output on them was compared with PyTorch's.

    Args:
        runtime: of ``RUNTIMES``; with as many threads as torch has.
        network: moved to ``device`` and ``layout``.
        shape: of one image.
        device: as of :func:`place_of`.
        layout: as of :func:`place_of`.
        file: where a network that has to be converted is kept, and taken from the next time.
        quick: convert as for tables of many networks, see :func:`bench.measure.onnx_export.convert`.

    Raises:
        RunFailed: the runtime does not take the network; when bound, also: it computes something else.
    """
    how = RUNTIMES[runtime]
    if how.load_file is None:
        assert how.load is not None
        bind = how.load(network, device, layout)
    else:
        if file is not None and file.exists():
            content = file.read_bytes()
        else:
            content = onnx_export.convert(network, shape, quick=quick)
            if file is not None:
                write_atomic(file, lambda temporary: temporary.write_bytes(content))
        bind = _loaded(runtime, content)
    return bind if runtime == "eager" else _checked(runtime, bind, eager(network, device, layout), "PyTorch")


def _checked(runtime: str, bind: Bind, reference: Bind, whose: str, tolerance: float = TOLERANCE) -> Bind:
    """``bind``, which raises RunFailed where the outputs are not those of ``reference``."""

    @torch.inference_mode()
    def bound(x: Tensor) -> Callable[[], Any]:
        with _named(runtime), onnx_export.silent():
            call = bind(x)
            output = call()
        try:
            pairs = zip(_tensors(output), _tensors(reference(x)()), strict=True)
            differences = [onnx_export.difference(*pair, whose) for pair in pairs]
        except RunFailed as error:
            raise RunFailed(f"{runtime}: {error}") from error
        for difference in (found for found in differences if not found <= tolerance):  # not a number fails too
            raise RunFailed(
                f"{runtime} and {whose} differ by {difference:.2e} of the largest output at batch {len(x)}, above "
                f"{tolerance:g}: it may compute in a shorter type"
            )
        return call

    return bound


def _tensors(output: Any) -> list[Tensor]:
    """A network's output, or those of a file, which have numbers in every runtime."""
    if isinstance(output, Tensor):
        return [output]
    return [torch.from_numpy(output[place]) for place in range(len(output))]


@contextlib.contextmanager
def _named(runtime: str) -> Iterator[None]:
    """Within the block the exceptions of a runtime, which have no common base, are RunFailed with their first line."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if not line.startswith(PLACES)]
        said = next(filter(None, lines), "")
        why = f"{type(error).__name__}: {said}" if said else first_line(error)
        raise RunFailed(f"{runtime} does not run the network: {why}") from error
