"""torch's settings for the whole process, as a method may not leave them changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

MODES: dict[str, Callable[[], list[Any]]] = {
    "function modes": _get_current_function_mode_stack,
    "dispatch modes": _get_current_dispatch_mode_stack,
}
"""torch's stacks of modes, innermost last."""
SETTERS: dict[str, Callable[[Any], object]] = {
    "default dtype": torch.set_default_dtype,
    "default device": torch.set_default_device,
    "gradient mode": torch.set_grad_enabled,
    "number of threads": torch.set_num_threads,
    "choice of deterministic algorithms": torch.use_deterministic_algorithms,
    "precision of matrix products": torch.set_float32_matmul_precision,
    "use of oneDNN": torch._C._set_mkldnn_enabled,
    "use of cuDNN": torch._C._set_cudnn_enabled,
    "search for cuDNN's kernels": torch._C._set_cudnn_benchmark,
    "anomaly detection": torch.autograd.set_detect_anomaly,
}
"""What puts a setting back."""


def settings() -> dict[str, Any]:
    """torch's settings that outlive a hook: name -> value."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "number of threads": torch.get_num_threads(),
        "choice of deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
        "precision of matrix products": torch.get_float32_matmul_precision(),
        "use of oneDNN": torch._C._get_mkldnn_enabled(),
        "use of cuDNN": torch._C._get_cudnn_enabled(),
        "search for cuDNN's kernels": torch._C._get_cudnn_benchmark(),
        "anomaly detection": torch.is_anomaly_enabled(),
        **{name: len(stack()) for name, stack in MODES.items()},
    }


def restore(before: Mapping[str, Any]) -> None:
    """Leave modes that were entered since ``before``, a result of :func:`settings`, and put back what has changed."""
    for name, stack in MODES.items():
        for mode in reversed(stack()[before[name] :]):
            mode.__exit__(None, None, None)
    now = settings()
    for name, change in SETTERS.items():
        if now[name] != before[name]:
            change(before[name])
