"""Plans carried out by a trainer alone, without a pipeline, at once or stopped after each checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.training.loop import PhaseTrainer
from bench.training.plan import Phase, Plan


def carry_out(trainer: PhaseTrainer, plan: Plan, prune: Callable[[PhaseTrainer], Any] | None = None) -> None:
    """Carry out ``plan`` from the trainer's position on; ``prune`` may return a dictionary for the record."""
    while trainer.position[0] < len(plan):
        step = plan[trainer.position[0]]
        if isinstance(step, Phase):
            trainer.train(step)
        else:
            trainer.start_prune()
            result = prune(trainer)
            trainer.finish_prune(result if isinstance(result, dict) else None)
        trainer.finish_step(plan)
    trainer.thaw()


class Stop(Exception):
    """A checkpoint was written."""


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of a network."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two dictionaries have the same names and tensors, to the bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def prune(trainer: PhaseTrainer) -> dict[str, int]:
    """Remove the units that the method does not select, as a run does; return what is left of the cost."""
    masks = trainer.ctx.select()
    trainer.finalize()
    trainer.model.slice(masks, tracking=trainer.method is not None)
    return {"macs": trainer.model.macs}


def resumed(start: Callable[[Path], PhaseTrainer], plan: Plan, file: Path) -> PhaseTrainer:
    """A training that is stopped after each of its checkpoints; ``start`` makes it with the checkpoint ``file``."""
    stops = 0
    while True:
        trainer = start(file)
        assert trainer.resume() == (stops > 0)
        save = trainer.save

        def stopping(position: tuple[int, int], save: Callable[[tuple[int, int]], None] = save) -> None:
            save(position)
            raise Stop

        trainer.save = stopping  # type: ignore[method-assign]
        try:
            carry_out(trainer, plan, prune)
        except Stop:
            stops += 1
        else:
            assert trainer.resumes == stops >= len(plan)
            return trainer


def check_resume(start: Callable[[Path | None], PhaseTrainer], plan: Plan, file: Path) -> PhaseTrainer:
    """Check that a training stopped after each checkpoint equals an uninterrupted one to the bit; return the latter."""
    whole = start(None)
    carry_out(whole, plan, prune)
    again = resumed(start, plan, file)
    assert same(state_of(again.model.network), state_of(whole.model.network))
    assert again.curve == again.ctx.curve == whole.curve
    assert (again.train_macs, again.examples, again.epochs) == (whole.train_macs, whole.examples, whole.epochs)
    assert again.model.ledger.counts == whole.model.ledger.counts
    assert again.now.prune_result == whole.now.prune_result
    assert again.model.frozen.log == whole.model.frozen.log
    assert same(again.model.sliced_by or {}, whole.model.sliced_by or {})
    assert again.model.snapshots.keys() == whole.model.snapshots.keys()
    assert all(same(again.model.snapshots[tag], snapshot) for tag, snapshot in whole.model.snapshots.items())
    assert same(again.model.tracked, whole.model.tracked)
    return whole


def native(training):
    """``training`` with a method that chooses its own sparsity, prepared for that."""
    training.ctx._budget = None
    for hook in training.method.bound("prepare"):
        hook(training.ctx)
    return training
