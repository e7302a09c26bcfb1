"""Identity of networks, runs and versions of the suite: hashes of source, settings, initial weights and masks."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import RULES
from bench.errors import UsageError
from bench.measure import environment
from bench.models.build import Architecture, initialize
from bench.models.external import torchvision_model
from bench.models.timm_models import timm_model
from bench.records import bits
from bench.runs.method_factory import method_source
from bench.spec import source_hash
from bench.spec.digest import digest
from bench.spec.registry import ARCHS, model_file
from bench.spec.source_hash import Source
from bench.spec.spec import Spec
from bench.training.method import Method

HARNESS_ONLY = ("architecture", "slice_channels", "stand_in", "units")
"""Parts of an architecture's source for registry and slicing: they change neither outputs nor initial weights."""
VERSIONLESS = {"torch", "numpy"}
"""Packages whose version does not make another architecture; torch's is part of the base's name."""


@dataclass(frozen=True)
class Identity:
    """What a run was made of, hashed before it begins: files may change while it runs.

    Attributes:
        code: for the record: state of the suite, and the hashes of the method's and the architecture's source.
        environment: for the record: device, threads, versions.
        arch_sha256: see :func:`arch_sha256`.
        init_sha256: hash of the network's initial weights; the same on all machines with equal vector instructions.
    """

    code: dict[str, Any]
    environment: dict[str, Any]
    arch_sha256: str
    init_sha256: str

    def of_base(self) -> dict[str, str | int | None]:
        """What decides a base's numbers, other than specification and images; CPU threads only without a GPU."""
        device, threads = self.environment["device_type"], self.environment["threads"]
        found = {"arch": self.arch_sha256, "init": self.init_sha256, "device": device, "torch": torch.__version__}
        return found | {"threads": threads if device == "cpu" else None}

    def made(self) -> dict[str, Any]:
        """What records say of a base that is trained now."""
        machine = {key: self.environment[key] for key in ("device", "instructions", "threads")}
        return machine | {"init_sha256": self.init_sha256, "commit": self.code["commit"], "torch": torch.__version__}


def identify(spec: Spec, method: Method, network: nn.Module, device: torch.device) -> Identity:
    """The identity of a run on ``network``, which still has its initial weights."""
    of_method, of_arch = method_source(method), arch_source(spec.arch)
    code = environment.code() | {"method_sha256": of_method.sha256, "network_sha256": of_arch.sha256}
    machine = environment.versions(device, of_method.packages | of_arch.packages)
    return Identity(code, machine, arch_sha256(spec.arch, network), state_sha256(network))


def require_resolved(spec: Spec, device: torch.device) -> str:
    """The precision of a specification that can run: resolved, of today's rules; raises UsageError."""
    if spec.rules != RULES:
        raise UsageError(
            f"run {spec.id}: its specification is of rules {spec.rules}, this is {RULES}; ask for it again"
        )
    if spec.recipe.precision == "auto":
        raise UsageError(
            f"run {spec.id}: precision auto is not resolved; make the specification with bench.runs.resolve.make_spec"
        )
    if spec.recipe.precision == "bf16" and not environment.has_bf16(device):
        name = environment.device_name(device)
        print(f"bench: note: {name} has no instructions for bf16: it is emulated, slowly", file=sys.stderr)
    return spec.recipe.precision


def arch_source(name: str) -> Source:
    """The source that makes the architecture ``name`` and draws its initial weights; raises UsageError."""
    make: Any = ARCHS.get(name)
    if name.startswith("file:"):
        return source_hash.of_files(model_file(name.removeprefix("file:"))[0])
    if not isinstance(make, Architecture):
        return _of_suite(timm_model if name.startswith("timm:") else torchvision_model)
    factory = inspect.unwrap(make.factory)
    drawn = [] if make.own_weights else [initialize]
    file = Path(factory.__code__.co_filename)
    if file.is_relative_to(ARCHS.path):
        return _of_suite(factory, *drawn)
    return source_hash.joined(source_hash.of_files(file), *map(_of_suite, drawn))


def _of_suite(*things: Any) -> Source:
    """The source of the suite's own classes and functions that make networks."""
    return source_hash.of_definitions(*things, folder=ARCHS.path, without=HARNESS_ONLY)


def arch_sha256(name: str, network: nn.Module) -> str:
    """Hash of an architecture: its source, the suite's layers in it, its modules with settings, shapes of its weights.

    Equal on every machine: no output and no weight is part of it. ``network`` is what ``name`` makes.
    """
    shapes = {key: list(t.shape) for key, t in network.state_dict().items() if isinstance(t, Tensor)}
    whole = sorted(getattr(network, "whole", ()))
    described = [str(network), shapes, *([whole] if whole else [])]
    source = source_hash.joined(arch_source(name), _of_suite(*{type(module) for module in network.modules()}))
    options = {key: repr(value) for key, value in getattr(ARCHS.get(name), "options", {}).items()}
    versions = environment.versions_of(source.packages - VERSIONLESS)
    return digest([source.sha256, versions, options, *described])


def state_sha256(network: nn.Module) -> str:
    """Hash of all weights and buffers of a network, to the last bit."""
    made = hashlib.sha256()
    for name, tensor in sorted((dict(network.named_buffers()) | network.state_dict()).items()):
        if not isinstance(tensor, Tensor):
            continue  # such a network is refused before its base is trained
        made.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        made.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


def packed_masks(masks: dict[str, Tensor]) -> str:
    """Masks as bits in base64 (``bench.records.bits``), site after site in sorted order."""
    return bits.pack(np.array([bit for name in sorted(masks) for bit in masks[name].tolist()], dtype=bool))


@functools.cache
def suite_sha256() -> str:
    """Hash of the suite's own source, without its commands and its battery of checks, which take part in no run."""
    folder = Path(__file__).parents[1]
    files = [file for file in folder.rglob("*.py") if file.parent.name not in {"cli", "conformance"}]
    return digest(
        sorted([f"{file.parent.name}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()] for file in files)
    )
