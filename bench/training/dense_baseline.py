"""Bases: dense networks, trained once per (architecture, data set, recipe, seed) and used by every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import MACHINE, RunFailed
from bench.files import Lock, write_atomic
from bench.progress import Progress
from bench.training.checkpoint import load_tensors, save_tensors
from bench.training.loop import PhaseTrainer
from bench.training.plan import Phase


@dataclass(frozen=True)
class Base:
    """A trained dense network: its weights and how it came about."""

    state: dict[str, Tensor]
    facts: dict[str, Any]


def paths(folder: Path, base_id: str) -> tuple[Path, Path, Path]:
    """Weights, facts and training checkpoint of a base."""
    stem = folder / "bases" / base_id
    return (
        stem.with_name(base_id + ".safetensors"),
        stem.with_name(base_id + ".json"),
        stem.with_name(base_id + ".pt"),
    )


def exists(folder: Path, base_id: str) -> bool:
    """Whether the base is trained."""
    weights, facts, _ = paths(folder, base_id)
    return weights.is_file() and facts.is_file()


def ensure(
    folder: Path,
    base_id: str,
    epochs: int,
    progress: Progress,
    start: Callable[[Path], PhaseTrainer],
    made: Mapping[str, Any],
) -> Base:
    """The base, trained now unless it is already there.

    Two processes that need it train it once: the second waits for the first, and takes over (from its last
    checkpoint) should it die, since the lock dies with its holder.

    Args:
        folder: output folder.
        base_id: its name.
        epochs: of its training.
        progress: where to report.
        start: makes the plain training that writes its checkpoints to the given file.
        made: how it is trained, if it is: stored with its weights, and copied to the records of all its runs.
    """
    weights, facts_file, checkpoint = paths(folder, base_id)
    weights.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(weights.parent, base_id)
    if lock.busy():
        progress.say(f"waiting for another run that trains the base {base_id}")
    with lock:
        if not exists(folder, base_id):
            training = start(checkpoint)
            if training.resume():
                progress.skip(training.position[1])
                progress.say(f"dense baseline: resuming after epoch {training.position[1]}")
            if not training.position[0]:  # else it is trained, but was cut off before its facts were written
                phase = Phase(epochs)
                training.train(phase)
                training.finish_step((phase,))
            artifact = save_tensors(weights, training.model.network.state_dict())
            facts = {
                "id": base_id,
                "epochs": training.epochs,
                "examples": training.examples,
                "macs": training.train_macs,
                "sha256": artifact["sha256"],
                "curve": training.curve,
                "seconds": training.seconds,
                "made": dict(made),
            }
            write_atomic(facts_file, lambda p: p.write_text(json.dumps(facts), encoding="utf-8"))
            checkpoint.unlink(missing_ok=True)
    try:
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFailed(f"{facts_file} is damaged; delete it and run again", blame=MACHINE) from error
    if hashlib.sha256(weights.read_bytes()).hexdigest() != facts["sha256"]:
        raise RunFailed(f"{weights} is not what was trained; delete it and run again", blame=MACHINE)
    return Base(load_tensors(weights), facts)
