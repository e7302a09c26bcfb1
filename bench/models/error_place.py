"""Where in a network an error came from, by its traceback."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.spec.class_scan import ROOT

TORCH = Path(torch.__file__).resolve().parent


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


def first_line(error: BaseException) -> str:
    """An error as one line: its kind and the first line of its text that says anything."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, BenchError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def innermost_layer(error: BaseException, network: nn.Module) -> str:
    """Name of the innermost layer of ``network`` that an error passed; empty where it is the network itself."""
    names = {id(module): name for name, module in network.named_modules()}
    return next((names[id(c.owner)] for c in reversed(calls_of(error)) if id(c.owner) in names), "")


def place_in_network(error: BaseException, network: nn.Module) -> str:
    """Where an error comes from: ``net.py:24, layer body.0 (Conv2d), input 2x8x8x8``, as far as it is known."""
    libraries = TORCH, ROOT / "bench" / "pruning" / "gates.py"
    calls = [call for call in calls_of(error) if isinstance(call.owner, nn.Module)]
    found = [call.place for call in calls if not any(map(call.file.is_relative_to, libraries))][-1:]
    layer = innermost_layer(error, network)
    if layer:
        module = network.get_submodule(layer)
        given = next((call.given for call in reversed(calls) if call.owner is module and call.given), ())
        shapes = ["x".join(map(str, x.shape)) for x in given if isinstance(x, Tensor)]
        found.append(f"layer {layer} ({type(module).__name__}){f', input {shapes[0]}' if shapes else ''}")
    return ", ".join(found)


def calls_of(error: BaseException) -> list[Call]:
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
