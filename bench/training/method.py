"""The base class of methods, with every hook that one may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import Unsupported
from bench.pruning.masks import Masks, Scores
from bench.pruning.sites import Site, Sites
from bench.spec.entries import Paper
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.plan import PRUNE, Phase, Plan
from bench.training.requirements import NEEDS


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
        kinds: kinds of sites that it works on, of ``conv``, ``linear`` and ``block``.
        needs: what each site that it works on must have, of ``scaled_norm``, ``maps``, ``relu`` and
            ``foldable``.
        writes: hooks in which it changes weights, besides those that always may: ``on_epoch_end`` or none.
        compensation: what its :meth:`compensate` changes of the layers that read what is cut: ``moments``, the mean
            and scale of their outputs; ``weights``; None if it does not compensate. One part of a composition can.
        reestimates: number of batches over which batch norm is estimated again after the slice; None leaves it to the
            harness, which does it unless a part compensates.
        labels: False for a method that reads no labels where its hooks run; it has an :meth:`objective`.
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
    needs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    compensation: Literal["moments", "weights"] | None = None
    reestimates: int | None = None
    labels: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options with their defaults; subclasses override it with a frozen dataclass."""

    config: Any
    _whole: Any = None  # the composition that it is a part of; its module imports this one

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    def supports(self, site: Site) -> str | None:
        """Why the method does not work on ``site``, None where it does; asked before anything is trained."""
        if site.kind not in self.kinds:
            return f"it is of kind {site.kind}, not {' or '.join(self.kinds)}"
        return next(filter(None, (NEEDS[need](site) for need in self.needs)), None)

    def exempt(self, site: Site) -> bool:
        """Whether ``site`` keeps all its units under this method; asked before anything is trained.

        Such a site needs no scores. The budget is met by the others. In a composition the part that ranks is asked,
        without one all parts are.
        """
        return False

    def require(self, sites: Sites) -> None:
        """Raise Unsupported unless the method works with the coupling, and with every site that is not exempt."""
        if not self.labels and not self.bound("objective"):
            raise Unsupported(
                f"{self.name} declares labels = False and has no objective: cross-entropy reads the labels"
            )
        if sites.coupling not in self.couplings:
            raise Unsupported(f"{self.name} works with --coupling {' or '.join(self.couplings)} only")
        ranked = {name: site for name, site in sites.items() if not self.exempt(site)}
        if sites and not ranked:
            raise Unsupported(
                f"{self.name} exempts every site of this network ({', '.join(sites)}): none is left to cut"
            )
        for name, site in ranked.items():
            if reason := Method.supports(self, site) or self.supports(site):
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

    def objective(self, ctx: Context, logits: Tensor) -> Tensor:
        """The loss, a scalar with a gradient, in place of the cross-entropy; penalties are added to it.

        Args:
            ctx: of the run.
            logits: of the step's forward ``[B, classes]``, float32, in its graph; ``ctx.logits``.
        """
        return F.cross_entropy(logits, ctx.y, label_smoothing=ctx.recipe.label_smoothing)

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
        if self._whole is not None and self not in self._whole.rankers:
            return self._whole.scores(ctx)
        return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """What stays. Default: the best units by :meth:`scores` within the budget, ranked by ``ranking``."""
        if self._whole is not None and self not in self._whole.rankers:
            return self._whole.select(ctx, budget)
        return ctx.rank(self.scores(ctx), self.ranking)

    def compensate(self, ctx: Context, masks: Masks) -> None:
        """At the prune, once ``masks`` (site -> bool ``[n_units]``) are final, on the network that still has all units.

        May write weights, through ``ctx.refit`` and the layers; what is written to removed units is lost.
        """

    def finalize(self, ctx: Context) -> None:
        """Before slicing, and after an error: remove what the method registered; the harness removes the rest.

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
