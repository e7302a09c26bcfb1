"""What ``bench score`` says of a network that another tool made: the one definition of its fields. Needs no torch.

It is no record of a run, and boards take no notice of it: what the network was trained with, on which data, and how it
was selected is not known.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bench.records.latency import Quiet, Times
from bench.records.schema import Environment, Part, Quality
from bench.records.values import Amount, Count, Label, Moment, Name, Sha256, Share, Size, Text


class ScoredNetwork(Part, frozen=True):
    name: Name  # of the file, function or record, without folders
    form: Literal["onnx", "program", "module", "record"]  # what was given
    sha256: Sha256  # of the file's bytes, or of the weights
    batch: Size | None  # images of one call, null: any
    macs: Count  # products in a forward of one image
    macs_by: dict[Name, Count]  # conv, linear (a matrix of weights), matmul (of two activations): their sum is macs
    params: Count  # how many there are; of a file the elements of stored float and 8-bit tensors
    bytes: Count  # of the stored weights; of a file all of it
    channels: Count  # output channels of all layers with weights
    zero_channels: Count  # how many of them have no weight that is not zero: they are computed all the same
    weights: Count  # of these layers
    zero_weights: Count  # how many of them are zero
    quality: Quality  # on the test images


class Images(Part, frozen=True):
    dataset: Label  # name
    seed: Count  # which test part, where the data set has folds
    shape: tuple[Size, Size, Size]  # channels, height, width, pixels
    classes: Size  # how many there are
    test_sha256: Sha256  # pixels and labels of the test part
    mean: list[float]  # subtracted from pixels on the scale 0..255, one a channel
    std: list[float]  # they are then divided by
    normal_from: Literal["option", "file", "dataset"]  # who said so: --mean and --std, metadata of a file, the data set


class Claim(Part, frozen=True):
    share: Share  # of the dense MACs, as the tool says
    within: Amount  # how far another number may be from it to be the same: half a unit of its last digit
    ours: Amount  # share of the products
    why: Text  # why the two differ, or "not explained"
    counted_so: Amount | None  # what the share is if it is counted as the tool does
    operators: dict[Name, tuple[int, int]]  # what the tool counts in addition (left out: negative), of file and dense


class Timed(Part, frozen=True):
    runtime: Name  # that executed both networks
    runtime_version: Name  # of its package
    device: Name  # processor or GPU
    threads: Size  # of the CPU
    batch: Size  # images of one call
    layout: Name  # memory format
    timed: Literal["turns", "bursts"]  # single calls in turns, or several calls of one network in a row
    times: Times  # of the dense network and the other one, in turns
    control: Times  # of the dense network and its copy, in the same processes
    quiet: Quiet  # what else the machine did


class Score(Part, frozen=True):
    """All that is known of the network and of the dense one that it is compared with."""

    kind: Literal["bench.score"]  # what the file is
    schema: Literal[1]  # version of this form
    version: Name  # of the suite
    network: ScoredNetwork  # what another tool made
    dense: ScoredNetwork  # what it was made of
    images: Images  # both are evaluated on
    claim: Claim | None  # null: none was given
    latency: list[Timed]  # one a runtime and batch
    notes: list[Text]  # what a reader has to know to compare the two
    environment: Environment  # the machine and its versions
    made_at: Moment  # UTC

    @property
    def shares(self) -> dict[str, float]:
        """MACs, parameters and bytes of the network as shares of the dense one's."""
        return {name: getattr(self.network, name) / getattr(self.dense, name) for name in ("macs", "params", "bytes")}


def json_schema() -> dict[str, Any]:
    """JSON Schema of its file."""
    return msgspec.json.schema(Score) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


_ENCODER = msgspec.json.Encoder(order="deterministic")


def encode(score: Score) -> bytes:
    """The content of its file."""
    return msgspec.json.format(_ENCODER.encode(score), indent=1) + b"\n"


def decode(content: bytes) -> Score:
    """The score in a file; raises msgspec.MsgspecError where it is another file."""
    return msgspec.json.decode(content, type=Score)
