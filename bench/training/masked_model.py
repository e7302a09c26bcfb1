"""A network whose units are gated, masked, watched and cut: the state that a run changes and a checkpoint keeps.

Needs no data, recipe or plan. Methods see it through :class:`bench.training.context.Context`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.measure.environment import autocast
from bench.models.build import initialize
from bench.models.torch_state import NORMS, untraced
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import Gates
from bench.pruning.masks import Masks
from bench.pruning.selection import check_masks
from bench.pruning.sites import Sites
from bench.training.checkpoint import clone_state
from bench.training.frozen_layers import Frozen
from bench.training.held_parameters import Held
from bench.training.ledger import Ledger
from bench.training.optimizer import forget
from bench.training.own_modules import OwnModules
from bench.training.per_unit import PerUnit
from bench.training.snapshots import Snapshots
from bench.training.weight_snapshot import Weights

AT_ONCE = 1024
"""Most examples in one forward that evaluates candidates."""


class MaskedModel:
    """A network with its sites under masks, and the slices of it that follow.

    Args:
        network: the dense network, with its initial weights.
        sites: its prunable widths.
        costs: its cost model; without the blocks that a slice removes.
        device: where it is.
        precision: of :meth:`forward`, ``fp32`` or ``bf16``.

    Attributes:
        network, sites: of the dense network, after a slice of the smaller one.
        snapshots: tag -> parameters and buffers; ``init`` is there from the start.
        own: modules of the method's, which it trains itself.
        sliced_by: masks over the dense network's units after a slice, else None.
        uncut: the network before its first slice; None before that.
        tracked: site -> running statistic ``[n_units]`` (see :meth:`track`).
        per_unit: the method's own numbers for every unit.
        optimizer: of the phase that trains the network, None outside of one.
        ledger: counts forwards outside of training steps.
        frozen: the part of the network that learns no more.
        rewritten: is called when a rewind or a slice has changed the weights.
        failed: makes the error of what a method did.
        loss: ``loss(logits, targets)``, the mean over a batch, in place of the cross-entropy of scores; None for that.
        probing: whether a block of :meth:`probe` is open.
    """

    def __init__(
        self, network: nn.Module, sites: Sites, costs: CostModel, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.network, self.sites, self.costs, self.device, self.precision = network, sites, costs, device, precision
        self.snapshots = Snapshots(clone_state(network))
        self.own = OwnModules()
        self.sliced_by: dict[str, Tensor] | None = None
        self.uncut: nn.Module | None = None
        self.tracked: dict[str, Tensor] = {}
        self.per_unit = PerUnit()
        self.optimizer: torch.optim.Optimizer | None = None
        self.rewritten: Callable[[], None] = lambda: None
        self.failed: Callable[[str], RunFailed] = RunFailed
        self.loss: Callable[[Any, Any], Tensor] | None = None
        self.probing = False
        self.ledger = Ledger(costs)
        self.ledger.attach(network)
        self.frozen = Frozen(network, self.ledger)
        self.gates = Gates(network, sites)
        self._masks = sites.ones(device)
        self._masked: list[str] = []
        self._also: dict[str, Tensor] = {}  # masks of the block of :meth:`masked` that is open
        self._trackers: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {}
        self._held = Held(sites, {})

    @property
    def macs(self) -> int:
        """MACs of one forward of the network as it is."""
        return self.costs.macs(self.costs.widths_of(self.network))

    # --- gates and masks -------------------------------------------------------------------------------------

    def gate(self, values: Mapping[str, Tensor]) -> None:
        """Gate until :meth:`after_step`: site -> ``[n_units]`` or ``[B, n_units]``, in addition to the masks."""
        self.gates.set(self._with_masks(values))

    @property
    def masks(self) -> dict[str, Tensor]:
        """Site -> bool ``[n_units]``. Assign to mask units for good; their own parameters are held as they are."""
        return dict(self._masks)

    @masks.setter
    def masks(self, masks: Masks) -> None:
        checked = check_masks(self.sites, masks, exempt=self.costs.exempt)
        self._masks = {name: mask.to(self.device) for name, mask in checked.items()}
        self._masked = [name for name, mask in self._masks.items() if not bool(mask.all())]
        self._held = Held(self.sites, {name: self._masks[name] for name in self._masked})
        self.gate({})

    @property
    def units_left(self) -> float:
        """Share of the dense network's units that are there and not masked."""
        return sum(int(m.sum()) for m in self.sites.settled(self._masks).values()) / int(self.ledger.costs.dense.sum())

    @contextmanager
    def masked(self, masks: Masks) -> Iterator[None]:
        """Within the block, units whose mask is False read as zero."""
        gated, before = self.gates.values, self._also
        self._also = {name: mask.float().to(self.device) for name, mask in masks.items()}
        self.gate({})
        try:
            yield
        finally:
            self._also = before
            self.gates.set(gated)

    def insert(self, site: str, module: nn.Module) -> None:
        """Pass the activation ``[B, n_units, ...]`` of ``site`` through ``module`` until :meth:`release`."""
        self.gates.insert(site, module.to(self.device))

    @property
    def inserted(self) -> dict[str, nn.Module]:
        """Modules that were put in: site -> module."""
        return dict(self.gates.inserted)

    def insert_only(self, modules: Mapping[str, nn.Module]) -> None:
        """Insert these modules (site -> module) in place of those that are in; for a resume."""
        self.gates.inserted.clear()
        for site, module in modules.items():
            self.insert(site, module)

    def _with_masks(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = {name: value.to(self.device) for name, value in values.items()}
        for name in self._masked:
            mask = self._masks[name]
            both[name] = both[name] * mask if name in both else mask.float()
        for name, mask in self._also.items():
            both[name] = both[name] * mask if name in both else mask
        return both

    # --- forward passes --------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` in this model's precision, gates included."""
        with self.autocast():
            return self.network(x)

    def autocast(self) -> AbstractContextManager[Any]:
        """This model's precision as a context manager."""
        return autocast(self.device, self.precision)

    @contextmanager
    def probe(self, batch_statistics: bool = False, gradients: bool = False) -> Iterator[None]:
        """Forwards leave no trace (see :func:`bench.models.torch_state.untraced`) and batch gates are off."""
        gated, probing = self.gates.values, self.probing
        parameters = list(self.network.parameters())
        versions, weights = [p._version for p in parameters], Weights(self.network) if gradients else None
        inserted = self.gates.inserted.values()
        with untraced(self.network, inserted, self.device, batch_statistics, gradients, self.frozen):
            try:
                self.gate({})
                self.probing = True
                yield
                if versions != [p._version for p in parameters] or (weights and weights.changed()):
                    raise self.failed("changes weights inside of ctx.probe, which leaves no trace")
            finally:
                self.probing = probing
                self.gates.set(gated)

    @torch.no_grad()
    def evaluate(self, candidates: Mapping[str, Tensor], x: Tensor, batch_statistics: bool = False) -> Tensor:
        """Logits ``[P, B, classes]`` of the batch ``x`` under ``P`` candidate masks, site -> ``[P, n_units]``.

        In batched forwards through per-example gates. A network whose norms use the batch's own statistics
        cannot share a batch between candidates: it is given one candidate after the other.
        """
        population, batch = len(next(iter(candidates.values()))), len(x)
        alone = batch_statistics and any(isinstance(m, NORMS) for m in self.network.modules())
        chunk = 1 if alone else max(1, AT_ONCE // batch)
        parts = []
        with self.probe(batch_statistics):
            for start in range(0, population, chunk):
                some = {n: c[start : start + chunk].to(self.device).float() for n, c in candidates.items()}
                count = len(next(iter(some.values())))
                self.gate({n: c.repeat_interleave(batch, dim=0) if count > 1 else c[0] for n, c in some.items()})
                logits = self.forward(x.repeat(count, 1, 1, 1)).float()
                parts.append(logits.unflatten(0, (count, batch)))
        return torch.cat(parts)

    # --- watching activations --------------------------------------------------------------------------------

    @contextmanager
    def activations(self) -> Iterator[dict[str, Tensor]]:
        """Within the block, every forward fills the yielded dictionary: site -> ``[B, n_units, ...]``.

        The values are what the activation function puts out, before pooling (what the consumer reads where that
        cannot be followed, see :mod:`bench.pruning.gates`), masked and detached.
        """
        found: dict[str, Tensor] = {}

        def observe(site: str, activation: Tensor) -> None:
            found[site] = activation.detach()
            if site in self._masked:
                mask = self._masks[site].to(activation.dtype)
                found[site] = found[site] * mask.reshape(-1, *[1] * (activation.dim() - 2))

        with self._observing(observe):
            yield found

    def track(self, site: str, statistic: Callable[[Tensor], Tensor], momentum: float) -> None:
        """Keep ``tracked[site]``: the exponential mean of ``statistic(activation)`` over forwards in :meth:`tracking`.

        Args:
            site: its name.
            statistic: maps the batch's activations ``[B, n_units, ...]``, before any gate, to ``[n_units]``.
            momentum: weight of the past; the mean starts at zero.
        """
        self.tracked[site] = torch.zeros(self.sites[site].n_units, device=self.device)
        self._trackers[site] = (statistic, momentum)

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Within the block, forwards update ``tracked``."""
        if not self._trackers:
            yield
            return
        with self._observing(self._track):
            yield

    @contextmanager
    def _observing(self, observer: Callable[[str, Tensor], None]) -> Iterator[None]:
        before = self.gates.observer
        self.gates.observe(observer)
        try:
            yield
        finally:
            self.gates.observe(before)

    @torch.no_grad()
    def _track(self, site: str, activation: Tensor) -> None:
        if site in self._trackers:
            statistic, momentum = self._trackers[site]
            self.tracked[site].lerp_(statistic(activation.detach()).float(), 1 - momentum)

    # --- going back, getting smaller -------------------------------------------------------------------------

    def rewind(self, tag: str) -> None:
        """Load the snapshot ``tag``; the optimizer's state is cleared, masks stay. Raises RunFailed for another tag."""
        if tag not in self.snapshots:
            raise RunFailed(f"no snapshot '{tag}'; there are {', '.join(sorted(self.snapshots))} and fresh")
        self.network.load_state_dict(self.snapshots[tag])
        self._restarted()

    def whole(self, tag: str) -> tuple[nn.Module, dict[str, Tensor]]:
        """The snapshot ``tag`` with a network at its widths: the dense one for what was taken before any slice."""
        if tag not in self.snapshots:
            raise RunFailed(f"no snapshot '{tag}'; there are {', '.join(sorted(self.snapshots))}", blame=METHOD)
        taken = self.snapshots.taken.get(tag)
        if self.uncut is None or taken is None or taken.masks is not None:
            return self.network, self.snapshots[tag]
        return self.uncut, taken.state

    def redraw(self, seed: int) -> None:
        """Load ``init``, then draw the layers' weights again from ``seed``; bare parameters stay those of ``init``."""
        self.network.load_state_dict(self.snapshots["init"])
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            initialize(self.network)
        self._restarted()

    def _restarted(self) -> None:
        if self.optimizer is not None:
            forget(self.optimizer)
        self._held = Held(self.sites, {name: self._masks[name] for name in self._masked})
        self.rewritten()

    def shrink(self, masks: Masks) -> None:
        """Slice by ``masks``; the masks of the units that stay, and trackers, go over to the smaller network."""
        before = self._masks
        self.slice(check_masks(self.sites, masks, exempt=self.costs.exempt), tracking=True)
        self.masks = {name: before[name][masks[name].to(self.device)] for name in self.sites}

    def slice(self, masks: Masks, tracking: bool = False) -> nn.Module:
        """Replace the network, its sites, snapshots and what is kept for each unit by their slices.

        Gates, masks and inserted modules end here, and trackers without ``tracking``.
        """
        trackers, frozen = self._trackers if tracking else {}, self.frozen.state()
        self.remove_hooks()
        masks = self.sites.settled({n: masks[n].cpu().clone() for n in self.sites})
        before = self.sliced_by
        if before is None:
            self.sliced_by, self.uncut = masks, self.network
        else:
            self.sliced_by = {name: kept.clone() for name, kept in before.items()}
            for name, kept in before.items():
                self.sliced_by[name][kept] = masks.get(name, kept[kept])  # a site that is gone has no mask
        self.costs = self.costs.without(self.costs.array(masks), free=True)
        self.snapshots.slice(self.network, self.sites, masks, before)
        self.network = self.sites.slice(self.network, masks)
        self.sites = self.sites.reindex_after(masks, self.network)
        self.tracked = {n: t[masks[n].to(t.device)] for n, t in self.tracked.items() if n in self.sites}
        self.per_unit.slice({name: masks[name] for name in self.sites})
        self._trackers = {name: tracker for name, tracker in trackers.items() if name in self.sites}
        self.gates = Gates(self.network, self.sites)
        self._masks = self.sites.ones(self.device)
        self.ledger.attach(self.network, *filter(None, [self.uncut]))
        self.frozen = Frozen(self.network, self.ledger)
        self.frozen.load(frozen)
        self.rewritten()
        return self.network

    # --- around training steps -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether :meth:`after_step` has anything to do."""
        return bool(self._held or self.gates.values)

    def after_step(self) -> None:
        """End of a step: batch gates go, masked units are put back as they were, their momentum is zero."""
        self.gate({})
        self._held.restore(self.optimizer)

    def remove_hooks(self) -> None:
        """Take every hook and inserted module off the network; nothing is frozen, no forward counted."""
        self.gates.remove()
        self.ledger.detach()
        self.frozen.lift()
        self._masked, self._held, self._trackers = [], Held(self.sites, {}), {}
