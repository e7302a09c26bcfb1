"""Accuracies that were published for methods on networks: what others say, never mixed with what was measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import UsageError
from bench.spec.decode import decode, read_toml

CLAIMS = Path(__file__).parent / "claims.toml"


@dataclass(frozen=True)
class Claim:
    """One published accuracy. It stands in a list of its own: it is not averaged, ranked or subtracted with others.

    Attributes:
        method: our name of the method; the paper's, where the suite has none.
        arch, dataset: our names.
        variant: which of the method's ways, with its training.
        pruned_percent: published top-1 of the pruned network.
        base_percent: of the dense one; None where the source at hand gives none.
        deviation, base_deviation: published standard deviations, points; None where there is none.
        speedup: MACs of the dense over those of the pruned network, as the source counts; None where it says
            otherwise how much was pruned (then ``note`` does).
        counter: who counted.
        physical: whether the source's channels are really removed; None where that is not known.
        physical_speedup: ``speedup`` recomputed for channels that are really removed (convolutions and linear
            layers); None where nobody did.
        runs: how many, such as ``3 runs``.
        selection: which epoch's accuracy it is.
        source: publication or repository, with table, figure or file.
        note: what else a reader must know.
    """

    method: str
    arch: str
    dataset: str
    pruned_percent: float
    source: str
    variant: str = ""
    base_percent: float | None = None
    deviation: float | None = None
    base_deviation: float | None = None
    speedup: float | None = None
    counter: str = "the source's own"
    physical: bool | None = None
    physical_speedup: float | None = None
    runs: str = "not stated"
    selection: Literal["last epoch", "best on test", "not stated"] = "not stated"
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("method", "arch", "dataset", "source", "counter", "runs"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        for name, least, most in (
            *(("pruned_percent", 0, 100), ("base_percent", 0, 100)),
            *(("deviation", 0, 50), ("base_deviation", 0, 50)),
            *(("speedup", 1, 1000), ("physical_speedup", 1, 1000)),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} = {value:g} is not within {least} to {most}")


def load(file: Path = CLAIMS) -> tuple[Claim, ...]:
    """The claims of a file in its order; raises UsageError for what cannot be, and for one that stands there twice."""
    where = file.name
    values = read_toml(file, where)
    rows = values.pop("claims", None)
    if values or not isinstance(rows, list):
        raise UsageError(f"{where}: it holds tables [[claims]] and nothing else")
    found = []
    for k, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UsageError(f"{where}: claims[{k}] is not a table of values")
        found.append(decode(Claim, row, f"{where}: claims[{k}]"))
    claim, times = max(Counter(found).items(), key=lambda item: item[1], default=(None, 0))
    if claim is not None and times > 1:
        raise UsageError(f"{where}: {claim.method} on {claim.arch}, {claim.pruned_percent:g} % stands there twice")
    return tuple(found)
