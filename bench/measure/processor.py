"""Facts about the processors of this machine, without torch."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path
from typing import Literal

BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of CPUs with instructions for bfloat16."""
GPUS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Files of which Linux has one where a GPU may be that torch can use (NVIDIA, Windows' subsystem, AMD)."""


@cache
def cpu() -> tuple[str, frozenset[str]]:
    """Model name and instruction-set flags of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", platform.machine()), frozenset(flags.split())


def precision_without_torch(device: str) -> Literal["fp32", "bf16"] | None:
    """Precision that ``auto`` means on a device, as a user names it; None where only torch knows.

    ``bf16`` on a CPU with instructions for it, otherwise ``fp32``. ``auto`` is the CPU where there is no GPU.
    """
    no_gpu = sys.platform == "linux" and not any(Path(file).exists() for file in GPUS)
    if device == "cpu" or (device == "auto" and no_gpu):
        return "bf16" if BF16 & cpu()[1] else "fp32"
    return None
