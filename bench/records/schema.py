"""The record of one run: the one definition of its fields. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

import msgspec

from bench.records.values import (
    Amount,
    Bits,
    Blocks,
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
    """A table of the record. A field with a default is not in every record."""


class Code(Part, frozen=True):
    version: Name  # of the suite
    commit: Commit | None  # of the working tree, null outside git
    diff_sha256: Sha256 | None  # of uncommitted changes to tracked files of bench/ and methods/, null without any
    method_sha256: Sha256 | None  # of what defines the method
    network_sha256: Sha256 | None = None  # of what defines the architecture; absent where the run could not start


class Environment(Part, frozen=True):
    device: Label  # processor or GPU
    device_type: Name  # cpu or cuda
    threads: Size  # of torch
    os: Name  # no host, user or path
    python: Name  # version
    cuda: Name | None  # version
    packages: dict[Name, Name]  # versions, of those too that method or architecture import
    instructions: Name  # that torch and oneDNN choose their CPU kernels by


class Data(Part, frozen=True):
    train: Count  # images
    val: Count  # images
    test: Count  # images
    # pixels and labels of training part and validation; streamed: names, labels and sizes of the files
    train_sha256: Sha256
    split_sha256: Sha256  # which training images are for validation
    shape: tuple[Size, Size, Size]  # channels, height, width of an image, pixels
    classes: Size  # how many there are
    test_sha256: Sha256 | None = None  # as train_sha256
    fold: Count | None = None  # without an official test part: the one that tests, the seed modulo their number
    folds_sha256: Sha256 | None = None  # all images, labels and folds: the same for every seed


class Phase(Part, frozen=True):
    epochs: Count  # at most
    part: Name  # train or finetune
    rewind: Name | None  # weights that it begins with, null: those that are there
    active: list[Name] | None = None  # parts of the method whose hooks run in it, after the prune
    rate: Positive | None = None  # factor on the recipe's learning rate, where it is not 1


class Made(Part, frozen=True):
    init_sha256: Sha256  # of the initial weights
    commit: Commit | None  # of the suite
    torch: Name  # version
    device: Name  # processor or GPU
    threads: Size  # of torch
    instructions: Name  # as in environment


class Base(Part, frozen=True):
    id: Name  # name of its files
    epochs: Count  # that it was trained
    examples: Count  # images seen in training
    macs: int  # of its training
    sha256: Sha256  # of its weights
    made: Made  # when and where it was trained


class Freeze(Part, frozen=True):
    phase: Count  # index in the plan
    epoch: Count  # epochs of the phase that were done
    upto: Name  # the last module that is frozen
    macs: Count  # of the frozen part in a forward of one image
    views: Count | None = None  # of each training image whose outputs were kept, in place of that part's forward


class Extra(Part, frozen=True):
    what: Literal["objective", "freeze", "teacher", "own", "cache", "compensate"]  # in place of a plain step
    name: Name  # part of the method, last frozen module, snapshot or module of the method's own
    examples: Count  # images that were passed for it
    macs: Count  # that it cost besides the steps


class Calibration(Part, frozen=True):
    parts: list[Name]  # of the method that compensated
    images: Count | None = None  # most that a refit looked at
    patches: Count | None = None  # most rows of a layer
    inputs: Literal["now", "base"] | None = None  # of the network as compensated so far, or of the dense one
    batches: Count | None = None  # of refit_bn


class Training(Part, frozen=True):
    plan: list[Phase | Literal["prune"]]  # phases and "prune", in order
    precision: Literal["fp32", "bf16"]  # as used
    starts_from: Name  # init or base
    # all, those of the base too where the method starts from it or asks it; fewer than planned where one ended early
    epochs: Count
    examples: Count  # images seen in training, in that of the base too
    macs: int  # of the steps, of the base's too, and of the method's own forwards (RULES.md, 2.3)
    selection: Name  # which epoch's weights are kept: last epoch
    base: Base  # the dense baseline
    # images that the method passed through the network itself: without and with a gradient
    method_examples: dict[Literal["forward", "backward"], Count]
    method_macs: Count | None = None  # of the method's own forwards, of parts of the network too
    layout: Literal["channels_last", "channels_first"] | None = None  # memory format, where it is not channels_last
    freeze: list[Freeze] | None = None  # what the method froze, in order
    calibration: Calibration | None = None  # how what was cut was compensated
    macs_by: dict[Literal["steps", "forwards", "teacher", "own", "cache"], Count] | None = None  # their sum is macs
    extras: list[Extra] | None = None  # what the method used beyond labels, penalties and forwards of its own

    @property
    def counts_base(self) -> bool:
        """Whether epochs, examples and macs have those of the base: it was the start, or a teacher."""
        taught = any(extra.what == "teacher" and extra.name == "base" for extra in self.extras or ())
        return taught or self.starts_from == "base"


class Structure(Part, frozen=True):
    widths: dict[Name, tuple[Count, Count]]  # site: units before and after
    units_before: Count  # sum
    units_after: Count  # sum
    # largest difference of outputs on 64 validation images, over the largest output where that exceeds 1
    gate_slice_difference: Amount | None
    arch_sha256: Sha256  # of the dense architecture
    rejected: dict[Name, Text]  # candidate: why it is no site
    masks: Bits  # bits of the units that are kept: the sites in sorted order, one after the other
    blocks: dict[Name, Blocks] | None = None  # site of blocks: 1 for each that is kept, in the order in which they run
    exempt: list[Name] | None = None  # sites that the method leaves whole, whatever the budget


class Cost(Part, frozen=True):
    macs: Count  # in a forward of one image
    macs_by_op: dict[Name, Count]  # kind of operation: MACs
    unsupported_ops: dict[Name, Count]  # kind of operation: how often it occurs, counted as nothing
    counter: Name  # that counted
    params: Count  # how many there are
    weight_bytes: Count  # of the stored weights


class Costs(Part, frozen=True):
    dense: Cost  # the unpruned network
    final: Cost  # what is physically left


class Quality(Part, frozen=True):
    examples: Size  # test images
    top1: Share  # share of the test images
    top5: Share  # share of the test images
    loss: Amount | None  # nats, mean; as many digits as its float32 needs
    ece: Share | None  # expected calibration error
    worst_class: Count  # label of the class with the lowest share
    worst_class_top1: Share  # its share


class FinalQuality(Quality, frozen=True):
    correct: Bits  # bits of the test images that are right, in the data set's order


class Metrics(Part, frozen=True):
    dense: Quality  # the unpruned network
    pruned: Quality | None  # before fine-tuning, null without a prune
    final: FinalQuality  # after all training


class Curve(Part, frozen=True):
    """One list a field, one value an epoch; ``logged`` has what the method logged, null where it logged nothing."""

    phase: list[Count]  # index in the plan
    part: list[Name]  # train or finetune
    epoch: list[Count]  # of the phase, from 1
    train_loss: list[float | None]  # nats, penalties not included
    val_top1: list[Share | None]  # share of the validation images
    val_loss: list[float | None]  # nats
    units_left: list[Share | None] | None = None  # share of the dense network's units that are there and not masked
    logged: dict[Name, list[float | None]] = {}  # name: values

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
    file: FileName  # name, without folders
    bytes: Count  # size
    sha256: Sha256  # of its bytes


class Artifacts(Part, frozen=True):
    network: File | None = None  # the final one
    masks: File | None = None  # of each site
    scores: File | None = None  # of each unit, from which a budget of milliseconds was met


class Memory(Part, frozen=True):
    batch: Count  # images
    dense_peak_bytes: Count  # of a forward of the dense network
    final_peak_bytes: Count  # of a forward of the final network
    process_peak_bytes: Count  # of the whole run


class LatencyRound(Part, frozen=True):
    target: Positive  # ms that were looked for
    predicted: Positive  # ms of what was found
    vector: list[Count]  # widths of the sites of channels, then 1 for each block that stays
    ms: Positive  # measured, geometric mean over copies
    dense_ms: Positive  # of the dense network next to it
    low: Positive  # of the 95 % interval of their ratio
    high: Positive  # of the same


class Latency(Part, frozen=True):
    device: Name  # of the table, and of what was measured
    dense_ms: Positive  # of the dense network by the table
    ranking: list[Name]  # global, layer, equal or shares; that of blocks too where it is another one
    rounds: list[LatencyRound]  # the last one's network was chosen


class Clock(Part, frozen=True):
    started_at: Moment  # UTC, of the process that wrote the record
    finished_at: Moment  # UTC
    resumes: Count  # how often training was taken up again
    base_seconds: dict[Name, Amount] | None  # of the base, whenever and by whichever run it was trained
    seconds: dict[Name, Amount]  # train, method (hooks), its solver, evaluate (validation), measure; not the base's


class Job(Part, frozen=True):
    cluster: Name | None = None  # such as slurm
    id: Name | None = None  # as the cluster has it
    at_once: Count | None = None  # runs side by side in the job, or in all local jobs of the submission
    attempts: Count | None = None  # how often a job began to work on the run
    preemptions: Count | None = None  # attempts that ended so
    timeouts: Count | None = None  # attempts that ended so
    terminations: Count | None = None  # attempts that ended so
    kills: Count | None = None  # attempts that ended so
    differs: list[Text] | None = None  # what of code and versions was another at submission


class Error(Part, frozen=True):
    type: Name  # of the exception
    message: Text  # one line
    traceback: list[Text]  # file names without folders
    blame: Literal["method", "architecture", "data", "recipe", "machine", "suite"]  # whose fault it is


class Record(Part, frozen=True):
    """All that is known of a run. What the run did not reach is None, or empty."""

    id: RunId  # first 12 digits of spec_sha256, and the seed
    kind: Literal["bench.run"]  # what the file is
    schema: Literal[2]  # version of this schema
    status: Literal["ok", "failed", "diverged", "interrupted"]  # how the run ended
    spec: Spec  # what was asked for
    spec_sha256: Sha256  # of the specification without seed
    code: Code  # the source that ran
    environment: Environment  # the machine and its versions
    clock: Clock  # when and how long
    job: Job | None  # null outside of jobs
    error: Error | None  # null where the run finished
    data: Data | None = None  # images, as loaded
    training: Training | None = None  # what was trained
    structure: Structure | None = None  # what was cut
    cost: Costs | None = None  # of inference
    metrics: Metrics | None = None  # on the test images
    curve: Curve | None = None  # of the method's own training; the base's is in its own file
    artifacts: Artifacts = Artifacts()  # files below artifacts/ID
    memory: Memory | None = None  # of a forward pass
    latency: Latency | None = None  # how a budget of milliseconds was met
    plan_sha256: Sha256 | None = None  # of the sweep file with the plan that asked for the run; absent without one
    replay_of: Sha256 | None = None  # record_sha256 of the record that bench reproduce ran again
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


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a record."""
    return msgspec.json.schema(Record) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
