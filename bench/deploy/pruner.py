"""``bench.Pruner``: methods that act while a network trains, in the user's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.loading import TrainingData
from bench.deploy.apart import apart
from bench.deploy.batches import DEFAULT_BATCH, Batches, Examples
from bench.deploy.carried import Carried
from bench.deploy.cut import (
    SharedChoice,
    budget_of,
    cut,
    exempting,
    method_of,
    recipe_of,
    require_seed,
    sought,
    trainer_of,
    working,
)
from bench.deploy.given import given
from bench.deploy.known import known_of
from bench.deploy.prune import result
from bench.deploy.pruned_network import PrunedNetwork
from bench.errors import UsageError
from bench.models.shared_parameters import copied
from bench.training.checkpoint import clone_state
from bench.training.hook_calls import scalar


class _InLoop(SharedChoice):
    """A context whose learning rate is that of the user's optimizer."""

    _optimizer: torch.optim.Optimizer | None = None

    @property
    def rate(self) -> float:
        """Of the first group."""
        if self._optimizer is None:
            raise UsageError("the method's steps depend on the learning rate: give optimizer to bench.Pruner")
        return float(self._optimizer.param_groups[0]["lr"])


class Pruner:
    """A method at work on a network that the user trains; at the end its slice.

    In each step: :meth:`before_forward`, forward and loss, :meth:`penalty` (added to the loss), backward,
    :meth:`after_backward`, the optimizer's step, :meth:`after_step`; after each epoch :meth:`end_epoch`. Gates
    are hooks on the network as long as this is open: use it as a context manager, so that an exception leaves none.
    Arguments that are not listed are those of :func:`bench.prune`.

    Args:
        network: is trained by the user; a compiled one is refused.
        steps: of the optimizer, in all.
        epochs: in which they are made: schedules of methods are in epochs.
        optimizer: the user's; needed by methods whose own steps depend on its rate, and by those that mask units.
        data: training batches, for methods that look at some outside of steps.
        val: validation batches, for methods that ask for accuracy.

    Raises:
        UsageError: something that is given cannot be, or the method plans its own training or replaces the loss.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor | tuple[Tensor],
        data: Iterable[Any] | None = None,
        *,
        steps: int,
        epochs: int = 1,
        optimizer: torch.optim.Optimizer | None = None,
        val: Iterable[Any] | None = None,
        method: str = "l1_norm",
        options: Mapping[str, Any] | None = None,
        keep_macs: float | None = None,
        keep_params: float | None = None,
        round_to: int = 1,
        units: str = "width",
        coupling: str = "inner",
        ranking: str | None = None,
        min_keep: int = 1,
        whole: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] | None = None,
        logits: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        shares = {"keep_macs": keep_macs, "keep_params": keep_params}
        self._budget, asked = budget_of(shares, ranking, min_keep, round_to=round_to)
        whole = sought(coupling, units, round_to, whole)
        if not (isinstance(steps, int) and isinstance(epochs, int)) or steps < 1 or epochs < 1:
            raise UsageError(f"steps={steps}, epochs={epochs}: at least 1")
        require_seed(seed)
        self._facts = {"name": method, "options": dict(options or {}), "seed": seed, "steps": steps}
        self._method = chosen = method_of(method, options or {}, trains=True)
        if any(part.active != "before" for part in chosen.members) or chosen.bound("objective"):
            raise UsageError(f"'{method}' acts after the cut or replaces the loss: use bench.run")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"optimizer is a {type(optimizer).__name__}: give a torch.optim.Optimizer")
        if type(network).__name__ == "OptimizedModule":
            raise UsageError("the network is compiled, which hides its layers: compile the result")
        self._steps, self._epochs, self._step = steps, epochs, 0
        self._watching = ExitStack()
        self._open = True
        with apart() as end:
            self._had, work = given(network, example, logits, whole)
            had = self._had
            if had.inputs is not None:
                raise UsageError("bench.Pruner: networks of one tensor alone; bench.prune takes several inputs")
            self._logits, self._kind = logits, type(work)
            self._known = known = known_of(work, had.shape, None, coupling, units)
            self._sites = sites = known.sites.bind(had.network)
            full = partial(known_of, work, had.shape, None, "full", units)
            costs = exempting(
                chosen, known, sites, known.costs, self._budget, asked, full if coupling == "inner" else None
            )
            train = Batches(data, method, had, seed)
            held = Batches(val, method, had, seed, ("validation", "val"))
            end.callback(train.rewind)
            end.callback(held.rewind)
            self._data = train, held
            images = TrainingData(train, Examples(had.example, held), {})
            momentum = float(optimizer.param_groups[0].get("momentum", 0.0)) if optimizer else 0.0
            recipe = recipe_of(train.batch_size if data is not None else DEFAULT_BATCH, epochs, momentum)
            self._trainer = trainer_of(
                had, had.network, sites, costs, chosen, images, self._budget, seed, recipe, loss, context=_InLoop
            )
            self._model, self._now = self._trainer.model, self._trainer.now
            context: Any = self._trainer.ctx
            context._optimizer = self._model.optimizer = optimizer
            self._model.ledger.detach()  # nobody asks what forwards cost
            with self._at_work():
                self._trainer.prepare()
                if any(True for module in self._model.inserted.values() for _ in module.parameters()):
                    raise UsageError(f"'{method}' inserts layers that are trained: use bench.run")
                self._call("on_phase_start")

    def before_forward(self, x: Tensor, y: Any) -> None:
        """The next forward is on the inputs ``x`` ``[B, ...]`` with the targets ``y``: gates are set for it."""
        now = self._now
        self._require_open("before_forward")
        now.x, now.y = x, y
        now.progress = min(self._step / self._steps, 1.0) * self._epochs
        with self._at_work():
            self._model.per_unit.start_step()
            self._call("on_batch_start")
            self._watching.close()
            self._watching.enter_context(self._model.tracking())

    def penalty(self) -> Tensor | float:
        """What the method adds to the loss."""
        self._require_open("penalty")
        if not len(self._now.x):
            raise UsageError("Pruner.penalty: before_forward has to be called before it")
        self._watching.close()
        total: Tensor | float = 0.0
        with self._at_work():
            for term in self._call("penalty"):
                total = total + scalar(term)
        return total

    def after_backward(self) -> None:
        """Gradients are there, unscaled, and the optimizer has not stepped."""
        self._require_open("after_backward")
        self._watching.close()
        with self._at_work():
            self._call("on_backward_end")

    def after_step(self) -> None:
        """The optimizer has stepped: gates go, masked units are put back as they were."""
        self._require_open("after_step")
        self._watching.close()
        with self._at_work():
            if self._model.busy:
                self._model.after_step()
            self._call("on_step_end")
        self._step += 1
        self._now.step += 1

    def end_epoch(self) -> None:
        """After an epoch."""
        self._require_open("end_epoch")
        self._now.progress = self._now.epoch + 1.0
        with self._at_work():
            self._call("on_epoch_end")
        self._now.epoch += 1
        self._now.step = 0

    def finish(self) -> PrunedNetwork:
        """Choose units and cut them: the network of the user stays whole, without hooks, with the weights it has."""
        self._require_open("finish")
        had, trainer = self._had, self._trainer
        self._watching.close()
        with apart() as end, self._at_work():
            for data in self._data:
                end.callback(data.rewind)
            torch.use_deterministic_algorithms(had.device.type == "cpu")
            self._call("on_phase_end")
            state = clone_state(had.network) if self._method.bound("compensate") else None
            self._model.optimizer = None
            trainer.position = (1, 0)
            done = cut(trainer, had, self._budget)
            made = had.restore(done.network)
            if state is not None:
                had.network.load_state_dict(state)
            carried = Carried(copied(had.network), had.network, self._sites, done.masks)
        self._open = False
        return result(made, self._known, done, carried, self._budget, self._facts, self._logits)

    def close(self) -> None:
        """Take everything of the method off the network; nothing can be done with this any more."""
        if not self._open:
            return
        self._open = False
        self._watching.close()
        with apart() as end:
            for data in self._data:
                end.callback(data.rewind)
            try:
                self._trainer.finalize(last=True)
            finally:
                self._model.remove_hooks()
                self._trainer.guard.remove_hooks()

    def _call(self, hook: str) -> list[Any]:
        return self._trainer.calls.timed(hook, self._trainer.parts.hooks(hook, pruned=False))

    def _require_open(self, call: str) -> None:
        if not self._open:
            raise UsageError(f"Pruner.{call}: it is finished or closed")

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Within the block, where the method works, the network gives logits; an error closes this."""
        network = self._had.network
        try:
            with working(str(self._facts["name"]), network):
                network.__class__ = self._kind
                try:
                    yield
                finally:
                    network.__class__ = self._had.kind
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pruner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
