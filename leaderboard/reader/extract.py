"""One record as the values of one row, or why it is not believed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from bench.errors import METHOD
from bench.records import store, training_checks
from bench.records.latency import shape_of, widths_sha256
from bench.records.schema import Data, Made, Phase, Quality, Record, Structure, Training, finished
from bench.spec.option_text import flat
from bench.spec.recipe import Recipe, load_recipe, recipe_names
from bench.spec.spec import Budget
from leaderboard.reader.model import VOID

COLUMNS = (
    *("file", "submitter", "doubt", "replays", "id", "record_sha256", "status", "error", "finished_at"),
    *("schema", "rules", "arch", "arch_sha256", "dataset", "train_sha256", "test_sha256", "recipe", "recipe_sha256"),
    *("coupling", "precision", "counter", "device", "device_type", "threads"),
    *("spec_sha256", "method", "name", "seed", "track", "kind", "keep_share"),
    *("code_commit", "code_changed", "method_sha256", "torch"),
    *("fold", "images", "train_images", "test_images"),
    *("dense_wrong_images", "pruned_wrong_images", "final_wrong_images"),
    *("dense_macs", "final_macs", "dense_params", "final_params"),
    *("epochs", "finetune_plan", "base_sha256", "examples_images", "training_macs", "training_seconds"),
    *("final_loss", "correct", "masks", "network_sha256", "shape", "widths_sha256", "differs", "remarks"),
    *("base_name", "base_made_on", "base_all_sha256", "base_work", "base_metrics", "machine", "split_sha256"),
    *("plan_sha256", "replay_of", "asked_ms", "final_ms", "dense_ms"),
)
"""Columns of the frame. Units are in the names; what has none is a text, a count or a ratio.

Where the test fold rotates with the seed, ``train_sha256`` and ``test_sha256`` both are the hash of all folds.
``submitter`` is whose folder the record lies in, ``doubt`` why it is below level 2 of ``bench verify``, ``replays`` who
ran it again, with what status: found out when all records are read. ``base_all_sha256`` is of the base that a run is
compared with, whatever it starts from.
``images`` is what all runs on one data set have in common: both sizes, or with folds their sum.
"""
SAID_ELSEWHERE = ("name", "train.epochs", "finetune.epochs", "precision", "latency_batch")
"""Values of a recipe that its name, its epochs, or another part of a board's key say, or that change no result."""
Values = Any
"""One row as a named tuple; None where it has no value."""
_Record: Any = namedtuple("Record", COLUMNS)  # type: ignore[misc]  # mypy wants to read the fields
as_record: Callable[[Iterable[Any]], Values] = _Record._make
"""The row of some values in the order of ``COLUMNS``."""


def read(line: bytes) -> tuple[Any, ...] | str:
    """The values of the record in a line, in the order of ``COLUMNS`` from ``id`` on, or why it is not believed."""
    try:
        record = store.decode(line, "")
        return next(training_checks.of_record(record), None) or tuple(_values(record))
    except store.RecordError as error:
        return str(error).removeprefix("record : ")


def _values(found: Record) -> Iterator[Any]:
    spec, code, environment, data, training = found.spec, found.code, found.environment, found.data, found.training
    done = found if finished(found) else None
    error = found.error
    void = error is not None and error.blame != METHOD and found.status != "interrupted"
    message = "" if error is None else f"fault of the {error.blame}: {error.message}" if void else error.message
    yield from (found.id, found.record_sha256, VOID if void else found.status)
    yield from (message[:500], found.clock.finished_at.isoformat())
    yield from (found.schema, spec.rules, spec.arch, found.structure.arch_sha256 if found.structure else None)
    yield spec.dataset
    yield from (data.folds_sha256 or data.train_sha256, data.folds_sha256 or data.test_sha256) if data else (None, None)
    yield from _recipe(spec.recipe)
    yield from (_pruned(found), store.arithmetic(training), done.cost.final.counter if done else None)
    yield from (environment.device, environment.device_type, environment.threads)
    yield from (found.spec_sha256, spec.method, spec.name, spec.seed)
    yield from _track(spec.name, spec.budget or Budget(), done.training if done else None)
    yield from (code.commit, code.diff_sha256 is not None, code.method_sha256)
    yield environment.packages.get("torch")
    yield from _images(data) if data else (None,) * 4
    metrics = done.metrics if done else None
    yield from map(_wrong, (metrics.dense, metrics.pruned, metrics.final) if metrics else (None, None, None))
    cost = done.cost if done else None
    yield from (cost.dense.macs, cost.final.macs) if cost else (None, None)
    yield from (cost.dense.params, cost.final.params) if cost else (None, None)
    plan = training.plan if training else []
    after = plan[plan.index("prune") + 1 :] if "prune" in plan else plan
    from_base = training is not None and training.starts_from == "base"
    yield from (training.epochs if training else None, msgspec.json.encode(after).decode())
    yield training.base.sha256 if training and from_base else None
    yield from (training.examples if training else None, training.macs if training else None)
    yield _seconds(found, training is not None and training.counts_base)
    network = found.artifacts.network
    yield from (metrics.final.loss, metrics.final.correct) if metrics else (None, None)
    structure, shape = done.structure if done else None, data.shape if data else None
    yield from (structure.masks if structure else None, network.sha256 if network else None)
    yield from (shape and "x".join(map(str, shape)), widths_sha256(shape_of(structure)) if structure else None)
    job = found.job
    differs = (job.differs or ()) if job else ()
    yield ", ".join(text.partition(":")[0] for text in differs)
    yield "; ".join(_remarks(training, structure))
    base = training.base if training else None
    yield from (base.id if base else None, _machine(base.made) if base else None)
    yield base.sha256 if base else None
    yield f"{base.epochs} {base.examples} {base.macs} {cost.dense.macs} {cost.dense.params}" if base and cost else None
    yield _short(metrics.dense) if metrics else None
    yield _short([environment.device, environment.threads, environment.instructions, environment.packages])
    yield from (data.split_sha256 if data else None, found.plan_sha256, found.replay_of)
    yield from _milliseconds(found)


def _pruned(found: Record) -> str:
    """``Spec.prunable``, with the device that milliseconds are of."""
    spec, device = found.spec, found.latency.device if found.latency else found.environment.device
    return f"{spec.prunable} on {device}" if spec.budget and spec.budget.of_latency else spec.prunable


def _milliseconds(found: Record) -> tuple[float | None, ...]:
    """What a budget of milliseconds asked for, and what pruned and dense network took next to each other."""
    if found.latency is None or found.spec.budget is None:
        return None, None, None
    last = found.latency.rounds[-1]
    return found.spec.budget.target_ms(last.dense_ms), last.ms, last.dense_ms


USED = {
    "objective": "its own objective replaced the cross-entropy in some epochs",
    "teacher": "it was taught by another network, whose forwards are in its cost",
    "own": "it trained modules of its own, which are in its cost",
    "cache": "it trained on kept outputs of frozen layers, the same views of each image in every epoch",
}
"""What is said of a run for what it used (``training.extras``)."""


def _remarks(training: Training | None, structure: Structure | None) -> Iterator[str]:
    """What a reader of the row should know of how the run was made."""
    if training and training.freeze:
        yield "layers were frozen while it trained"
    used = {extra.what for extra in (training.extras if training else None) or ()}
    yield from (text for what, text in USED.items() if what in used)
    rates = {step.rate for step in training.plan if isinstance(step, Phase) and step.rate} if training else set()
    if rates:
        yield f"phases at {' and '.join(f'{rate:g}' for rate in sorted(rates))} of the recipe's learning rate"
    if structure and structure.exempt:
        yield f"{len(structure.exempt)} of {len(structure.widths)} sites are exempt and keep all units"


def _machine(made: Made) -> str:
    """What else decides a base's weights."""
    return f"{made.device} {made.threads} {made.instructions}"


def _short(part: Any) -> str:
    """Enough of a hash of a part of a record to see that two are equal."""
    return hashlib.sha256(msgspec.json.encode(part, order="sorted")).hexdigest()[:16]


def _images(data: Data) -> tuple[Any, ...]:
    """Fold, images in all, training and test images."""
    train = data.train + data.val
    return data.fold, f"{train}+{data.test}" if data.fold is None else f"{train + data.test}", train, data.test


@functools.lru_cache(maxsize=256)
def _recipe(recipe: Recipe) -> tuple[str, str]:
    """Name, epochs and what else differs from the recipe of that name of the suite; the hash.

    A name is no part of the hash: only what differs says that it is another recipe.
    """
    said = f"{recipe.name} {recipe.train.epochs}+{recipe.finetune.epochs}"
    if recipe.name in recipe_names():
        ours, own = flat(dataclasses.asdict(load_recipe(recipe.name))), flat(dataclasses.asdict(recipe))
        edited = {key: own[key] for key in own if own[key] != ours[key] and key not in SAID_ELSEWHERE}
        said = ", ".join([said, *(f"{key} {value}" for key, value in edited.items())])
    return said, recipe.sha256


def _track(name: str, budget: Budget, training: Training | None) -> tuple[Any, ...]:
    """Track, what the budget is a share of, and the share; ``training`` of a run that finished."""
    if budget.widths is not None:
        return "like", "like", None
    asked: dict[str, Any] = {"macs": budget.keep_macs, "params": budget.keep_params}
    asked |= {"latency": budget.keep_latency, "ms": budget.latency_ms}
    for kind, share in asked.items():
        if isinstance(share, float):
            return "matched", kind, share
    if training is None or "prune" in training.plan:  # without an end nobody knows whether it would prune
        return "native", "native", None
    return ("dense", None, None) if name == "dense" else ("training", "training", None)


def _wrong(quality: Quality | None) -> int | None:
    """Images that are wrong; the rules of records make sure that accuracy is a count."""
    return None if quality is None else round((1 - quality.top1) * quality.examples)


def _seconds(found: Record, from_base: bool) -> float | None:
    """Seconds of training with the method's hooks, the base's included where training started from it."""
    clock = found.clock
    if found.training is None or (from_base and not clock.base_seconds):
        return None
    parts = [clock.seconds, *([clock.base_seconds] if from_base and clock.base_seconds else [])]
    return sum(part.get("train", 0.0) + part.get("method", 0.0) for part in parts)
