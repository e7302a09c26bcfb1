"""The record of one run: the one definition of its fields. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

import msgspec

from bench.records.values import (
    Amount,
    Bits,
    Commit,
    Count,
    FileName,
    Label,
    Moment,
    Name,
    Positive,
    RunId,
    Sha256,
    Share,
    Size,
    Text,
)
from bench.spec.spec import Spec

FORMAT_VERSION = 2
STATUSES = ("ok", "failed", "diverged", "interrupted")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the record. A field with a default was added later, or is not in every record."""


class Code(Part, frozen=True):
    version: Name
    commit: Commit | None
    diff_sha256: Sha256 | None
    method_sha256: Sha256 | None
    network_sha256: Sha256 | None = None


class Environment(Part, frozen=True):
    device: Label
    device_type: Name
    threads: Size
    os: Name
    python: Name
    cuda: Name | None
    packages: dict[Name, Name]
    instructions: Name | None = None


class Data(Part, frozen=True):
    train: Count
    val: Count
    test: Count
    train_sha256: Sha256
    split_sha256: Sha256
    test_sha256: Sha256 | None = None
    shape: tuple[Size, Size, Size] | None = None
    classes: Size | None = None
    fold: Count | None = None
    folds_sha256: Sha256 | None = None


class Phase(Part, frozen=True):
    epochs: Count
    part: Name
    rewind: Name | None
    active: list[Name] | None = None


class Made(Part, frozen=True):
    init_sha256: Sha256
    commit: Commit | None
    torch: Name
    device: Name
    threads: Size
    instructions: Name | None = None


class Base(Part, frozen=True):
    id: Name
    epochs: Count
    examples: Count
    macs: int
    sha256: Sha256
    made: Made | None = None


class Freeze(Part, frozen=True):
    phase: Count
    epoch: Count
    upto: Name
    macs: Count


class Training(Part, frozen=True):
    plan: list[Phase | Literal["prune"]]
    precision: Literal["fp32", "bf16"]
    starts_from: Name
    epochs: Count
    examples: Count
    macs: int
    selection: Name
    base: Base
    method_examples: dict[Literal["forward", "backward"], Count] | None = None
    method_macs: Count | None = None
    layout: Literal["channels_last", "channels_first"] | None = None
    freeze: list[Freeze] | None = None


class Structure(Part, frozen=True):
    widths: dict[Name, tuple[Count, Count]]
    units_before: Count
    units_after: Count
    gate_slice_difference: Amount | None
    arch_sha256: Sha256
    rejected: dict[Name, Text]
    masks: Bits | None = None
    masks_sha256: Sha256 | None = None  # of rules 0.1, which had no masks


class Cost(Part, frozen=True):
    macs: Count
    macs_by_op: dict[Name, Count]
    unsupported_ops: dict[Name, Count]
    counter: Name
    params: Count
    weight_bytes: Count


class Costs(Part, frozen=True):
    dense: Cost
    final: Cost


class Quality(Part, frozen=True):
    examples: Size
    top1: Share
    top5: Share
    loss: Amount | None
    ece: Share | None
    worst_class: Count
    worst_class_top1: Share


class FinalQuality(Quality, frozen=True):
    correct: Bits | None = None


class Metrics(Part, frozen=True):
    dense: Quality
    pruned: Quality | None
    final: FinalQuality


class Curve(Part, frozen=True):
    """One list a field, one value an epoch; ``logged`` has what the method logged, null where it logged nothing."""

    phase: list[Count]
    part: list[Name]
    epoch: list[Count]
    train_loss: list[float | None]
    val_top1: list[Share | None]
    val_loss: list[float | None]
    units_left: list[Share | None] | None = None
    logged: dict[Name, list[float | None]] = {}

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> Curve:
        """The curve of one table an epoch."""
        measured = cls.__struct_fields__[:-1]
        logged = sorted({key for entry in entries for key in entry if key not in measured})
        columns: dict[str, Any] = {key: [entry.get(key) for entry in entries] for key in (*measured, *logged)}
        if set(columns["units_left"]) == {None}:
            columns["units_left"] = None
        return cls(**{key: columns[key] for key in measured}, logged={key: columns[key] for key in logged})


class File(Part, frozen=True):
    file: FileName
    bytes: Count
    sha256: Sha256


class Artifacts(Part, frozen=True):
    network: File | None = None
    masks: File | None = None
    samples: File | None = None


class Timing(Part, frozen=True):
    """Latency at one batch size; the samples are a file of the run, in the same order (``artifacts.samples``)."""

    batch: Size
    device: Name
    threads: Size
    dtype: Name
    runtime: Name
    layout: Name
    rounds: Size
    load_average: Amount
    dense_ms: Positive
    sliced_ms: Positive
    speedup: Positive
    speedup_ci95: tuple[Positive, Positive]
    runtime_version: Name | None = None


class Memory(Part, frozen=True):
    batch: Count
    dense_peak_bytes: Count
    final_peak_bytes: Count
    process_peak_bytes: Count


class Clock(Part, frozen=True):
    started_at: Moment
    finished_at: Moment
    resumes: Count
    base_seconds: dict[Name, Amount] | None
    seconds: dict[Name, Amount]


class Job(Part, frozen=True):
    cluster: Name | None = None
    id: Name | None = None
    at_once: Count | None = None
    attempts: Count | None = None
    preemptions: Count | None = None
    timeouts: Count | None = None
    terminations: Count | None = None
    kills: Count | None = None
    differs: list[Text] | None = None


class Error(Part, frozen=True):
    type: Name
    message: Text
    traceback: list[Text]
    blame: Literal["method", "architecture", "data", "recipe", "machine", "suite"] | None = None


class Record(Part, frozen=True):
    """All that is known of a run. What the run did not reach is None, or empty."""

    id: RunId
    kind: Literal["bench.run"]
    schema: Literal[2]
    status: Literal["ok", "failed", "diverged", "interrupted"]
    spec: Spec
    spec_sha256: Sha256
    code: Code
    environment: Environment
    clock: Clock
    job: Job | None
    error: Error | None
    data: Data | None = None
    training: Training | None = None
    structure: Structure | None = None
    cost: Costs | None = None
    metrics: Metrics | None = None
    curve: Curve | None = None
    artifacts: Artifacts = Artifacts()
    latency: list[Timing] = []
    memory: Memory | None = None
    plan_sha256: Sha256 | None = None
    replay_of: Sha256 | None = None
    converted_from: Sha256 | None = None
    record_sha256: str = ""  # last in the line, of the bytes before it: the store adds and checks it


class Finished(Record, frozen=True, kw_only=True):
    """A record with status ``ok``, which has all parts: for type checkers, see :func:`finished`."""

    data: Data
    training: Training
    structure: Structure
    cost: Costs
    metrics: Metrics
    memory: Memory


def finished(record: Record) -> TypeGuard[Finished]:
    """Whether the run finished; the rules between fields make sure that nothing is missing then."""
    return record.status == "ok"


class Pair(Part, frozen=True):
    """Samples of one timing, nanoseconds, in the order in which they were taken."""

    dense_ns: list[Count]
    sliced_ns: list[Count]


class Samples(Part, frozen=True):
    """The file ``artifacts.samples``: one entry for each entry of ``latency``."""

    id: RunId
    timings: list[Pair]


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a record."""
    return msgspec.json.schema(Record) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
