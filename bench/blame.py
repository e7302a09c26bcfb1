"""Whose fault an error is, by its traceback: of the method, the architecture, the data, the machine, or the suite."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Method
from bench.errors import ARCHITECTURE, DATA, MACHINE, METHOD, SUITE, BenchError, SetupError
from bench.registry import ARCHS, DATASETS, METHODS, ROOT, Registry, model_file
from bench.spec import Spec

HERE = ROOT / "bench"
ANSWERS = {HERE / name for name in ("api.py", "choosing.py", "gates.py")}
"""Files of the suite that work on what a method returned."""
TORCH = Path(torch.__file__).resolve().parent
NO_MEMORY = "can't allocate memory"
"""What torch's allocator for the CPU says; it raises a plain RuntimeError."""


@dataclass(frozen=True)
class Call:
    """One call of a traceback.

    Attributes:
        file: whose source runs.
        line: of the file.
        owner: the object whose method it is; None for other functions.
        given: what a module was called with, in the frame that calls its forward; else None.
    """

    file: Path
    line: int
    owner: Any
    given: tuple[Any, ...] | None

    @property
    def place(self) -> str:
        """``net.py:24``."""
        return f"{self.file.name}:{self.line}"


def culprit(error: BaseException, spec: Spec, shape: tuple[int, ...] | None = None, acting: bool = False) -> str:
    """One of ``PARTIES``: the one that the error names, else the one that the innermost call belongs to.

    Calls of libraries and of the harness belong to nobody. A call of a network with something that is no batch of
    images of ``shape`` is the caller's. A backward pass, which has no calls, belongs to the method where one is
    ``acting``, since the network passed the test before the run; else to the network.
    """
    if isinstance(error, BenchError) and error.blame:
        return error.blame
    if isinstance(error, KeyboardInterrupt | MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error):
        return MACHINE
    files, calls = _files(spec), _calls(error)
    backward = bool(calls) and calls[-1].file.is_relative_to(TORCH / "autograd")
    while calls:
        call = calls.pop()
        party = _party(call, files)
        if party is not None:
            return party
        if isinstance(call.owner, nn.Module):
            inside = [call]
            while calls and isinstance(calls[-1].owner, nn.Module) and _party(calls[-1], files) is None:
                inside.append(calls.pop())
            if _take_images(inside, shape):
                return ARCHITECTURE
    if backward:
        return METHOD if acting else ARCHITECTURE
    return MACHINE if isinstance(error, SetupError | OSError) else SUITE


def first_line(error: BaseException) -> str:
    """An error as one line: its kind and the first line of its text that says anything."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, BenchError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def innermost_layer(error: BaseException, network: nn.Module) -> str:
    """Name of the innermost layer of ``network`` that an error passed; empty where it is the network itself."""
    names = {id(module): name for name, module in network.named_modules()}
    return next((names[id(c.owner)] for c in reversed(_calls(error)) if id(c.owner) in names), "")


def place_in_network(error: BaseException, network: nn.Module) -> str:
    """Where an error comes from: ``net.py:24, layer body.0 (Conv2d), input 2x8x8x8``, as far as it is known."""
    libraries = TORCH, HERE / "gates.py"
    calls = [call for call in _calls(error) if isinstance(call.owner, nn.Module)]
    found = [call.place for call in calls if not any(map(call.file.is_relative_to, libraries))][-1:]
    layer = innermost_layer(error, network)
    if layer:
        module = network.get_submodule(layer)
        given = next((call.given for call in reversed(calls) if call.owner is module and call.given), ())
        shapes = ["x".join(map(str, x.shape)) for x in given if isinstance(x, Tensor)]
        found.append(f"layer {layer} ({type(module).__name__}){f', input {shapes[0]}' if shapes else ''}")
    return ", ".join(found)


def place_in_method(error: BaseException, spec: Spec) -> str:
    """``file:line`` of the innermost call of the method; empty where there is none."""
    files = _files(spec)
    return next((call.place for call in reversed(_calls(error)) if _party(call, files) == METHOD), "")


def _calls(error: BaseException) -> list[Call]:
    """The calls of a traceback, the innermost last."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        names = frame.f_locals
        given = names.get("args") if frame.f_code.co_name == "_call_impl" else None
        found.append(Call(_resolved(frame.f_code.co_filename), line, names.get("self"), given))
    return found


@cache
def _resolved(file: str) -> Path:
    return Path(file).resolve()


def _party(call: Call, files: Mapping[Path, set[str]]) -> str | None:
    """Whom a call belongs to by its file or object; None for libraries, the harness, and modules of elsewhere."""
    parties = files.get(call.file, set())
    if call.file in ANSWERS or (isinstance(call.owner, Method) and not call.file.is_relative_to(HERE)):
        return METHOD
    if isinstance(call.owner, nn.Module):  # a network's module is judged by what the network was called with
        return METHOD if METHOD in parties and ARCHITECTURE not in parties else None
    if call.file.is_relative_to(HERE / "data"):
        return DATA
    return next((party for party in (METHOD, DATA, ARCHITECTURE) if party in parties), None)


def _take_images(calls: Iterable[Call], shape: tuple[int, ...] | None) -> bool:
    """Whether the outermost of these calls of modules, the innermost first, was given a batch of images."""
    given = [call.given for call in calls if call.given is not None]
    if not given or shape is None:
        return True
    x = given[-1][0] if given[-1] else None
    return isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0 and tuple(x.shape[1:]) == tuple(shape)


def _files(spec: Spec) -> dict[Path, set[str]]:
    """File -> whose it is; a plugin may define several things."""
    found: dict[Path, set[str]] = defaultdict(set)
    for file in (ROOT / "methods").glob("*.py"):
        found[file].add(METHOD)
    for registry, names, party in (
        (METHODS, spec.method.split("+"), METHOD),
        (ARCHS, [spec.arch], ARCHITECTURE),
        (DATASETS, [spec.dataset], DATA),
    ):
        for name in names:
            defined = _file(registry, name)
            if defined is not None:
                found[defined].add(party)
    return found


def _file(registry: Registry, name: str) -> Path | None:
    """The file that defines a name; None where there is no such file, or where it cannot be read."""
    prefix, _, rest = name.partition(":")
    try:
        if registry is ARCHS and prefix == "file":
            return model_file(rest)[0].resolve()
        return None if prefix in registry.prefixes else Path(registry.origin(name).rpartition(":")[0]).resolve()
    except (BenchError, KeyError):
        return None
