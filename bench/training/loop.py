"""Training of one phase of a plan: the method's hooks around every step, clocks, a checkpoint after every epoch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.loading import TrainingData
from bench.errors import Diverged
from bench.models.torch_state import seed_generators
from bench.progress import Progress
from bench.spec.digest import derive_seed
from bench.spec.recipe import Recipe, Stage
from bench.training.context import Context
from bench.training.finite import diverged
from bench.training.guard import DECLARED_WRITERS, STEP_HOOKS, WRITERS, Guard
from bench.training.hook_calls import HookCalls, clock, objective, scalar
from bench.training.lr_schedule import schedule
from bench.training.method import Method
from bench.training.method_parts import Hooks, Parts
from bench.training.optimizer import make_optimizer
from bench.training.plan import PRUNE, Phase, Plan
from bench.training.prefix_cache import PrefixCache
from bench.training.run_checkpoint import RunCheckpoint, restore_run, state_of_run
from bench.training.validation import validation

TOTALS = ("seconds", "examples", "epochs", "step_macs", "resumes")
"""What a checkpoint keeps of a trainer's sums."""


class PhaseTrainer:
    """Trains the phases of a plan, one after another, and keeps the position in it.

    Whoever carries out a plan calls, for the step at ``position``, :meth:`train` or, around its PRUNE,
    :meth:`start_prune` and :meth:`finish_prune`; then :meth:`finish_step`.

    Args:
        ctx: the context, with the network to train.
        method: whose hooks run; ``Method()`` for plain training.
        data: training and validation images.
        recipe: batch size, rates, precision.
        seed: of the data order and everything random.
        progress: where epochs are reported.
        checkpoint: file that is written after every epoch and read on resume; None for neither.
        identity: what the checkpoint belongs to; a checkpoint of anything else is ignored.
        of_base: the network is the dense baseline of many runs: its checkpoint holds nothing that depends on sites,
            method or budget, and its phases are reported as those of the base.

    Attributes:
        position: index in the plan, and the number of epochs of that step that are done.
    """

    def __init__(
        self,
        ctx: Context,
        method: Method,
        data: TrainingData,
        recipe: Recipe,
        seed: int,
        progress: Progress,
        checkpoint: Path | None,
        identity: str,
        of_base: bool = False,
    ) -> None:
        self.ctx, self.data, self.recipe, self.seed, self.progress = ctx, data, recipe, seed, progress
        self.model, self.now = ctx._model, ctx._now
        self.parts = Parts(method)
        ctx._method = method
        writers = (*WRITERS, *(hook for hook in DECLARED_WRITERS if hook in method.writes))
        writers += () if method.starts_from == "base" else ("prepare",)  # which may draw other weights
        self.guard = Guard(self.model, self.now, data, recipe, seed, method.name, writers)
        self.checkpoint, self.of_base = RunCheckpoint(checkpoint, identity, progress), of_base
        self.position = (0, 0)
        self.seconds = {"train": 0.0, "method": 0.0, "evaluate": 0.0}
        self.calls = HookCalls(ctx, self.seconds)
        self.cache = PrefixCache(self.model, data.train, recipe, seed)
        self.examples = self.epochs = 0
        self.step_macs = 0
        self.resumes = 0
        self._optimizer_state: dict[str, Any] | None = None

    @property
    def method(self) -> Method | None:
        """The method, None once all of it has been finalized."""
        return self.parts.method if self.parts.left else None

    @property
    def curve(self) -> list[dict[str, Any]]:
        """One entry for each epoch so far."""
        return self.now.curve

    @property
    def train_macs(self) -> int:
        """MACs of all training steps, and of the forwards that the method made itself."""
        return self.step_macs + self.model.ledger.macs

    def extras(self) -> list[dict[str, Any]]:
        """For the record: what the method used beyond labels, penalties and forwards of its own, with its cost."""
        found = [("objective", part.name, 0, 0) for part in self.parts.method.members if part.bound("objective")]
        found += [("freeze", entry["upto"], 0, 0) for entry in self.model.frozen.log]
        found += [(*key, *counts) for key, counts in sorted(self.model.ledger.extras.items())]
        return [dict(zip(("what", "name", "examples", "macs"), values, strict=True)) for values in found]

    # --- the plan --------------------------------------------------------------------------------------------

    def finish_step(self, plan: Plan) -> None:
        """Check what the step at ``position`` of ``plan`` left, go to the next one and save."""
        index, now = self.position[0], self.now
        if why := diverged(self.model.network):  # by what a hook did, or by the prune
            raise Diverged(f"{why} after step {index} of the plan")
        self.guard.check_globals()
        following = index + 1
        if now.stopping == "search":
            following = plan.index(PRUNE) if PRUNE in plan else len(plan)
            self.progress.fewer(sum(s.epochs for s in plan[index + 1 : following] if isinstance(s, Phase)))
        now.stopping = None
        self.save((following, 0))

    def start_prune(self) -> None:
        """The step at ``position`` is a PRUNE: hooks see that, and nothing is frozen any more."""
        self._start_step()
        self.thaw()

    def finish_prune(self, result: dict[str, Any] | None = None) -> None:
        """Units are removed: finalize what does not act from now on.

        Args:
            result: what is kept for the record, also in checkpoints.
        """
        self.finalize()
        self.now.pruned, self.now.prune_result = True, result

    def _start_step(self) -> None:
        now, (index, done) = self.now, self.position
        now.phase, now.epoch, now.step, now.progress = index, done, 0, float(done)
        now.labelled = all(part.labels for part in self.parts.left if part.acts(now.pruned))

    def thaw(self) -> None:
        """Everything learns again; raises RunFailed where what was frozen has changed."""
        self.guard.check_frozen()
        self.model.frozen.lift()
        self.cache.start_epoch()  # forgets what was kept

    def train(self, phase: Phase) -> None:
        """Train ``phase``, the step of the plan at ``position``, from the epoch that is reached.

        Raises:
            Diverged: the loss, a weight or a statistic is not finite.
        """
        model, now, (index, done) = self.model, self.now, self.position
        self._start_step()
        if not done:
            if phase.rewind is not None:
                self.ctx.rewind(phase.rewind)
            self.call("on_phase_start")
        stage: Stage = getattr(self.recipe, phase.part)
        # made after the hook, which may have shrunk the network or inserted a module
        self.parts.names_of(model.inserted)
        inserted = [p for module in model.inserted.values() for p in module.parameters()]
        model.optimizer = optimizer = make_optimizer([*model.network.parameters(), *inserted], stage, self.recipe)
        trained = list(optimizer.param_groups[0]["params"])
        if done and self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        for epoch in range(done, phase.epochs):
            now.epoch = epoch
            loss = self._epoch(index, phase, stage, optimizer)
            self.epochs += 1
            now.tuned |= model.sliced_by is not None and not now.pruned
            with clock(self.seconds, "evaluate"), model.ledger.harness(model.network):
                accuracy, val_loss = validation(model.network, self.data.val)
            entry = {"phase": index, "part": phase.part, "epoch": epoch + 1, "train_loss": loss}
            entry |= {"val_top1": accuracy, "val_loss": val_loss, "units_left": model.units_left}
            now.progress = epoch + 1.0
            why = diverged(model.network, loss)
            if not why:
                self.call("on_epoch_end")
                self.guard.end_epoch(optimizer, trained)
            self.curve.append(now.logged | entry)  # what the harness measured has precedence
            now.logged = {}
            self.progress.epoch(("base " if self.of_base else "") + phase.part, epoch + 1, phase.epochs, loss, accuracy)
            if why:
                raise Diverged(
                    f"{why} after epoch {epoch + 1} of {phase.part}: "
                    f"lower its rate (--set {phase.part}.lr={stage.lr / 10:g}) or the method's strength"
                )
            if self._impatient(index, stage.patience):
                self.ctx.stop_phase()
            left = phase.epochs - epoch - 1
            if now.stopping:
                self.progress.fewer(left)
                break
            if left:
                self.save((index, epoch + 1))
        self.call("on_phase_end")
        model.optimizer, now.rate = None, 0.0

    def _impatient(self, index: int, patience: int) -> bool:
        """Whether the validation loss of this phase was last at its lowest more than ``patience`` epochs ago."""
        losses = [entry["val_loss"] for entry in self.curve if entry["phase"] == index]
        return patience > 0 and len(losses) - losses.index(min(losses)) > patience

    def _epoch(self, index: int, phase: Phase, stage: Stage, optimizer: torch.optim.Optimizer) -> float:
        """One epoch; returns the mean training loss, penalties not included."""
        model, now, recipe = self.model, self.now, self.recipe
        hooks = {name: self.parts.hooks(name, now.pruned) for name in STEP_HOOKS}
        seed = derive_seed(self.seed, index, now.epoch)
        seed_generators(seed)
        generator = torch.Generator(model.device).manual_seed(seed)
        network = model.network.train()
        model.frozen.apply()
        steps = max(1, len(self.data.train) // recipe.batch_size)
        total = torch.zeros((), device=model.device)
        seen, crossed, began, method_before = 0, 0, time.perf_counter(), self.seconds["method"]
        images = self.cache.start_epoch()
        batches = images.batches(recipe.batch_size, generator, recipe.augment, drop_last=True)
        self.guard.start_epoch(steps)
        for step, (x, y) in enumerate(batches):
            now.rate = stage.lr * phase.rate * schedule(stage, (now.epoch + (step + 0.5) / steps) / phase.epochs)
            for group in optimizer.param_groups:
                group["lr"] = now.rate
            now.step, now.x, now.y = step, x, y
            now.progress = now.epoch + step / steps
            self.guard.start_step(x, y)
            model.per_unit.start_step()
            self.calls.timed("on_batch_start", hooks["on_batch_start"])
            with model.tracking(), model.autocast(), model.ledger.harness(network), self.cache.serving():
                logits = network(x)
            gradient = model.ledger.crossed  # reaches what is before frozen layers: they cost as much as others
            now.logits = logits.float()
            loss = self._loss(hooks["objective"], now.logits, y)
            total += loss.detach() * len(y)
            for penalty in self.calls.timed("penalty", hooks["penalty"]):
                loss = loss + scalar(penalty)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            model.own.forget_gradients()
            self.calls.timed("on_backward_end", hooks["on_backward_end"])
            now.logits = None
            self.guard.before_step(optimizer)
            optimizer.step()
            if model.busy:
                model.after_step()
            self.calls.timed("on_step_end", hooks["on_step_end"])
            self.ctx._teachers.forget()
            seen += len(y)
            crossed += len(y) if gradient else 0
            self.progress.step(1 / steps)
        self.examples += seen
        each = model.ledger.step_macs(network) - self.cache.saved()
        self.step_macs += seen * each + crossed * model.ledger.credit(network)
        mean = float(total) / seen  # waits for the device
        self.seconds["train"] += time.perf_counter() - began - (self.seconds["method"] - method_before)
        return mean

    def _loss(self, objectives: Hooks, logits: Tensor, y: Tensor) -> Tensor:
        """What the method trains by, cross-entropy where it has no objective; penalties are not included."""
        for loss in self.calls.timed("objective", objectives, logits):
            return objective(loss)
        return F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)

    def call(self, hook: str) -> None:
        """Call ``hook`` of the parts of the method that act now."""
        self.calls.timed(hook, self.parts.hooks(hook, self.now.pruned))

    def prepare(self) -> None:
        """Call ``prepare`` of all parts."""
        self.calls.timed("prepare", self.parts.method.bound("prepare"))

    def finalize(self, last: bool = False) -> None:
        """Finalize the parts that do not act after the prune; ``last``: all that are left."""
        for part in self.parts.ending(last):
            self.calls.timed("finalize", part.bound("finalize"))
            self.parts.left.remove(part)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def save(self, position: tuple[int, int]) -> None:
        """Go to ``position`` and write the checkpoint."""
        self.position = position
        if self.checkpoint.path is None:
            return
        model = self.model
        state = {"network": model.network.state_dict()} if self.of_base else state_of_run(self.ctx, self.parts)
        self.checkpoint.write(
            state
            | {
                "position": list(position),
                "optimizer": model.optimizer.state_dict() if model.optimizer else None,
                "curve": self.curve,
                **{name: getattr(self, name) for name in TOTALS},
            }
        )

    def resume(self) -> bool:
        """Go back to where the checkpoint was written, if there is one of this run; call after ``prepare``."""
        state = self.checkpoint.read(self.model.device)
        if state is None:
            return False
        if self.of_base:
            self.model.network.load_state_dict(state["network"])
        else:
            restore_run(self.ctx, self.parts, self.finalize, state)
            self.guard.macs = self.model.ledger.macs
        self._optimizer_state = state["optimizer"]
        index, done = state["position"]
        self.position = (int(index), int(done))
        self.now.curve = state["curve"]
        self.seconds.update(state["seconds"])
        self.examples, self.epochs = state["examples"], state["epochs"]
        self.step_macs = state["step_macs"]
        self.resumes = state["resumes"] + 1
        return True
