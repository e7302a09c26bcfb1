"""The checkpoint of one training: the file, and what depends on the run's sites, method and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.progress import Progress
from bench.training.checkpoint import load_state, save_state
from bench.training.context import Context
from bench.training.method_parts import Parts
from bench.training.snapshots import Taken

FORMAT_VERSION = 8
"""Version of the checkpoint format; a checkpoint of another version is ignored."""


class RunCheckpoint:
    """The file that is written after every epoch and read on resume.

    Args:
        path: the file; None for no checkpoint.
        identity: what the checkpoint belongs to; a checkpoint of anything else is ignored.
        progress: where to report.
    """

    def __init__(self, path: Path | None, identity: str, progress: Progress) -> None:
        self.path, self.identity, self.progress = path, identity, progress

    def write(self, state: Mapping[str, Any]) -> None:
        """Write ``state``; a file that cannot be written is reported, and training continues."""
        if self.path is None:
            return
        try:
            save_state(self.path, {"form": FORMAT_VERSION, "identity": self.identity, **state})
        except OSError as error:  # a full disk must not cost the training that is still in memory
            self.progress.say(f"checkpoint not written ({error.strerror}); a resume would start from an earlier epoch")
        else:
            self.progress.saved()

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was written for this identity, its tensors on ``device``; None when there is none."""
        state = load_state(self.path, device) if self.path else None
        if state is None and self.path and self.path.is_file():
            self.progress.say(f"{self.path.name} cannot be read: starting over")
        if state is None:
            return None
        if (state.get("form"), state.get("identity")) != (FORMAT_VERSION, self.identity):
            self.progress.say(
                "the checkpoint was written with other source, images, versions or threads: starting over"
            )
            return None
        return state


def state_of_run(ctx: Context, parts: Parts) -> dict[str, Any]:
    """What depends on sites, method and budget."""
    model, now = ctx._model, ctx._now
    return {
        "pruned": now.pruned,
        "method": parts.states(),
        "inserted": parts.names_of(model.inserted),
        "per_unit": dict(model.per_unit),
        "masks": model.masks,
        "sliced_by": model.sliced_by,
        "snapshots": {tag: model.snapshots[tag] for tag in model.snapshots if tag not in ("init", "base")},
        "taken": {tag: list(t) for tag, t in model.snapshots.taken.items() if tag not in ("init", "base")},
        "tracked": model.tracked,
        "rng": ctx.rng.get_state(),
        "ledger": model.ledger.counts,
        "extras": model.ledger.extras,
        "own": model.own.state(),
        "logged": now.logged,
        "prune_result": now.prune_result,
        "tuned": now.tuned,
        "frozen": model.frozen.state(),
        "network": model.network.state_dict(),
    }


def restore_run(ctx: Context, parts: Parts, finalize: Callable[[], None], state: Mapping[str, Any]) -> None:
    """Put back what :func:`state_of_run` returned; the network is sliced as it was.

    Args:
        ctx: of a run whose method has been prepared.
        parts: of the method.
        finalize: finalizes the parts that do not act after the prune.
        state: of the checkpoint.
    """
    model, now = ctx._model, ctx._now
    model.masks = model.sites.ones(model.device)
    if state["pruned"]:
        finalize()
    if state["sliced_by"] is not None:
        model.shrink(state["sliced_by"]) if parts.left else model.slice(state["sliced_by"])
    now.pruned = state["pruned"]
    parts.load(state["method"])
    model.insert_only({site: parts.method.get_submodule(n) for site, n in state["inserted"].items()})
    model.network.load_state_dict(state["network"])
    model.masks = state["masks"]  # which holds masked units at the weights that the network has now
    model.snapshots.update(state["snapshots"])
    model.snapshots.taken |= {tag: Taken(*taken) for tag, taken in state["taken"].items()}
    model.tracked |= state["tracked"]
    model.per_unit.load(state["per_unit"])
    ctx.rng.set_state(state["rng"].cpu())
    model.ledger.counts, model.ledger.extras = state["ledger"], state["extras"]  # prepare was counted the first time
    model.own.load(state["own"])
    now.logged, now.prune_result, now.tuned = state["logged"], state["prune_result"], state["tuned"]
    model.frozen.load(state["frozen"])
