"""Programs of ``torch.export`` (``.pt2``) that any tool made, read without unpickling anything.

torch's own reader unpickles tensors of unusual kinds, custom objects and the example inputs, loads compiled libraries,
and evaluates expressions of sizes as Python. A file that has the first, or expressions that are no arithmetic, is
refused; examples and compiled code are not handed on to torch.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import RunFailed, UsageError
from bench.models.error_place import first_line

WORDS = {
    *("Symbol", "positive", "nonnegative", "integer", "True", "False", "Integer", "Add", "Mul", "Pow"),
    *("Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Max", "Min", "floor", "ceiling", "Eq", "Ne"),
}
"""What expressions of sizes are made of, as sympy writes them, in addition to symbols such as ``s31``."""
KEPT = ("models/", "data/weights/", "data/constants/")
"""Folders of the archive that torch is given, in addition to the files that say which version it is."""


class Program(nn.Module):
    """An exported program as a network; it was exported in one mode and stays in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def train(self, mode: bool = True) -> Program:
        """Leave the mode as it is."""
        self.training = False
        return self

    def forward(self, x: Tensor) -> Any:
        """Logits ``[B, classes]``."""
        return self.inner(x)


def load(path: Path) -> Program:
    """The network of a file, on the CPU.

    Raises UsageError for a file that is no exported program, or that would have to be unpickled; RunFailed where torch
    cannot read it.
    """
    try:
        content = _without_code(path)
    except UsageError:
        raise
    except Exception as error:  # of archives and of JSON, whatever is in them
        raise UsageError(f"{path.name} is no program of torch.export ({first_line(error)})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Program(torch.export.load(content).module(check_guards=False))  # guards are Python
    except Exception as error:  # whatever torch raises for another version's file, or a damaged one
        raise RunFailed(f"torch {torch.__version__} cannot read {path.name}: {first_line(error)}") from error


def _without_code(path: Path) -> io.BytesIO:
    """The archive without anything that torch would unpickle or execute."""
    kept = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as out:
        names = archive.namelist()
        root = next((name.partition("/")[0] for name in names if name.endswith("/archive_format")), None)
        if root is None:
            raise ValueError("it has no archive_format")
        for name in names:
            inner, content = name.removeprefix(f"{root}/"), archive.read(name)
            if inner.startswith("data/sample_inputs/"):
                content = b""
            elif inner.endswith("_config.json"):
                pickled = [key for key, entry in json.loads(content)["config"].items() if entry["use_pickle"]]
                if pickled:
                    raise UsageError(f"{path.name} keeps {pickled[0]} as a pickle: such files run code when loaded")
            elif inner.startswith("models/"):
                for text in _expressions(json.loads(content)):
                    if not _arithmetic(text):
                        raise UsageError(f"{path.name}: a size of its program is {text[:40]!r}, which is no arithmetic")
            elif "/" in inner and not inner.startswith((*KEPT, ".data/")):
                continue
            out.writestr(zipfile.ZipInfo(name), content)
    kept.seek(0)
    return kept


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for key, text in value.items() if key == "expr_str" and isinstance(text, str))
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _expressions(inner)


def _arithmetic(text: str) -> bool:
    """Whether an expression has numbers, symbols, signs and known words only."""
    text = re.sub(r"'([a-z]+\d+)'", r"\1", text)
    words = re.findall(r"[^\W\d]\w*", text)
    plain = re.fullmatch(r"[\w\s+*/(),<>=-]*", text) is not None
    return plain and all(word in WORDS or re.fullmatch(r"[a-z]+\d+", word) for word in words)
