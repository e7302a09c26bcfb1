"""The prune of a run, carried out on a copy of the user's network and on their batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, distributed, nn

from bench.data.loading import TrainingData
from bench.deploy.given import Given
from bench.deploy.known import Known, cost_of
from bench.errors import METHOD, BenchError, RunFailed, UsageError
from bench.models.error_place import first_line, innermost_layer, place_in_network
from bench.progress import Progress
from bench.pruning.cost_model import CostModel
from bench.pruning.sites import Sites
from bench.runs import prune as run_prune
from bench.runs.method_factory import make_method
from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import DEPTH, UNITS, Budget
from bench.training.compensation import require_layers
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.masked_model import MaskedModel
from bench.training.method import Method

SILENT = Progress("", quiet=True)
BUDGETS = ("keep_macs", "keep_params", "keep_latency", "latency_ms")


@dataclass(frozen=True)
class Cut:
    """A sliced network.

    Attributes:
        network: the slice.
        sites: of it.
        costs: of the dense network, for a further prune.
        masks: by which it was sliced.
        difference: between gated and sliced network.
        cost: of the slice, see :func:`bench.deploy.known.cost_of`.
        latency: how a budget of milliseconds was met, as records have it; None for another budget.
    """

    network: nn.Module
    sites: Sites
    costs: CostModel
    masks: dict[str, Tensor]
    difference: float
    cost: Mapping[str, Any]
    latency: Mapping[str, Any] | None = None


def budget_of(
    shares: Mapping[str, float | None],
    ranking: str | None,
    min_keep: int,
    where: Mapping[str, Any] = MappingProxyType({}),
    round_to: int = 1,
) -> tuple[Budget, str]:
    """The one budget that is given, and its text; raises UsageError for none, several, or one that cannot be.

    Args:
        shares: kind of budget -> what is given; ``latency_ms`` is in milliseconds.
        ranking: as of :func:`bench.prune`.
        min_keep: the same.
        where: runtime, batch and threads of a budget of milliseconds.
        round_to: as of :func:`bench.prune`.
    """
    asked = {name: share for name, share in shares.items() if share is not None}
    if len(asked) > 1:
        raise UsageError(f"one budget, not two: {' and '.join(f'{name}={share}' for name, share in asked.items())}")
    if not asked:
        raise UsageError(f"give {', '.join(list(shares)[:-1])} or {list(shares)[-1]}")
    ((name, share),) = asked.items()
    most = sys.float_info.max if name == "latency_ms" else 1
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= most:
        raise UsageError(f"{name}={share}: above 0{' and at most 1' * (most == 1)}")
    if ranking not in (None, "global", "layer"):
        raise UsageError(f"ranking={ranking!r}: global or layer")
    if not isinstance(min_keep, int) or min_keep < 1:
        raise UsageError(f"min_keep={min_keep}: at least 1, a site without units is no network")
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UsageError(f"round_to={round_to}: at least 1 channel")
    for what, number in where.items():
        if what != "runtime" and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise UsageError(f"{what}={number!r}: a whole number, at least 1")
    given: dict[str, Any] = {name: float(share), **(where if "latency" in name else {})}
    budget = Budget(ranking=ranking, min_keep=min_keep, round_to=round_to, **given)
    return budget, f"{name}={share}"


def sought(coupling: str, units: str, round_to: int, whole: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers that stay whole; raises UsageError for sites that cannot be searched."""
    if coupling not in ("inner", "full"):
        raise UsageError(f"coupling={coupling!r}: inner or full")
    if units not in UNITS:
        raise UsageError(f"units={units!r}: {', '.join(UNITS[:-1])} or {UNITS[-1]}")
    if units == DEPTH and round_to != 1:
        raise UsageError(f"round_to={round_to}: with units='depth' no widths are pruned")
    if isinstance(whole, str) or not isinstance(whole, Iterable):
        raise UsageError(f"whole={whole!r}: give a list of names")
    names = tuple(whole)
    if odd := [name for name in names if not isinstance(name, str)]:
        raise UsageError(f"whole: {odd[0]!r} is no name of a layer: give names of named_modules()")
    return names


def require_seed(seed: Any) -> None:
    """Raise UsageError unless it is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError(f"seed={seed!r}: a whole number from 0 to 2^63 - 1")


def method_of(name: str, options: Mapping[str, Any], trains: bool = False) -> Method:
    """The method ``name`` (or a composition); raises UsageError unless it prunes with the default plan.

    Args:
        name: such as ``taylor``.
        options: as for ``bench run``.
        trains: whether the user's training takes part, see :class:`bench.Pruner`.
    """
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise UsageError(f"method={name!r}, options={options!r}: a name such as 'taylor', and a dict")
    method = make_method(name, options)
    if any(type(part).plan is not Method.plan for part in method.members):
        raise UsageError(f"'{name}' plans its own training (cycles, rewinding): use bench.run")
    acts = method.starts_from != "base" or any(part.active != "before" for part in method.members)
    if acts and not trains:
        raise UsageError(f"'{name}' acts while training: use bench.Pruner")
    return method


@contextmanager
def working(method: str, network: nn.Module) -> Iterator[None]:
    """Within the block ``method`` works on ``network``: whatever it raises becomes one line."""
    try:
        yield
    except (BenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        where = f" ({place_in_network(error, network)})" if innermost_layer(error, network) else ""
        raise RunFailed(f"'{method}' fails: {first_line(error)}{where}", METHOD) from error


def one_number(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Tensor]:
    """``loss`` of a user; UsageError where it gives something else than one number."""

    def checked(outputs: Any, targets: Any) -> Tensor:
        try:
            value = loss(outputs, targets)
        except BenchError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UsageError(f"loss fails: {first_line(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UsageError(f"loss gives {what}: the mean over a batch is a tensor of one number")
        return value

    return checked


def trainer_of(
    had: Given,
    work: nn.Module,
    sites: Sites,
    costs: CostModel,
    method: Method,
    images: TrainingData,
    budget: Budget,
    seed: int,
    recipe: Recipe,
    loss: Callable[[Any, Any], Any] | None = None,
    context: type[SharedChoice] | None = None,
) -> PhaseTrainer:
    """What trains ``method`` in a run, on ``work``; nothing is trained yet.

    Raises Unsupported where the method does not work on the network.
    """
    torch.use_deterministic_algorithms(had.device.type == "cpu")  # as in a run
    model = MaskedModel(work, sites, costs, had.device)
    model.snapshots["base"] = model.snapshots["init"]
    model.loss = one_number(loss) if loss else None
    ctx = (context or SharedChoice)(model, images, recipe, budget, seed)
    ctx._group = had.group
    require_layers(method, ctx)
    return PhaseTrainer(ctx, method, images, recipe, seed, SILENT, None, "")


def recipe_of(batch_size: int, epochs: int = 0, momentum: float = 0.0) -> Recipe:
    """What a method reads of a recipe."""
    return Recipe(
        "",
        Stage(epochs=epochs, lr=0.0),
        Stage(epochs=0, lr=0.0),
        batch_size=batch_size,
        momentum=momentum,
        nesterov=False,
        precision="fp32",
    )


def cut(trainer: PhaseTrainer, had: Given, budget: Budget) -> Cut:
    """Choose units and slice; nothing of the method is left on the network then, also after an error."""
    model = trainer.model
    try:
        trainer.start_prune()
        trainer.finish_prune(run_prune.prune(trainer, budget, had.shape, trains=False))
        trainer.guard.check_globals()
        trainer.finalize(last=True)
        trainer.guard.check_network()
    finally:
        model.remove_hooks()
        trainer.guard.remove_hooks()
    if had.group is not None:
        with torch.no_grad():
            for tensor in (*model.network.parameters(), *model.network.buffers()):
                _broadcast(tensor, had.group)
    assert model.sliced_by is not None
    left = trainer.now.prune_result or {}
    difference = float(left["gate_slice_difference"])
    cost = cost_of(model.network, left["macs"])
    return Cut(model.network, model.sites, model.costs, model.sliced_by, difference, cost, left.get("latency"))


def exempting(
    method: Method,
    known: Known,
    sites: Sites,
    costs: CostModel,
    budget: Budget,
    asked: str,
    full: Callable[[], Known] | None = None,
) -> CostModel:
    """``costs`` with the sites that ``method`` leaves whole; raises UsageError where the budget cannot be met.

    The last three arguments are those of :meth:`bench.deploy.known.Known.require`.
    """
    method.require(sites)
    costs = costs.exempting(name for name, site in sites.items() if method.exempt(site))
    known.require(costs, budget, asked, full)
    return costs


class SharedChoice(Context):
    """A context whose choice of units is that of the first process of a group."""

    _group: Any = None

    def select(self) -> dict[str, Tensor]:
        """See :meth:`bench.training.context.Context.select`."""
        masks = super().select()
        if self._group is not None:
            for name in self.sites:
                kept = masks[name].to(torch.uint8)
                _broadcast(kept, self._group)
                masks[name] = kept.bool()
        return masks


def _broadcast(tensor: Tensor, group: Any) -> None:
    distributed.broadcast(tensor, distributed.get_global_rank(group, 0), group)
