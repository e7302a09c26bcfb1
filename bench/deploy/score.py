"""``bench score``: a network that another tool made, on the scales of the suite, next to the dense one it is made of.

Both are evaluated on the same test images, normalised in the same way, and timed in turns. The result is no record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor

from bench import __version__
from bench.data.image_set import ImageSet
from bench.data.loading import find, load_test, load_training
from bench.deploy import claim
from bench.deploy.opened import Facts, Opened, Where, facts_of, opened, require_runs
from bench.deploy.score_times import timed
from bench.errors import RunFailed, UsageError
from bench.measure import environment, onnx_file, runtimes
from bench.measure.accuracy import quality
from bench.measure.products import NetworkCount
from bench.measure.quiet import Busy, Machine
from bench.models.memory_format import LAYOUT
from bench.progress import Progress
from bench.records.schema import Environment, Quality
from bench.records.score import Claim, Images, Score, ScoredNetwork, Timed
from bench.runs.latency_pass import How
from bench.runs.latency_restart import Window, Work
from bench.runs.result import now
from bench.spec.registry import add_plugin

CHANCE = 0.02
"""A dense network is not believed to be evaluated as it was trained if its accuracy is so near that of guessing."""
BATCHES = (1, 64)


@dataclass(frozen=True)
class Asked:
    """What a user asks for.

    Attributes:
        file, like: networks, see :func:`bench.deploy.opened.opened`.
        dataset, seed: None: what a record or the metadata of a file says.
        mean, std: of each channel, on the scale 0..1; None: the metadata of a file, else the data set's.
        claims_macs: share of the dense MACs that the tool claims, as it is typed.
        runtimes: to time both in; None: the first that takes both.
        batches, threads, bursts, machine: of the timing; bursts are several calls of one network in a row.
        process: that carries it out, see :class:`bench.runs.latency_pass.LatencyPass`.
        out, data_dir, download, plugins, max_bytes: as in :class:`bench.deploy.opened.Where`.
    """

    file: str
    like: str
    dataset: str | None = None
    seed: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    claims_macs: str | None = None
    runtimes: tuple[str, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    threads: int = 1
    bursts: bool = False
    machine: Machine = field(default_factory=Machine)
    process: Callable[[Work], Iterable[Window]] | None = None
    out: Path = Path("results")
    data_dir: Path = Path("data")
    download: bool = False
    plugins: tuple[str, ...] = ()
    max_bytes: int = onnx_file.MAX_BYTES


class NotTimed(Busy):
    """The machine was too busy to time anything; ``score`` has all else (exit 3)."""

    def __init__(self, found: Score, busy: Busy) -> None:
        super().__init__(f"no milliseconds: {busy}; --runtimes none leaves them out")
        self.score = found


def score(asked: Asked, say: Callable[[str], object] = lambda text: None) -> Score:
    """Score a network; ``say`` prints how far it is.

    Raises:
        UsageError: a network, the data set or an option is unknown or does not go with the others.
        SetupError: data, a package or a runtime is missing.
        NotTimed: the machine is busy.
        RunFailed: a network cannot be read or counted, the two inputs are normalised wrongly, or a control of the
            timing does not hold.
    """
    for plugin in asked.plugins:
        add_plugin(plugin)
    claimed = claim.parse(asked.claims_macs) if asked.claims_macs else None
    for name in ("mean", "std"):
        _require_constants(name, getattr(asked, name))
    if asked.threads < 1 or (asked.seed or 0) >= 2**63:
        raise UsageError(f"--threads {asked.threads}, --seed {asked.seed or 0}: at least 1 thread, a seed below 2^63")
    facts = [facts_of(text, asked.out, asked.max_bytes) for text in (asked.like, asked.file)]
    images, test = _images(asked, facts)
    where = Where(images.shape, images.classes, asked.out, asked.max_bytes, asked.download)
    torch.set_num_threads(asked.threads)
    dense, file = opened(asked.like, "dense", where), opened(asked.file, "final", where)
    names = asked.runtimes if asked.runtimes is not None else _first(dense, file)
    runtimes.require(names)
    for runtime in names:
        for network in (dense, file):
            require_runs(network, runtime)
    batches, notes = _batches(dense, file, asked.batches)
    say(f"evaluating both on {len(test):,} images of {images.dataset}")
    answers = {id(network): _quality(network, test) for network in (dense, file)}
    _require_sense(dense.name, answers[id(dense)], test.labels, images)
    say("counting")
    costs = _costs(dense, file, notes)
    networks = [_described(network, cost, answers[id(network)]) for network, cost in zip((dense, file), costs)]
    how = How(names, batches, asked.threads, "cpu", "bursts" if asked.bursts else "turns")
    named = ((asked.like, "dense"), (asked.file, "final"))
    layout = next((network.layout for network in (dense, file) if network.layout != LAYOUT), LAYOUT)
    lines: list[Timed] = []
    busy = None
    try:
        lines = timed(named, networks, where, how, layout, asked.machine, asked.process, say)
    except Busy as error:
        notes.append("milliseconds are not measured: the machine was busy")
        busy = error
    found = Score(
        kind="bench.score",
        schema=1,
        version=__version__,
        network=networks[1],
        dense=networks[0],
        images=images,
        claim=_claim(*claimed, costs[1], costs[0]) if claimed else None,
        latency=lines,
        notes=[*notes, *_zeros(networks[1]), *_not_finite(networks)],
        environment=msgspec.convert(environment.versions(torch.device("cpu")), Environment),
        made_at=now(),
    )
    if busy is not None:
        raise NotTimed(found, busy) from busy
    return found


def _images(asked: Asked, facts: Sequence[Facts]) -> tuple[Images, ImageSet]:
    """What both networks are evaluated on."""
    name = asked.dataset or next((fact.dataset for fact in facts if fact.dataset), None)
    if name is None:
        raise UsageError("no network says which data set it is for: give --dataset NAME")
    seed = asked.seed if asked.seed is not None else next((f.seed for f in facts if f.seed is not None), 0)
    cache, progress = asked.out / "cache", Progress(name, quiet=True)
    found = find(name, asked.data_dir, cache, progress).for_seed(seed)
    cpu = torch.device("cpu")
    training = load_training(found, asked.data_dir, asked.download, seed, cpu, cache, progress)
    test, digest = load_test(found, asked.data_dir, training.train, cache, progress)
    mean, std, source = test.mean.flatten().tolist(), test.std.flatten().tolist(), "dataset"
    stored = {(fact.mean, fact.std) for fact in facts if fact.mean and fact.std}
    if asked.mean or asked.std:
        if not (asked.mean and asked.std):
            raise UsageError("--mean and --std: give both")
        mean, std = ([255 * value for value in values] for values in (asked.mean, asked.std))
        source = "option"
    elif len(stored) > 1:
        raise UsageError("the two files want images normalised in different ways: give --mean and --std")
    elif stored:
        mean, std = map(list, stored.pop())
        source = "file"
    channels = found.shape[0]
    mean, std = (_per_channel(values, channels) for values in (mean, std))
    normal = {key: torch.tensor(values).reshape(1, -1, 1, 1) for key, values in (("mean", mean), ("std", std))}
    same: Any = test  # every kind of set is a dataclass
    described = Images(found.name, seed, found.shape, found.classes, digest, mean, std, cast("Any", source))
    return described, dataclasses.replace(same, **normal)


def _require_constants(name: str, values: tuple[float, ...] | None) -> None:
    for value in values or ():
        if not (0 < value <= 1 or (name == "mean" and value == 0)):
            raise UsageError(f"--{name} {value:g}: of pixels on the scale 0 to 1, as torchvision's Normalize takes it")


def _per_channel(values: list[float], channels: int) -> list[float]:
    if len(values) not in (1, channels):
        raise UsageError(f"--mean and --std: {len(values)} numbers for {channels} channels")
    return values * (channels if len(values) == 1 else 1)


def _first(dense: Opened, file: Opened) -> tuple[str, ...]:
    return ("onnxruntime",) if "onnx" in (dense.form, file.form) else ("eager",)


def _batches(dense: Opened, file: Opened, asked: Sequence[int]) -> tuple[tuple[int, ...], list[str]]:
    """Batch sizes that both take, and what to say of them."""
    fixed = sorted({network.batch for network in (dense, file) if network.batch})
    if len(fixed) > 1:
        raise UsageError(f"the files take {fixed[0]} and {fixed[1]} images at once: export both with one batch size")
    if not fixed:
        return tuple(asked), []
    names = " and ".join(network.name for network in (dense, file) if network.batch)
    return (fixed[0],), [f"{names}: the batch is fixed at {fixed[0]}, so times are of that batch only"]


def _quality(network: Opened, test: ImageSet) -> Quality:
    found = quality(network.logits(test), test.labels)
    finite = {key: value if math.isfinite(value) else None for key, value in found.items()}
    return Quality(**finite)  # type: ignore[arg-type]  # mypy takes each value for any of the fields


def _require_sense(name: str, found: Quality, labels: Tensor, images: Images) -> None:
    """Raise RunFailed where the dense network is no better than a guess."""
    chance = float(labels.bincount().max() / len(labels))
    if found.top1 < chance + CHANCE:
        raise RunFailed(
            f"{name} has {100 * found.top1:.2f} % top-1 on {images.dataset}, guessing has {100 * chance:.2f} %: check "
            f"--mean and --std (now from the {images.normal_from}) and --dataset"
        )


def _costs(dense: Opened, file: Opened, notes: list[str]) -> list[tuple[NetworkCount, int, int]]:
    """What both cost. Of a file and a network of torch the latter as it is exported: files have no batch norm."""
    found = [dense.cost, file.cost]
    if (dense.form == "onnx") == (file.form == "onnx"):
        return found
    which = 0 if file.form == "onnx" else 1
    network = (dense, file)[which]
    exported = network.as_file().cost
    if exported[0].macs != found[which][0].macs:
        raise RunFailed(
            f"{network.name} has {found[which][0].macs:,} MACs, its export {exported[0].macs:,}: give both networks as "
            "ONNX files"
        )
    notes.append(f"parameters and bytes of {network.name} are those of its export, where batch norm is folded")
    found[which] = exported
    return found


def _described(network: Opened, cost: tuple[NetworkCount, int, int], found: Quality) -> ScoredNetwork:
    count, params, size = cost
    channels, zero_channels, weights, zero_weights = count.zeros()
    return ScoredNetwork(
        name=network.name,
        form=cast("Any", network.form),
        sha256=network.sha256,
        batch=network.batch,
        macs=count.macs,
        macs_by=count.by_kind(),
        params=params,
        bytes=size,
        channels=channels,
        zero_channels=zero_channels,
        weights=weights,
        zero_weights=zero_weights,
        quality=found,
    )


def _zeros(network: ScoredNetwork) -> list[str]:
    """What to say of weights that are zero."""
    if network.zero_channels:
        share = network.zero_channels / network.channels
        return [f"{100 * share:.3g} % of the channels are zero but still computed: masked, not sliced"]
    if network.zero_weights > 0.01 * network.weights:
        share = network.zero_weights / network.weights
        return [f"{100 * share:.3g} % of the weights are zero, in no whole channel: dense layers compute them"]
    return []


def _not_finite(networks: Sequence[ScoredNetwork]) -> list[str]:
    """What to say of networks whose loss is no number."""
    return [
        f"outputs of {one.name} are not finite: its top-1 says nothing" for one in networks if one.quality.loss is None
    ]


def _claim(
    share: float, within: float, file: tuple[NetworkCount, int, int], dense: tuple[NetworkCount, int, int]
) -> Claim:
    found = claim.explained(share, within, file[0], dense[0], (file[1], dense[1]))
    ours = file[0].macs / dense[0].macs
    if found is None:
        return Claim(share, within, ours, "not explained", None, {})
    return Claim(share, within, ours, found.text, found.share, dict(found.operators))
