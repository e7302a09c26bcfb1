"""The environment of a run: device, threads, versions, state of the code. No host, user or absolute path."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import metadata
from typing import Any, Literal

import torch

from bench import __version__
from bench.errors import SetupError
from bench.measure.processor import BF16, cpu
from bench.spec.class_scan import ROOT

PACKAGES = ("torch", "torchvision", "fvcore", "torch-pruning", "numpy", "scikit-learn", "pillow")


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:N]``; raises SetupError when the device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SetupError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(f"--device {name}: no such CUDA device here; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise SetupError(f"--device {name}: only cpu and cuda are supported")
    return device


def pick_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """``fp32`` or ``bf16``; ``auto`` takes bf16 where the device has instructions for it."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return "bf16" if name == "bf16" else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is emulated, slowly, with other rounding."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BF16 & cpu()[1])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context in which forwards have a precision of :func:`pick_precision`."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def device_name(device: torch.device) -> str:
    """Model of the CPU or GPU, as records take it: at most 100 characters of printable ASCII."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()[0]
    return " ".join(ascii(name)[1:-1].split())[:100].strip() or device.type


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes(device: torch.device) -> int:
    """Memory that a process can still take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":") for line in lines)
        return 1024 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def versions(device: torch.device, imported: Iterable[str] = ()) -> dict[str, Any]:
    """Device, threads and versions, as the record keeps them; for ``imported`` see :func:`packages`."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "instructions": instructions(),
        "threads": torch.get_num_threads(),
        "os": platform.system(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "packages": packages(imported),
    }


def instructions() -> str:
    """CPU instructions that torch and oneDNN choose their kernels by, with the limit to oneDNN's where one is set."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    words = [torch.backends.cpu.get_cpu_capability(), *sorted(BF16 & cpu()[1])]
    return " ".join(words) + (f", oneDNN at most {limit}" if limit else "")


def packages(imported: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what results may depend on: the suite's packages, and those of the modules ``imported``."""
    return {p: _version(p) for p in PACKAGES} | versions_of(imported)


def versions_of(imported: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages that top-level modules of these names belong to."""
    packages = {name: [name] if name in PACKAGES else _packages_of_modules().get(name, []) for name in sorted(imported)}
    return {package: _version(package) for of_module in packages.values() for package in of_module}


@cache
def _version(package: str) -> str:
    return metadata.version(package)


@cache  # takes half a second
def _packages_of_modules() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def code() -> dict[str, Any]:
    """Version, commit and whether the working tree differs from it (with the hash of the difference)."""
    found: dict[str, Any] = {"version": __version__, "commit": None, "diff_sha256": None}
    if (ROOT / ".git").exists():
        found["commit"] = _git("rev-parse", "HEAD")
        diff = _git("diff", "HEAD", "--", "bench", "methods")
        found["diff_sha256"] = hashlib.sha256(diff.encode()).hexdigest() if diff else None
    return found


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
