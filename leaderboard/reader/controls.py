"""The controls that a board needs, by name."""

from __future__ import annotations

from bench.spec.spec import DEPTH

CONTROLS = ("dense", "random", "l1_norm", "uniform_thin", "uniform_thin_long")
"""Compulsory controls (RULES.md, 9), by name."""
L1_OF = {DEPTH: "block_l1", "both": "l1_norm+block_l1"}
"""The l1 norm among them where blocks are pruned, by ``--units``."""
CONTROLS_OF = {"spectral": ("spectral_energy",)}
"""What else a method has to be compared with, by its name."""


def controls_of(pruned: str | None) -> tuple[str, ...]:
    """Compulsory controls of a board of this coupling and kinds of units (:attr:`bench.spec.spec.Spec.prunable`)."""
    l1 = next((L1_OF[word] for word in (pruned or "").split() if word in L1_OF), "l1_norm")
    return tuple(l1 if name == "l1_norm" else name for name in CONTROLS)
