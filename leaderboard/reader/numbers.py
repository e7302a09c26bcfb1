"""Derived numbers: to how many digits they are given, and when two of them agree.

The same arithmetic may differ in the last bits from one processor to the next, because libraries choose their
instructions by what the processor offers. What a record holds is exact and is never rounded.
"""

from __future__ import annotations

from typing import Any

DIGITS = 12
"""Significant digits of every derived number; arithmetic is wrong in the 15th at worst."""
ROUNDING = 1e-9
"""Relative error that arithmetic may add to a number that was not rounded to fewer digits (docs/lint.md)."""
NEAR_ZERO = 1e-12
"""Absolute error that it may add, for numbers near zero."""


def derived(value: float) -> float:
    """``value`` to ``DIGITS`` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def settle(instance: Any, *names: str) -> None:
    """Round these fields of a frozen dataclass, for its ``__post_init__``; None stays."""
    for name in names:
        value = getattr(instance, name)
        if value is not None:
            object.__setattr__(instance, name, derived(value))


def agrees(value: float, expected: float) -> bool:
    """Whether ``value`` is ``expected``, as far as arithmetic is exact."""
    return abs(value - expected) <= ROUNDING * abs(expected) + NEAR_ZERO
