"""The method contract. A method file imports this module and torch, nothing else.

The least plugin is a function of a site::

    @importance("l1_norm", paper=LI2017)
    def l1_norm(site):                       # -> float [n_units], larger is more worth keeping
        return site.rows().abs().sum(dim=1)

    @regularizer("group_lasso", paper=WEN2016, strength=1e-4)
    def group_lasso(site, strength):         # -> scalar added to the loss
        return strength * site.rows().norm(dim=1).sum()

Anything with state is a class: a :class:`Method` whose buffers are its checkpoint, with any of the hooks below.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from torch import Tensor, nn

from bench.errors import Unsupported
from bench.registry import METHODS, Paper
from bench.shares import whole_units
from bench.sites import Site, Sites
from bench.spec import Budget
from bench.statistics import STATISTICS

if TYPE_CHECKING:
    from bench.composition import Composed
    from bench.context import Context

__all__ = [
    "PRUNE",
    "STATISTICS",
    "Budget",
    "Masks",
    "Method",
    "Paper",
    "Phase",
    "Plan",
    "Scores",
    "Site",
    "Sites",
    "importance",
    "lacks_scaled_norm",
    "method",
    "regularizer",
    "whole_units",
]

Scores = Mapping[str, Tensor]
"""Site -> float ``[n_units]``; larger is more worth keeping; finite."""
Masks = Mapping[str, Tensor]
"""Site -> bool ``[n_units]``; True keeps."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        epochs: how many.
        part: the recipe's table that gives rate and schedule, ``train`` or ``finetune``.
        rewind: before it starts, go back to this snapshot's weights (``init`` always exists), or ``fresh`` for
            newly drawn ones; None goes on. The optimizer starts afresh in every phase.
    """

    epochs: int
    part: str = "train"
    rewind: str | None = None


@dataclass(frozen=True)
class Prune:
    """The step of a plan at which masks are chosen, the method is finalized, and the network is sliced."""


PRUNE: Final = Prune()
Plan = tuple[Phase | Prune, ...]


class Method(nn.Module):
    """Base class of methods. Every hook is optional; buffers (and parameters) are what a checkpoint keeps.

    Attributes:
        name: in the registry.
        paper: its source, or None.
        starts_from: ``init`` (trains from the initial weights) or ``base`` (starts from the trained dense
            network).
        ranking: how the default :meth:`select` ranks, ``layer`` or ``global``; the user's ``--ranking`` wins.
        prunes: False for a method that keeps every unit (a control); it is given no budget.
        native: True for a method that can choose its own sparsity, as its paper does (``--native``).
        active: when its hooks run: ``before`` the prune, ``after`` it (then they act on the sliced network) or
            ``always``. ``prepare`` and the choice of masks are no matter of it.
        couplings: those that it works with, of ``inner`` and ``full``.
        kinds: kinds of sites that it works on, of ``conv`` and ``linear``.
    """

    name: str = ""
    paper: Paper | None = None
    starts_from: str = "init"
    ranking: Literal["layer", "global"] = "layer"  # norms of weights do not compare across layers
    prunes: bool = True
    native: bool = False
    active: Literal["before", "after", "always"] = "before"
    couplings: tuple[str, ...] = ("inner", "full")
    kinds: tuple[str, ...] = ("conv", "linear")

    @dataclass(frozen=True)
    class Config:
        """Options with their defaults; subclasses override it with a frozen dataclass."""

    config: Any
    _whole: Composed | None = None  # the composition that it is a part of

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    def supports(self, site: Site) -> str | None:
        """Why the method does not work on ``site``, None where it does; asked before anything is trained."""
        return None if site.kind in self.kinds else f"it is of kind {site.kind}, not {' or '.join(self.kinds)}"

    def require(self, sites: Sites) -> None:
        """Raise Unsupported unless the method works with the coupling and every site of ``sites``."""
        if sites.coupling not in self.couplings:
            raise Unsupported(f"{self.name} works with --coupling {' or '.join(self.couplings)} only")
        for name, site in sites.items():
            if reason := self.supports(site):
                raise Unsupported(f"{self.name} does not work on site {name}: {reason}")

    def plan(self, ctx: Context) -> Plan:
        """Phases and where to prune. Must depend on nothing but the recipe, the budget and the configuration.

        Default: from ``init`` train, prune, fine-tune; from ``base`` prune, fine-tune; the method's hooks run
        until the prune.
        """
        recipe = ctx.recipe
        train = () if self.starts_from == "base" else (Phase(recipe.train.epochs),)
        return (*train, PRUNE, Phase(recipe.finetune.epochs, "finetune"))

    def prepare(self, ctx: Context) -> None:
        """Once, before anything: register buffers, insert layers. Called again (then state is loaded) on resume.

        The network has its starting weights, the base's where :attr:`starts_from` says so, on resume too.
        """

    def on_phase_start(self, ctx: Context) -> None:
        """Before a phase's first epoch, after its rewind; also in a phase of 0 epochs."""

    def on_batch_start(self, ctx: Context) -> None:
        """Before the forward pass on ``ctx.x`` ``[B, C, H, W]``, ``ctx.y`` ``[B]``; may call ``ctx.gate``."""

    def penalty(self, ctx: Context) -> Tensor | float:
        """A scalar in the unit of the loss (nats per example), added to it before the backward pass."""
        return 0.0

    def on_backward_end(self, ctx: Context) -> None:
        """Gradients are there, the optimizer has not stepped."""

    def on_step_end(self, ctx: Context) -> None:
        """After the optimizer's step: projections, proximal steps."""

    def on_epoch_end(self, ctx: Context) -> None:
        """After each epoch of the method's own phases."""

    def on_phase_end(self, ctx: Context) -> None:
        """After a phase, also one of 0 epochs; ``ctx.phase`` is its index in the plan. May set ``ctx.masks``, shrink,
        snapshot, rewind."""

    def scores(self, ctx: Context) -> Scores:
        """What each unit is worth, for the default :meth:`select`. Default: l2 norm of its weights.

        In a composition the default is that of the whole, whichever part ranks; so is :meth:`select`.
        """
        if self._whole is not None and self._whole.ranker is not self:
            return self._whole.scores(ctx)
        return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """What stays. Default: the best units by :meth:`scores` within the budget, ranked by ``ranking``."""
        if self._whole is not None and self._whole.ranker is not self:
            return self._whole.select(ctx, budget)
        return ctx.rank(self.scores(ctx), self.ranking)

    def finalize(self, ctx: Context) -> None:
        """Before slicing, and after an error: let go of what was taken. Gates and insertions go by themselves.

        A method that is active after the prune is finalized at the end of the run.
        """

    @property
    def members(self) -> list[Method]:
        """The parts of a composition, the method itself otherwise."""
        return [self]

    def acts(self, pruned: bool) -> bool:
        """Whether its hooks run after the prune, or before it."""
        return self.active in ("always", "after" if pruned else "before")

    def bound(self, hook: str) -> list[Callable[..., Any]]:
        """This method's own implementations of ``hook``; empty where it has none, so that none costs nothing."""
        return [getattr(self, hook)] if getattr(type(self), hook) is not getattr(Method, hook) else []


def method(name: str, *, paper: Paper | None = None) -> Callable[[type[Method]], type[Method]]:
    """Register a :class:`Method` subclass as ``name``."""

    def decorate(cls: type[Method]) -> type[Method]:
        cls.name, cls.paper = name, paper
        METHODS.register(name, cls, f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}")
        return cls

    return decorate


def importance(
    name: str,
    *,
    paper: Paper | None = None,
    ranking: Literal["layer", "global"] = "layer",
    needs: Literal["activations", "gate_gradients"] | None = None,
    supports: Callable[[Site], str | None] | None = None,
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Register ``function(site, **options) -> [n_units]`` as a method that starts from the base and prunes once.

    Larger is more worth keeping. ``ranking`` says whether scores compare within a site or over all of them.
    ``options`` are its configuration and their defaults. With ``needs`` the function is called as
    ``function(site, values, **options)`` with the ``activations`` ``[B, n_units, ...]`` or the ``gate_gradients``
    ``[B, n_units]`` of every training batch, and the score is the mean (see ``Context.mean``); an option
    ``batches`` then limits how many. ``supports`` is :meth:`Method.supports`.
    """
    if needs:
        options = {"batches": None, **options}

    def decorate(function: Callable) -> Callable:
        def scores(self: Method, ctx: Context) -> Scores:
            given = dataclasses.asdict(self.config)
            if needs:
                batches = given.pop("batches")
                return ctx.mean(lambda site, values: function(site, values.float(), **given), needs, batches)
            return {name: function(site, **given).detach() for name, site in ctx.sites.items()}

        body = {"starts_from": "base", "ranking": ranking, "scores": scores}
        _register(name, paper, function, options, body | _declared(supports))
        return function

    return decorate


def regularizer(
    name: str, *, paper: Paper | None = None, supports: Callable[[Site], str | None] | None = None, **options: Any
) -> Callable[[Callable], Callable]:
    """Register ``function(site, **options) -> scalar`` as a method that trains with its sum over sites as penalty.

    It prunes by the l2 norm of the units' weights, the same share of every site, unless composed with an
    importance (``name+importance``). ``supports`` is :meth:`Method.supports`.
    """

    def decorate(function: Callable) -> Callable:
        def penalty(self: Method, ctx: Context) -> Tensor | float:
            given = dataclasses.asdict(self.config)
            return sum(function(site, **given) for site in ctx.sites.values())

        _register(name, paper, function, options, {"penalty": penalty} | _declared(supports))
        return function

    return decorate


def lacks_scaled_norm(site: Site) -> str | None:
    """For ``supports`` of methods that rank by the scales of batch norms."""
    return "it has no batch norm with a scale" if site.gamma() is None else None


def _declared(supports: Callable[[Site], str | None] | None) -> dict[str, Any]:
    return {"supports": lambda self, site: supports(site)} if supports else {}


def _register(name: str, paper: Paper | None, function: Callable, options: dict[str, Any], body: dict) -> None:
    fields = [
        (key, int | None if key == "batches" else type(value), dataclasses.field(default=value))
        for key, value in options.items()
    ]
    config = dataclasses.make_dataclass("Config", fields, frozen=True)
    config.__module__ = function.__module__
    facts = {"__doc__": function.__doc__, "__module__": function.__module__, "name": name, "paper": paper}
    cls = type(name, (Method,), facts | {"Config": config} | body)
    METHODS.register(name, cls, f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}")
