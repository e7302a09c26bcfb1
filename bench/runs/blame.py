"""Whose fault an error is, by its traceback: of the method, the architecture, the data, the machine, or the suite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import ARCHITECTURE, DATA, MACHINE, METHOD, SUITE, BenchError, SetupError
from bench.models.error_place import TORCH, Call, calls_of
from bench.spec.class_scan import ROOT
from bench.spec.registry import ARCHS, DATASETS, METHODS, Registry, model_file
from bench.spec.spec import Spec
from bench.training.method import Method

HERE = ROOT / "bench"
ANSWERS = {HERE / name for name in ("training/method.py", "pruning/selection.py", "pruning/gates.py")}
"""Files of the suite that work on what a method returned."""
NO_MEMORY = "can't allocate memory"
"""What torch's allocator for the CPU says; it raises a plain RuntimeError."""


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
    files, calls = _files(spec), calls_of(error)
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


def place_in_method(error: BaseException, spec: Spec) -> str:
    """``file:line`` of the innermost call of the method; empty where there is none."""
    files = _files(spec)
    return next((call.place for call in reversed(calls_of(error)) if _party(call, files) == METHOD), "")


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
