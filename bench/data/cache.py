"""Cache of tensors that are slow to compute: files written atomically, read only if key and checksum match."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.files import write_atomic


@dataclass(frozen=True)
class Cache:
    """A folder of cached tensors; without a folder nothing is stored.

    Every entry has a key that says what it was made from. An entry with another key, or a damaged one, is
    ignored and replaced by the next :meth:`write`.
    """

    folder: Path | None

    def read(self, name: str, key: str) -> dict[str, Tensor] | None:
        """The tensors stored as ``name`` with this ``key``; None where they are missing, damaged or of another key."""
        if self.folder is None:
            return None
        try:
            with safe_open(self._file(name), "pt") as file:
                facts = file.metadata() or {}
                if facts.get("key") != key:
                    return None
                names = file.keys()
                tensors = {each: file.get_tensor(each) for each in names}
        except (OSError, SafetensorError):
            return None
        return tensors if facts.get("crc32") == _checksum(tensors) else None

    def write(self, name: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store ``tensors`` as ``name``; a full disk is ignored, since they can be computed again."""
        if self.folder is None:
            return
        facts = {"key": key, "crc32": _checksum(tensors)}
        with contextlib.suppress(OSError, SafetensorError):
            write_atomic(self._file(name), lambda path: save_file(dict(tensors), path, facts))

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return " ".join(f"{name}:{zlib.crc32(tensors[name].numpy().data):08x}" for name in sorted(tensors))
