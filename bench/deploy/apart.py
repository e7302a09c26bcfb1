"""Work in the user's process that neither depends on torch's settings there nor changes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from bench.models.torch_state import undisturbed
from bench.training import torch_settings


@contextmanager
def apart() -> Iterator[ExitStack]:
    """Within the block torch has the settings of a run: float32, the CPU, gradients, no autocast.

    Afterwards settings and random numbers are as they were. Yields what else is to be done in the end.
    """
    before = torch_settings.settings()
    with (
        ExitStack() as end,
        undisturbed(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        try:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            yield end
        finally:
            torch_settings.restore(before)
