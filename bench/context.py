"""The context: all that a method sees of the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Masks
from bench.archs import initialize
from bench.budget import CostModel
from bench.checkpoint import clone_state
from bench.choosing import Choosing, check_masks
from bench.data import TrainingData
from bench.errors import RunFailed
from bench.gates import Gates
from bench.modes import evaluating
from bench.optimizer import forget
from bench.sites import Site, Sites
from bench.slicing import NORMS
from bench.spec import Budget, Recipe, derive

AT_ONCE = 1024
"""Most examples in one forward that evaluates candidates."""


class Context(Choosing):
    """Sites, gates, data, snapshots and clocks of one run, as its method sees them.

    Attributes:
        sites: the prunable widths, by name.
        recipe: epochs, rates, batch size.
        budget: what may be kept.
        native: the method chooses its own sparsity; there is no budget to meet (``budget`` then allows everything).
        device: where tensors live.
        rng: the method's own generator, seeded by the run and kept in checkpoints.
        phase, epoch, step: index of the phase in the plan, of the epoch in the phase, of the step in the epoch.
        progress: epochs of the phase that are done, with the fraction of the present one.
        x, y: the current batch, ``[B, C, H, W]`` normalised and ``[B]``.
        curve: one entry for every epoch so far, of all phases: ``phase``, ``epoch``, ``train_loss``, ``val_top1``,
            ``val_loss``, ``units_left`` and what was logged.
        tracked: site -> running statistic ``[n_units]`` (see :meth:`track`).
    """

    def __init__(
        self,
        network: nn.Module,
        sites: Sites,
        model: CostModel,
        data: TrainingData,
        recipe: Recipe,
        budget: Budget | None,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.sites, self.recipe, self.device = sites, recipe, device
        self.budget, self.native = budget or Budget(), budget is None
        self.phase = self.epoch = self.step = 0
        self.progress = 0.0
        self.x = self.y = torch.empty(0)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.network = network  # the dense network, or the sliced one after the prune
        self.snapshots: dict[str, dict[str, Tensor]] = {"init": clone_state(network)}
        self.forwarded = 0  # examples in forwards outside of training steps, since they were last counted
        self.charge: Callable[[], None] = lambda: None  # counts them at the present network's cost
        self.tracked: dict[str, Tensor] = {}
        self.curve: list[dict[str, Any]] = []
        self.logged: dict[str, float] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.sliced_by: dict[str, Tensor] | None = None  # masks over the dense network's units
        self.stopping: str | None = None  # what is to end after this epoch: "phase" or "search"
        self.hook = ""  # of the method that runs now; see :meth:`during`
        self._model, self._data, self._seed, self._precision = model, data, seed, precision
        self._gates = Gates(network, sites)
        self._masks = sites.ones(device)
        self._dense = sites.widths
        self._masked: list[str] = []
        self._also: dict[str, Tensor] = {}  # of the block that we are in, beside the masks
        self._trackers: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {}
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._passes = 1  # what a forward counts: three where a backward pass may follow

    # --- gates and masks -------------------------------------------------------------------------------------

    def gate(self, values: Mapping[str, Tensor]) -> None:
        """Gate the current batch: site -> ``[n_units]`` or ``[B, n_units]``. Gone after the step and in evaluation."""
        self._gates.set(self._with_masks(values))

    def keep_at_random(self, chances: Mapping[str, Tensor], per_example: bool = True, rescale: bool = False) -> None:
        """Gate the current batch: each unit is kept with its chance, drawn for each example or once for all.

        Args:
            chances: site -> probability to keep ``[n_units]``.
            per_example: draw for every example, constant over a map's positions.
            rescale: divide what is kept by its chance, so that the mean stays.
        """
        gates = {}
        for name, chance in chances.items():
            shape = (len(self.x) if per_example else 1, len(chance))
            kept = torch.rand(shape, generator=self.rng, device=self.device) < chance
            gates[name] = kept.float() / (chance.clamp(min=1e-12) if rescale else 1)
        self.gate(gates)

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is kept so far: site -> bool ``[n_units]``. Assign to mask units for good (also in evaluation):
        their own weights, biases and norm scales then stay exactly as they are, whatever decay or momentum do."""
        return dict(self._masks)

    @masks.setter
    def masks(self, masks: Masks) -> None:
        checked = check_masks(self.sites, masks)
        self._masks = {name: mask.to(self.device) for name, mask in checked.items()}
        self._masked = [name for name, mask in self._masks.items() if not bool(mask.all())]
        self._hold()
        self._gates.set(self._with_masks({}))

    @contextmanager
    def masked(self, masks: Masks) -> Iterator[None]:
        """Within the block, units whose mask is False read as zero."""
        gated, before = self._gates.values, self._also
        self._also = {name: mask.float().to(self.device) for name, mask in masks.items()}
        self._gates.set(self._with_masks({}))
        try:
            yield
        finally:
            self._also = before
            self._gates.set(gated)

    def insert(self, site: str, module: nn.Module) -> None:
        """Pass the activation ``[B, n_units, ...]`` of ``site`` through ``module`` wherever it is read.

        Keep the module as an attribute of the method, so that a checkpoint has it; its parameters are trained
        with the network: from this phase on if it is inserted in ``prepare`` or ``on_phase_start``, from the next one
        on in ``on_phase_end``; other hooks may not insert. The harness takes it out again before slicing.
        """
        self._require_hook("insert", ("prepare", "on_phase_start", "on_phase_end"))
        self._gates.insert(site, module.to(self.device))

    def _with_masks(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = {name: value.to(self.device) for name, value in values.items()}
        for name in self._masked:
            mask = self._masks[name]
            both[name] = both[name] * mask if name in both else mask.float()
        for name, mask in self._also.items():
            both[name] = both[name] * mask if name in both else mask
        return both

    # --- looking at the network ------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` in the recipe's precision, gates included."""
        self.forwarded += self._passes * len(x)
        with self.autocast():
            return self.network(x)

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision as a context manager."""
        if self._precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @contextmanager
    def probe(self, batch_statistics: bool = False, gradients: bool = False) -> Iterator[None]:
        """Within the block, forwards leave no trace: eval mode, no batch norm update, no RNG use, no gradients kept.

        Args:
            batch_statistics: normalise by the batch's own statistics, as in training, without recording them.
            gradients: allow a backward pass; parameters get their former gradients back afterwards. A forward then
                costs as much as in training, three times one without.
        """
        network = self.network
        norms = [(m, m.track_running_stats) for m in network.modules() if isinstance(m, NORMS)]
        kept = [
            (p, p.grad) for p in (*network.parameters(), *(p for m in self.inserted.values() for p in m.parameters()))
        ]
        gated, passes = self._gates.values, self._passes
        devices = [self.device] if self.device.type == "cuda" else []
        with evaluating(network), torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
            try:
                for norm, _ in norms if batch_statistics else ():
                    norm.training, norm.track_running_stats = True, False
                for parameter, _ in kept if gradients else ():
                    parameter.grad = None
                self._gates.set(self._with_masks({}))
                self._passes = 3 if gradients else 1
                yield
            finally:
                self._passes = passes
                for norm, tracks in norms:
                    norm.track_running_stats = tracks
                for parameter, grad in kept:
                    parameter.grad = grad
                self._gates.set(gated)

    @contextmanager
    def activations(self) -> Iterator[dict[str, Tensor]]:
        """Within the block, every forward fills the yielded dictionary: site -> ``[B, n_units, ...]``.

        The values are what the activation function puts out, before pooling (what the consumer reads where that
        cannot be followed, see :mod:`bench.gates`), masked and detached.
        """
        found: dict[str, Tensor] = {}
        before = self._gates.observer

        def observe(site: str, activation: Tensor) -> None:
            found[site] = activation.detach()
            if site in self._masked:
                mask = self._masks[site].to(activation.dtype)
                found[site] = found[site] * mask.reshape(-1, *[1] * (activation.dim() - 2))

        self._gates.observe(observe)
        try:
            yield found
        finally:
            self._gates.observe(before)

    def track(self, site: str, statistic: Callable[[Tensor], Tensor], momentum: float) -> None:
        """Keep a running statistic of a site's activations in every training forward, in ``tracked[site]``.

        Args:
            site: its name.
            statistic: maps the batch's activations ``[B, n_units, ...]``, before any gate, to ``[n_units]`` (such as
                those in ``bench.api.STATISTICS``).
            momentum: weight of the past in the exponential mean; it starts at zero. Checkpoints keep it.
        """
        self.tracked[site] = torch.zeros(self.sites[site].n_units, device=self.device)
        self._trackers[site] = (statistic, momentum)

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Within the block, forwards update ``tracked``."""
        if self._trackers:
            self._gates.observe(self._track)
        try:
            yield
        finally:
            self._gates.observe(None)

    @torch.no_grad()
    def _track(self, site: str, activation: Tensor) -> None:
        if site in self._trackers:
            statistic, momentum = self._trackers[site]
            self.tracked[site].lerp_(statistic(activation.detach()).float(), 1 - momentum)

    @torch.no_grad()
    def evaluate(
        self, candidates: Mapping[str, Tensor], x: Tensor | None = None, batch_statistics: bool = False
    ) -> Tensor:
        """Logits ``[P, B, classes]`` of a batch under ``P`` candidate masks; nothing moves.

        In batched forwards through per-example gates. A network whose norms use the batch's own statistics
        cannot share a batch between candidates: it is given one candidate after the other.

        Args:
            candidates: site -> ``[P, n_units]``, bool or float.
            x: the batch ``[B, C, H, W]``, normalised; None for the current one.
            batch_statistics: normalise by the batch's own statistics (see :meth:`probe`).
        """
        x = self.x if x is None else x
        population, batch = len(next(iter(candidates.values()))), len(x)
        alone = batch_statistics and any(isinstance(m, NORMS) for m in self.network.modules())
        chunk = 1 if alone else max(1, AT_ONCE // batch)
        parts = []
        with self.probe(batch_statistics):
            for start in range(0, population, chunk):
                some = {n: c[start : start + chunk].to(self.device).float() for n, c in candidates.items()}
                count = len(next(iter(some.values())))
                gates = {n: c.repeat_interleave(batch, dim=0) if count > 1 else c[0] for n, c in some.items()}
                self._gates.set(self._with_masks(gates))
                logits = self.forward(x.repeat(count, 1, 1, 1)).float()
                parts.append(logits.unflatten(0, (count, batch)))
        return torch.cat(parts)

    def mean(
        self,
        statistic: Callable[[Site, Tensor], Tensor],
        of: Literal["activations", "gate_gradients"] = "activations",
        batches: int | None = None,
    ) -> dict[str, Tensor]:
        """Mean over training examples of a statistic, site -> ``[n_units]``; independent of the batch size if the
        statistic is itself a mean over examples. Eval mode, unaugmented images, nothing moves.

        Args:
            statistic: maps a site and its values in a batch, in the precision of the forward, to ``[n_units]``.
            of: ``activations`` ``[B, n_units, ...]`` with at least one position (see :meth:`activations`), or
                ``gate_gradients`` ``[B, n_units]``: derivative of each example's loss by a gate of 1 on each unit
                (Molchanov et al. 2019).
            batches: at most so many; None takes the whole training set.
        """
        total = {name: torch.zeros(site.n_units, device=self.device) for name, site in self.sites.items()}
        seen = 0
        for x, y in self.batches("train", batches):
            values = self._gate_gradients(x, y) if of == "gate_gradients" else self._activations(x)
            for name, site in self.sites.items():
                total[name] += len(x) * statistic(site, values[name])
            seen += len(x)
        if not seen:
            raise RunFailed("a mean over no training batches: batches must be at least 1")
        return {name: value / seen for name, value in total.items()}

    def leave_one_out(self) -> dict[str, Tensor]:
        """Training loss of the network without each single unit: site -> ``[n_units]``. One forward pass a unit."""
        count = sum(self.sites.widths.values())
        candidates = self.split(~torch.eye(count, dtype=torch.bool, device=self.device))
        loss = torch.zeros(count, device=self.device)
        for x, y in self.batches("train"):
            logits = self.evaluate(candidates, x)
            loss += F.cross_entropy(logits.movedim(0, 2), y[:, None].expand(-1, count), reduction="none").sum(dim=0)
        return self.split(loss / len(self._data.train))

    def _activations(self, x: Tensor) -> dict[str, Tensor]:
        with self.probe(), self.activations() as found:
            self.forward(x)
        return {name: a if a.dim() > 2 else a[..., None] for name, a in found.items()}

    def _gate_gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with self.probe(gradients=True):
            gates = {n: torch.ones(len(x), s.n_units, device=self.device) for n, s in self.sites.items()}
            for gate in gates.values():
                gate.requires_grad_(True)
            self._gates.set(self._with_masks(gates))
            loss = F.cross_entropy(self.forward(x).float(), y, reduction="sum")
            return dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))

    def batches(self, split: str = "train", limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``train`` or ``val``, unaugmented, the last one smaller; at most ``limit``.

        They come in an order that the run's seed mixes, the same in every pass, in memory, streamed and after a
        resume: so the first batches hold all classes, and none holds one class only.

        There is no way to the test set: it is loaded after the method is gone.
        """
        if split not in ("train", "val"):
            raise RunFailed(f"a method asked for the split '{split}'; it may see 'train' and 'val' only")
        batches = getattr(self._data, split).mixed(self.recipe.batch_size, derive(self._seed, "batches"))
        for k, batch in enumerate(batches):
            if limit is not None and k >= limit:
                return
            yield batch

    # --- going back ------------------------------------------------------------------------------------------

    def snapshot(self, tag: str) -> None:
        """Keep the network's weights and statistics under ``tag``; checkpoints keep it too."""
        self.snapshots[tag] = clone_state(self.network)

    def rewind(self, tag: str) -> None:
        """Back to the snapshot ``tag``: weights and statistics; the optimizer forgets, masks stay.

        ``init`` is the network before any training, ``base`` the trained dense one; ``fresh`` draws the layers'
        weights anew, in every phase others, from ``init``. The prune slices all snapshots with the network.
        Not between a forward and its step, that is in ``penalty`` and ``on_backward_end``.
        """
        if self.hook in ("penalty", "on_backward_end"):
            raise RunFailed(f"ctx.rewind in {self.hook}: the step would mix two networks; use on_step_end")
        if tag == "fresh":
            self.network.load_state_dict(self.snapshots["init"])  # for what is no layer's: bare parameters
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(derive(self._seed, "fresh", self.phase))
                initialize(self.network)
        elif tag not in self.snapshots:
            raise RunFailed(f"no snapshot '{tag}'; there are {', '.join(sorted(self.snapshots))} and fresh")
        else:
            self.network.load_state_dict(self.snapshots[tag])
        if self.optimizer is not None:
            forget(self.optimizer)
        self._hold()

    def shrink(self, masks: Masks) -> None:
        """Take what ``masks`` (site -> bool ``[n_units]``) removes out of the network now, at a phase's start or end.

        Sites, masks, snapshots and tracked statistics follow; inserted modules go. The smaller network computes
        what the masked one would and costs less to train; what is gone does not come back.

        Raises:
            RunFailed: in any hook but ``on_phase_start`` and ``on_phase_end``, or for masks that do not fit.
        """
        self._require_hook("shrink", ("on_phase_start", "on_phase_end"))
        trackers, before = self._trackers, self._masks
        self.slice(check_masks(self.sites, masks))
        self._trackers = trackers
        self.masks = {name: before[name][masks[name].to(self.device)] for name in self.sites}

    def stop_phase(self) -> None:
        """The present phase ends after this epoch."""
        self.stopping = self.stopping or "phase"

    def stop_search(self) -> None:
        """After this epoch nothing is left to search for: the plan goes on with its PRUNE."""
        self.stopping = "search"

    # --- clocks and log --------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Learning rate of the present step; 0 outside of training."""
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer else 0.0

    def log(self, **scalars: float | Tensor) -> None:
        """Add numbers to the curve of the current epoch; the last value counts, one that is not finite is null."""
        self.logged |= {name: float(value) for name, value in scalars.items()}

    # --- for the harness -------------------------------------------------------------------------------------

    @contextmanager
    def during(self, hook: str) -> Iterator[None]:
        """Within the block the method's ``hook`` runs: what it may not do is refused."""
        before, self.hook = self.hook, hook
        try:
            yield
        finally:
            self.hook = before

    def _require_hook(self, call: str, hooks: tuple[str, ...]) -> None:
        """Raise RunFailed where a method's hook runs that is none of ``hooks``."""
        if self.hook and self.hook not in hooks:
            raise RunFailed(f"ctx.{call} in {self.hook}: only {', '.join(hooks)} may do that")

    def after_step(self) -> None:
        """End of a step: batch gates go, masked units are put back as they were."""
        self._gates.set(self._with_masks({}))
        for parameter, rows, saved in self._held:
            with torch.no_grad():
                parameter[rows] = saved
            for moment in self.optimizer.state.get(parameter, {}).values() if self.optimizer else ():
                if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                    moment[rows] = 0

    def release(self) -> None:
        """Take every hook and inserted module off the network."""
        self._gates.remove()
        self._masked, self._held, self._trackers = [], [], {}

    @property
    def busy(self) -> bool:
        """Whether :meth:`after_step` has anything to do."""
        return bool(self._held or self._gates.values)

    @property
    def inserted(self) -> dict[str, nn.Module]:
        """Modules a method has put in: site -> module."""
        return dict(self._gates.inserted)

    def insert_only(self, modules: Mapping[str, nn.Module]) -> None:
        """Insert these modules (site -> module) in place of those that are in; for a resume."""
        self._gates.inserted.clear()
        for site, module in modules.items():
            self._gates.insert(site, module.to(self.device))

    def slice(self, masks: Masks) -> nn.Module:
        """Replace the network, its sites and every snapshot by their slices. Gates and masks end here."""
        self.release()
        self.charge()
        masks = {name: masks[name].cpu().clone() for name in self.sites}
        if self.sliced_by is None:
            self.sliced_by = masks
        else:
            for name, kept in self.sliced_by.items():
                kept[kept.clone()] = masks[name]
        state = clone_state(self.network)
        for tag, snapshot in self.snapshots.items():
            self.network.load_state_dict(snapshot)
            self.snapshots[tag] = clone_state(self.sites.slice(self.network, masks))
        self.network.load_state_dict(state)
        self.network = self.sites.slice(self.network, masks)
        self.sites = self.sites.sliced(masks, self.network)
        self.tracked = {name: value[masks[name].to(value.device)] for name, value in self.tracked.items()}
        self._gates = Gates(self.network, self.sites)
        self._masks = self.sites.ones(self.device)
        return self.network

    def _hold(self) -> None:
        self._held = []
        for name in self._masked:
            mask = self._masks[name]
            for parameter, cut in self.sites[name].unit_parameters():
                rows = cut.positions.to(self.device)[~mask[cut.units.to(self.device)]]
                self._held.append((parameter, rows, parameter.detach()[rows].clone()))
