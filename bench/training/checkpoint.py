"""Training checkpoints, networks and masks as files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.errors import ARCHITECTURE, MACHINE, RunFailed
from bench.files import write_atomic


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training checkpoint that ``torch.load(weights_only=True)`` can read; raises OSError."""
    buffer = io.BytesIO()  # given a path, torch raises RuntimeErrors of several texts when the disk is full
    torch.save(dict(state), buffer)
    write_atomic(path, lambda p: p.write_bytes(buffer.getbuffer()))


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint at ``path``; None when there is none or it cannot be read (it is then as if there were none)."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a foreign or damaged file: starting over is right, whatever is wrong with it
        return None


SAME = "same"
"""Key of a file's metadata: JSON, each further name of a tensor -> the name that it is stored under."""


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> the first name of the same tensor: a module under two names has all of its tensors twice."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise RunFailed(f"its state_dict has a {type(t).__name__}, {name}: only tensors are saved", ARCHITECTURE)
        place = (t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else (name,)
        found[name] = first.setdefault(place, name)
    return found


def weight_bytes(network: nn.Module) -> int:
    """Size of the whole state of ``network``, each tensor once."""
    state = network.state_dict()
    return sum(state[name].numel() * state[name].element_size() for name in set(first_names(state).values()))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write tensors as safetensors, each once; returns the file's name, size and hash for the record.

    ``texts`` are stored with them, see :func:`load_metadata`.
    """
    names = first_names(tensors)
    same = {name: first for name, first in names.items() if name != first}
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in same}
    owner: dict[int, str] = {}
    for name, t in stored.items():  # safetensors refuses two views of one memory
        if t.numel() and owner.setdefault(t.untyped_storage().data_ptr(), name) != name:
            stored[name] = t.clone()
    metadata = {**(texts or {}), **({SAME: json.dumps(same, sort_keys=True)} if same else {})}
    blob = save(stored, metadata=metadata or None)
    write_atomic(path, lambda p: p.write_bytes(blob))
    return {"file": path.name, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, under every name; raises RunFailed when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            same = json.loads((file.metadata() or {}).get(SAME, "{}"))
        return found | {name: found[first] for name, first in same.items()}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise RunFailed(f"{path} cannot be read ({error}); delete it and run again", blame=MACHINE) from error


def load_metadata(path: Path) -> dict[str, str]:
    """The texts of a safetensors file; raises RunFailed when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFailed(f"{path} cannot be read ({error})", blame=MACHINE) from error


def clone_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights and buffers."""
    return {name: t.detach().clone() for name, t in network.state_dict().items()}
