"""Plans carried out by a trainer alone, without a pipeline."""

from collections.abc import Callable
from typing import Any

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
