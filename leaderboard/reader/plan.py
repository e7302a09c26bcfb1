"""What a plan says about records: which specifications at which seeds were asked for in advance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from bench.errors import UsageError
from bench.spec.spec import Spec
from bench.spec.sweep import Sweep
from leaderboard.reader.model import REFERENCES, Terms


@dataclass(frozen=True)
class Plan:
    """A plan for boards, of one file.

    Attributes:
        terms: references, margins, endpoints, and the hash of the file.
        seeds: hash of a specification -> the seeds that it has to have.
    """

    terms: Terms
    seeds: Mapping[str, Set[int]]


def seeds_of(plans: Iterable[Plan]) -> dict[str, Set[int]]:
    """Hash of a specification -> the seeds that one of the plans asks for."""
    seeds: dict[str, Set[int]] = defaultdict(frozenset)
    for plan in plans:
        for name, own in plan.seeds.items():
            seeds[name] |= own
    return dict(seeds)


def plan_of(sweep: Sweep, specs: Iterable[Spec]) -> Plan:
    """The plan of a sweep file with these specifications; raises UsageError where it has none that a board can keep."""
    if sweep.plan is None:
        raise UsageError(f"--plan: {sweep.name} has no table [plan] (docs/sweeps.md)")
    foreign = [name for name in sweep.plan.references if name not in REFERENCES]
    if foreign:
        raise UsageError(
            f"--plan: {sweep.name}: reference '{foreign[0]}': a board compares with {', '.join(REFERENCES)}"
        )
    seeds: dict[str, set[int]] = defaultdict(set)
    for spec in specs:
        seeds[spec.sha256].add(spec.seed)
    return Plan(Terms(sweep.sha256, sweep.plan.references, sweep.plan.margins, sweep.plan.endpoints), seeds)
