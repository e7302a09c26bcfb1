"""Latency tables of runs: found below the folder of records, taken from a file, or measured."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from msgspec import UNSET
from torch import nn

from bench.data.loading import find
from bench.errors import ARCHITECTURE, RunFailed, SetupError, UsageError
from bench.files import Lock
from bench.measure import environment, runtimes
from bench.measure.quiet import Machine
from bench.models.build import build
from bench.models.memory_format import LAYOUT
from bench.progress import Progress
from bench.pruning.cost_model import CostModel
from bench.pruning.costs import Vector
from bench.pruning.latency_choice import LatencyChoice
from bench.pruning.latency_model import Timed
from bench.pruning.latency_rounds import Asked, Measured
from bench.pruning.latency_terms import Terms, terms_of
from bench.pruning.sites import Sites
from bench.records import latency_table
from bench.records.latency_table import Chosen, Table, TableKey
from bench.records.schema import Environment
from bench.runs.identity import arch_sha256
from bench.runs.network_timer import NetworkTimer
from bench.runs.network_trial import Situation
from bench.runs.preflight import fit
from bench.runs.result import now
from bench.spec.request import RunOptions
from bench.spec.spec import Budget, Spec

MACHINE = Machine()
"""Says when tables and chosen networks may be timed."""
TIMER = NetworkTimer
"""What times them; tests have another."""
SAID = {"network_sha256": "network", "runtime_version": "version of the runtime", "terms_sha256": "widths or couplings"}
"""Words for keys of a table."""


@dataclasses.dataclass(frozen=True, eq=False)
class DenseNetwork:
    """A dense network as tables see it.

    Attributes:
        name: of its architecture.
        sha256: hash of the architecture.
        network: on the CPU.
        sites: of it.
        model: its cost model.
        layout: memory format that it runs in.
    """

    name: str
    sha256: str
    network: nn.Module
    sites: Sites
    model: CostModel
    layout: str = LAYOUT

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.model.shape

    def terms(self, budget: Budget) -> Terms:
        """Its fused blocks, at widths in the steps of a budget; computed once."""
        return _terms(self, budget.step)

    def key(self, budget: Budget, units: str) -> TableKey:
        """What its milliseconds depend on."""
        device, layout = runtimes.place_of(str(budget.runtime), torch.device("cpu"), self.layout)
        facts = {
            "network_sha256": self.sha256,
            "shape": list(self.shape),
            "coupling": self.sites.coupling,
            "units": units,
            "terms_sha256": self.terms(budget).sha256,
            "runtime": budget.runtime,
            "runtime_version": runtimes.version_of(str(budget.runtime)),
            "device": environment.device_name(device),
            "threads": budget.threads,
            "batch": budget.batch,
            "dtype": "float32",
            "layout": layout,
        }
        return msgspec.convert(facts, TableKey)

    def timer(self, budget: Budget) -> NetworkTimer:
        """Times slices of it."""
        how = (str(budget.runtime), int(budget.batch or 1), int(budget.threads or 1))
        return TIMER(self.network, self.sites, self.shape, self.terms(budget), *how, self.layout, MACHINE)


class NoTable(SetupError):
    """There is no table, and none is to be measured."""


def wait_at_most(seconds: float) -> None:
    """Set how long this process waits for a quiet machine whenever it times a table or a chosen network."""
    global MACHINE
    MACHINE = dataclasses.replace(MACHINE, wait_s=seconds)


@functools.lru_cache(maxsize=4)
def _terms(of: DenseNetwork, step: int) -> Terms:
    return terms_of(of.network, of.sites, of.model, step)


def with_table(spec: Spec, table: str | None, options: RunOptions, writes: bool) -> Spec:
    """``spec`` with the hash of its latency table, which is given, taken from a file, found, or measured.

    Without one, as it is, where there is no table and ``writes`` is false.

    Raises:
        UsageError: runtime or file cannot be used with it.
        SetupError: the runtime is not installed; the machine is busy.
    """
    assert spec.budget is not None
    if table is not None and re.fullmatch("[0-9a-f]{64}", table):
        return dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, table=table))
    progress = Progress(f"latency table {spec.arch} {spec.budget.runtime}", options.quiet)
    facts = find(spec.dataset, options.data_dir, options.out / "cache" if writes else None, progress)
    network = build(spec.arch, facts.shape, facts.classes, 0)
    device = environment.pick_device(options.device)
    situation = Situation(
        *(facts.shape, facts.classes, spec.coupling, spec.recipe, device, spec.recipe.precision, spec.unit_kinds)
    )
    of = _dense(spec.arch, network, situation)
    file = Path(table) if table else None
    try:
        found = table_of(of, spec.budget, spec.unit_kinds, options.out, file, writes, progress)
    except NoTable:
        return spec
    return dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, table=found.sha256))


_known: dict[tuple[str, Situation], DenseNetwork] = {}


def _dense(arch: str, network: nn.Module, situation: Situation) -> DenseNetwork:
    """A network as tables see it; the last one is remembered, as many specifications of a sweep have it."""
    sha256 = arch_sha256(arch, network)
    if (sha256, situation) not in _known:
        found = fit(arch, network, situation)
        _known.clear()
        _known[sha256, situation] = DenseNetwork(arch, sha256, network, found.sites, found.model, found.layout)
    return _known[sha256, situation]


def table_of(
    of: DenseNetwork,
    budget: Budget,
    units: str,
    out: Path,
    file: Path | None = None,
    writes: bool = True,
    progress: Progress | None = None,
) -> Table:
    """The table for a budget: of ``file``, else the one below ``out``, else a new one, which is kept there.

    Raises as :func:`with_table`, and NoTable where there is none and ``writes`` is false.
    """
    runtimes.require([str(budget.runtime)], many=True)
    key = of.key(budget, units)
    if file is not None:
        table, chosen = latency_table.read(file)
        _require_same(table.key, key, file)
        if writes:
            _keep(out, table, chosen)
        return table
    if (found := _found(out, key)) is not None:
        return found
    if not writes:
        raise NoTable(f"no latency table of {of.name} in {budget.where} in {out}")
    say = progress.say if progress else lambda text: None
    lock = Lock(out / latency_table.FOLDER, latency_table.key_sha256(key))
    if lock.busy():
        say("another process measures this table; waiting for it")
    try:
        lock.acquire()
    except OSError as error:
        raise SetupError(f"cannot write to {lock.file.parent}: {error.strerror}; choose another place") from error
    with lock:
        return _found(out, key) or _measured(of, budget, key, out, say)


def _found(out: Path, key: TableKey) -> Table | None:
    """The table of a key below the folder of records, if it is there."""
    path = latency_table.with_key(out, key)
    if path is None:
        return None
    table, _ = latency_table.read(path)
    if not path.stem.endswith(table.sha256[:12]):
        raise UsageError(f"latency table {path}: it was changed since it was measured; delete it")
    return table


def _measured(of: DenseNetwork, budget: Budget, key: TableKey, out: Path, say: Callable[[str], object]) -> Table:
    """A new table, kept below the folder of records."""
    try:
        timed = of.timer(budget).table(say)
    except RunFailed as error:
        raise UsageError(f"--runtime {budget.runtime} cannot take {of.name}: {error}", blame=ARCHITECTURE) from error
    terms = of.terms(budget)
    table = Table(
        kind="bench.latency_table",
        schema=1,
        arch=of.name,
        key=key,
        grid={name: list(widths) for name, widths in zip(terms.names, terms.grid, strict=True)},
        timed=[(list(one.vector), one.ms) for one in timed],
        environment=_environment(budget),
        measured_at=now(),
    )
    _keep(out, table, [])
    return table


def _keep(out: Path, table: Table, chosen: list[Chosen]) -> Path:
    """Write a table, and what was measured with it, below the folder of records, as far as it is not there."""
    path = latency_table.path_of(out, table)
    if not path.exists():
        try:
            latency_table.write(path, table)
        except OSError as error:
            raise SetupError(f"cannot write {path}: {error.strerror}; choose another place") from error
    known = {tuple(one.vector) for one in latency_table.read(path)[1]}
    for one in chosen:
        if tuple(one.vector) not in known:
            latency_table.remember(path, one)
    return path


def keep_rounds(file: Path | None, found_in: Path, out: Path, sha256: str, chosen: list[Chosen]) -> None:
    """Keep a table and what a record says that was measured with it, so that a replay need not measure it again.

    Args:
        file: with the table; None for the one below ``found_in``.
        found_in: folder of records.
        out: folder of records of the replay.
        sha256: of the table.
        chosen: what was measured.
    """
    path = file or latency_table.with_sha256(found_in, sha256)
    if path is None:
        raise SetupError(missing(sha256, found_in))
    table, more = latency_table.read(path)
    if table.sha256 != sha256:
        raise UsageError(f"--latency-table {path}: its hash is {table.sha256[:12]}, the record's {sha256[:12]}")
    _keep(out, table, [*more, *chosen])


def missing(sha256: str, out: Path) -> str:
    """The message for a table that is not there."""
    return f"latency table {sha256[:12]} is not in {out / latency_table.FOLDER}: give it with --latency-table FILE"


def _require_same(table: TableKey, wanted: TableKey, file: Path) -> None:
    """Raise UsageError for a table of another network, device or way of measuring."""
    had, wants = msgspec.to_builtins(table), msgspec.to_builtins(wanted)
    first = ("device", "network_sha256", "coupling", "units", "shape", "terms_sha256")
    for name in (*first, *(name for name in had if name not in first)):
        if had[name] != wants[name]:
            said = SAID.get(name, name)
            values = "" if name.endswith("sha256") else f", {had[name]}, not {wants[name]}"
            raise UsageError(
                f"--latency-table {file}: it is of another {said}{values}; measure one without this option"
            )


def _environment(budget: Budget) -> Environment:
    return msgspec.convert(
        environment.versions(torch.device("cpu")) | {"threads": int(budget.threads or 1)}, Environment
    )


def choice_of(
    of: DenseNetwork,
    budget: Budget,
    units: str,
    out: Path,
    costs: CostModel,
    text: str = "",
    hint: str = Asked.hint,
) -> LatencyChoice:
    """What meets a budget whose table is known.

    Args:
        of: the dense network.
        budget: with its table's hash.
        units: kinds of units.
        out: where the table is.
        costs: the cost model with the sites that a method exempts.
        text: of the budget, for messages; empty for that of the command.
        hint: what makes faster networks possible, for messages.

    Raises SetupError where the table is not there.
    """
    path = latency_table.with_sha256(out, str(budget.table))
    if path is None:
        raise SetupError(missing(str(budget.table), out))
    table, chosen = latency_table.read(path)
    terms = of.terms(budget)
    if table.sha256 != budget.table or (table.key.network_sha256, table.key.terms_sha256) != (of.sha256, terms.sha256):
        raise UsageError(f"latency table {path}: it is of another network", blame=ARCHITECTURE)
    vectors = [vector for vector, _ in table.timed]
    if list(terms.dense) not in vectors or any(len(vector) != len(terms.dense) for vector in vectors):
        raise UsageError(f"latency table {path}: what was timed is not this network: measure it again")
    known = {tuple(one.vector): Measured(one.ms, one.dense_ms, one.low, one.high) for one in chosen}

    def measure(vector: Vector) -> Measured:
        """What is known of these widths, or what is measured now and then known."""
        key = tuple(vector.tolist())
        if key not in known:
            _require_here(table.key, of.key(budget, units))
            known[key] = found = of.timer(budget).measure(vector)
            latency_table.remember(path, Chosen(list(key), **dataclasses.asdict(found)))
        return known[key]

    timed = [Timed(tuple(vector), ms) for vector, ms in table.timed]
    return LatencyChoice(asked_of(budget, text, hint), terms, timed, costs, budget, measure, table.key.device)


def _require_here(table: TableKey, here: TableKey) -> None:
    for name in ("device", "runtime_version"):
        had, is_here = getattr(table, name), getattr(here, name)
        if had != is_here:
            words = f"the latency table is of {SAID.get(name, name)} {had}, here is {is_here}"
            raise SetupError(f"{words}: what it chooses cannot be measured here")


def asked_of(budget: Budget, text: str, hint: str) -> Asked:
    """A budget as it is met and named."""
    share = None if budget.keep_latency is UNSET else float(budget.keep_latency)
    ms = None if budget.latency_ms is UNSET else float(budget.latency_ms)
    words = f"--latency-ms {ms:g}" if share is None else f"--keep-latency {share:g}"
    return Asked(share, ms, text or words, budget.where, hint)
