"""Checks of what hooks do while a network trains: penalties, and the state of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.conformance.check_choosing import silence
from bench.conformance.checks import check, has_no_penalty, require
from bench.conformance.observers import observing
from bench.conformance.subject import Stopped, Subject, Watch
from bench.conformance.tiny_networks import BLOCKS
from bench.models.torch_state import NORMS
from bench.spec.spec import WIDTH
from bench.training.checkpoint import clone_state
from bench.training.context import Context


def scalar(value: Any, frozen: bool = False) -> None:
    """Raise Broken unless ``value`` can be added to a loss; ``frozen``: what it acts on may learn no more."""
    require(isinstance(value, Tensor | float | int), f"penalty returned {type(value).__name__}, not a scalar")
    if isinstance(value, Tensor):
        require(value.dim() == 0, f"penalty has shape {list(value.shape)}, it must be a scalar")
        require(value.is_floating_point(), f"penalty is {value.dtype}, not floating point")
        require(frozen or value.requires_grad or not value.any(), "penalty has no gradient: it acts on nothing")
    require(bool(torch.isfinite(torch.as_tensor(value)).all()), "penalty is not finite")


@check(
    "penalty",
    "It is added to the loss: anything but a finite scalar with a gradient ruins training.",
    has_no_penalty,
    alone=True,
)
def penalty(subject: Subject) -> str | None:
    """A finite, differentiable scalar in every step, with and without norms."""
    most = 0.0

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        nonlocal most
        result = call()
        if hook == "penalty":
            scalar(result, bool(ctx._model.frozen))
            most = max(most, abs(float(torch.as_tensor(result).detach())))
        return result

    subject.run(watch=watch)
    require(most > 0, "penalty is 0 in every step: it acts on nothing")
    try:
        subject.run("check_flatten" if subject.units == WIDTH else BLOCKS, watch=watch)
    except Exception as error:
        if not subject.declines(error):
            raise
    return f"at most {most:.3g} nats here"


def has_no_objective(subject: Subject) -> str | None:
    """For the check of objectives."""
    return None if subject.method.bound("objective") else "it has no objective"


@check("objective", "It is the loss: what does not depend on the network trains nothing.", has_no_objective, alone=True)
def objective(subject: Subject) -> str | None:
    """A finite scalar with a gradient for the logits, that is not zero in some step."""
    most, steps = 0.0, 0

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        nonlocal most, steps
        result = call()
        if hook == "objective":
            require(isinstance(result, Tensor) and result.dim() == 0, "objective is not a scalar tensor")
            require(bool(result.isfinite()), "objective is not finite")
            (gradient,) = torch.autograd.grad(result, ctx.logits, retain_graph=True, allow_unused=True)
            require(gradient is not None, "objective has no gradient for the logits: it acts on nothing")
            most, steps = max(most, float(gradient.abs().max())), steps + 1
        return result

    subject.run(watch=watch)
    require(steps > 0, "objective is called in no step")
    require(most > 0, "the gradient of objective for the logits is 0 in every step")
    return f"in {steps} steps"


@check(
    "penalty_of_a_dead_unit",
    "The gradient of a square root is infinite at zero, and zero is where penalties lead to.",
    has_no_penalty,
    alone=True,
)
def penalty_of_a_dead_unit(subject: Subject) -> str | None:
    """Finite gradient when a unit's weights, bias and norm are zero."""

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook != "penalty":
            return call()
        silence(ctx)
        result = call()
        scalar(result)
        if isinstance(result, Tensor) and result.requires_grad:
            trained = [p for p in ctx._model.network.parameters() if p.requires_grad]
            for grad in torch.autograd.grad(result, trained, allow_unused=True):
                require(grad is None or bool(grad.isfinite().all()), "the gradient is not finite at a unit of zeros")
        raise Stopped

    subject.stopped(watch)
    return None


@check("network_untouched", "Scores are asked for at any time; asking must not change what is asked about.", alone=True)
@observing
def network_untouched(subject: Subject) -> Iterator[Watch]:
    """scores, select, plan (and prepare, from a base) leave weights, statistics and gradients as they were."""
    quiet = {"scores", "select", "plan"} | ({"prepare"} if subject.method.starts_from == "base" else set())

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook not in quiet:
            return call()
        network = ctx._model.network
        state = clone_state(network)
        grads = {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
        result = call()
        for name, value in network.state_dict().items():
            require(torch.equal(state[name], value), f"{hook} changes '{name}'")
        for name, parameter in network.named_parameters():
            old, new = grads[name], parameter.grad
            same = old is new or (old is not None and new is not None and torch.equal(old, new))
            require(same, f"{hook} leaves a gradient on '{name}': look at the network in ctx.probe(gradients=True)")
        return result

    yield watch


@check("starting_weights", "A teacher or a threshold taken from other weights than those that training starts from.")
@observing
def starting_weights(subject: Subject) -> Iterator[Watch]:
    """prepare finds the weights that training starts from, and leaves those of the base as they are."""
    start = subject.method.starts_from

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook != "prepare":
            return call()
        model = ctx._model
        require(
            has_weights(model.network, model.snapshots[start]), f"in prepare the network is not the snapshot '{start}'"
        )
        result = call()
        kept = start != "base" or has_weights(model.network, model.snapshots[start])
        require(kept, "prepare changes the weights of the base")
        return result

    yield watch


def has_weights(network: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether the parameters and buffers of ``network`` are those of ``state``."""
    now = network.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], value) for name, value in state.items())


@check("statistics", "A forward pass of a method's own in train mode moves batch norm: use ctx.probe().")
@observing
def statistics(subject: Subject) -> Iterator[Watch]:
    """No hook makes batch norm count a batch, phase hooks (which may rewind) aside."""

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        network, before = ctx._model.network, counted(ctx._model.network)
        result = call()
        if ctx._model.network is network and hook not in ("on_phase_start", "on_phase_end"):
            require(counted(network) <= before, f"{hook} makes a forward pass that batch norm records")
        return result

    yield watch


def counted(network: nn.Module) -> int:
    """Batches that batch norms have seen."""
    norms = [m.num_batches_tracked for m in network.modules() if isinstance(m, NORMS)]
    return sum(int(seen) for seen in norms if isinstance(seen, Tensor))


@check("modes", "A network left in eval mode, or frozen by other means than ctx.freeze, trains as nobody asked for.")
@observing
def modes(subject: Subject) -> Iterator[Watch]:
    """Train or eval mode, the trainable parameters and torch's gradient mode are as before every hook.

    What ``ctx.freeze`` froze in it is in eval mode and not trained.
    """

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        network = ctx._model.network
        before, enabled = mode(network), torch.is_grad_enabled()
        holders = [*network.modules(), *network.parameters()]
        result = call()
        require(torch.is_grad_enabled() == enabled, f"{hook} switches gradients {'off' if enabled else 'on'} for good")
        if ctx._model.network is network:
            frozen = ctx._model.frozen
            wanted = [on and holder not in frozen for on, holder in zip(before, holders, strict=True)]
            require(mode(network) == wanted, f"{hook} leaves modules in another mode, or parameters frozen")
        return result

    try:
        yield watch
    finally:
        torch.set_grad_enabled(True)


def mode(network: nn.Module) -> list[bool]:
    """Mode of every module, and whether every parameter is trained."""
    return [m.training for m in network.modules()] + [p.requires_grad for p in network.parameters()]
