"""What a check is: a name, a reason, a function; and the list that the decorator fills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Function = Callable[[Any], str | None]
"""Receives a :class:`~bench.conformance.subject.Subject`, whose module imports this one.

Raises :class:`Broken` (or anything else) when the contract is broken; may return a note.
"""
SkipReason = Callable[[Any], str | None]
"""Returns why a check does not apply to a method, None where it does."""


class Broken(Exception):
    """The method breaks its contract, and how, in one line."""


def require(condition: bool, otherwise: str) -> None:
    """Raise :class:`Broken` with ``otherwise`` unless ``condition`` holds."""
    if not condition:
        raise Broken(otherwise)


@dataclass(frozen=True)
class Check:
    """One rule of the contract.

    Attributes:
        name: on the command line.
        why: one sentence: what goes wrong without it.
        function: tries it.
        skip_reasons: the only reasons for which it may be skipped.
        mandatory: a method is not complete unless this ran or was skipped.
        alone: it says something about a method that does not get through a plain run.
    """

    name: str
    why: str
    function: Function
    skip_reasons: tuple[SkipReason, ...] = ()
    mandatory: bool = True
    alone: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a check: ``ok``, ``FAILED``, ``skipped`` (it does not apply) or ``not run``; and a line about it."""

    name: str
    outcome: str
    detail: str = ""


CHECKS: dict[str, Check] = {}


def check(
    name: str, why: str, *skip_reasons: SkipReason, mandatory: bool = True, alone: bool = False
) -> Callable[[Function], Function]:
    """Register the decorated function as the check ``name`` (see :class:`Check`)."""

    def decorate(function: Function) -> Function:
        CHECKS[name] = Check(name, why, function, skip_reasons, mandatory, alone)
        return function

    return decorate


# --- skip reasons: what a method is or has, never what it does -----------------------------------------------------


def keeps_every_unit(subject: Any) -> str | None:
    """For checks of what is chosen."""
    return None if subject.method.prunes else "the method keeps every unit"


def has_no_penalty(subject: Any) -> str | None:
    """For checks of penalties."""
    return None if subject.method.bound("penalty") else "it has no penalty"


def chooses_without_scores(subject: Any) -> str | None:
    """For checks of scores."""
    own, scored = subject.method.bound("select"), subject.method.bound("scores")
    return "it chooses masks itself and has no scores" if own and not scored else None


def is_not_native(subject: Any) -> str | None:
    """For checks of the native track."""
    return None if subject.method.native else "it does not choose its own sparsity"
