"""Budgets of milliseconds for a network in the user's process."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path

from torch import nn

from bench.deploy.given import Given
from bench.deploy.known import Known, structure_sha256
from bench.errors import SetupError, UsageError
from bench.measure.quiet import Busy
from bench.models.shared_parameters import copied
from bench.progress import Progress
from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.pruning.latency_choice import LatencyChoice
from bench.pruning.latency_rounds import Measured
from bench.runs.latency_tables import DenseNetwork, choice_of, table_of
from bench.spec.spec import Budget


def latency_choice(
    had: Given,
    work: nn.Module,
    known: Known,
    costs: CostModel,
    budget: Budget,
    asked: str,
    units: str,
    tables: Path | None,
) -> LatencyChoice:
    """What meets a budget of milliseconds; times the networks of its table where that is not known yet.

    Args:
        had: what the user gave.
        work: the copy of the dense network.
        known: what is known of its structure.
        costs: with the sites that a method leaves whole.
        budget: of milliseconds.
        asked: its text.
        units: kinds of units.
        tables: folder that keeps latency tables; None: as long as this process lives.

    Raises:
        UsageError: it cannot be met.
        SetupError: the machine is busy, or has no such runtime.
    """
    if had.group is not None:
        raise UsageError(f"{asked}: several processes would time networks at once; prune in one, then wrap the result")
    folder = tables or Path(_own_folder().name)
    dense = DenseNetwork(
        type(had.network).__name__, structure_sha256(work), copied(work).cpu(), known.sites, known.costs
    )
    try:
        table = table_of(dense, budget, units, folder, progress=Progress(f"bench.prune {asked}"))
    except Busy as error:  # which names an option of commands
        raise Busy(f"{asked}: {str(error).partition(';')[0]}; end that work, and call again") from error
    budget = dataclasses.replace(budget, table=table.sha256)
    found = choice_of(dense, budget, units, folder, costs, asked, 'coupling="full" or units="both"')
    found.require()
    measure = found.measure

    def kept(vector: Vector) -> Measured:
        try:
            return measure(vector)
        except OSError as error:
            raise SetupError(f"cannot write to {folder}: {error.strerror}; give another folder (tables=)") from error

    found.measure = kept
    return found


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-")  # removed when the process ends
