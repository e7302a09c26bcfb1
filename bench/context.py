"""The context: all that a method sees of the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Masks, Scores
from bench.archs import initialize
from bench.budget import CostModel, select
from bench.data import TrainingData
from bench.errors import RunFailed
from bench.gates import Gates
from bench.modes import evaluating
from bench.sites import Sites
from bench.slicing import NORMS
from bench.spec import Budget, Recipe, derive


class Context:
    """Sites, gates, data, snapshots and clocks of one run, as its method sees them.

    Attributes:
        sites: the prunable widths, by name.
        recipe: epochs, rates, batch size.
        budget: what may be kept.
        device: where tensors live.
        rng: the method's own generator, seeded by the run and kept in checkpoints.
        phase, epoch, step: index of the phase in the plan, of the epoch in the phase, of the step in the epoch.
        x, y: the current batch, ``[B, C, H, W]`` normalised and ``[B]``.
        tracked: site -> running statistic ``[n_units]`` (see :meth:`track`).
    """

    def __init__(
        self,
        network: nn.Module,
        sites: Sites,
        model: CostModel,
        data: TrainingData,
        recipe: Recipe,
        budget: Budget,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.sites, self.recipe, self.budget, self.device = sites, recipe, budget, device
        self.phase = self.epoch = self.step = 0
        self.x = self.y = torch.empty(0)
        self.rng = torch.Generator(device).manual_seed(seed)
        self.network = network  # the dense network, or the sliced one after the prune
        self.snapshots: dict[str, dict[str, Tensor]] = {"init": clone_state(network)}
        self.forwarded = 0  # examples in forwards outside of training steps, since they were last counted
        self.tracked: dict[str, Tensor] = {}
        self.logged: dict[str, float] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.sliced_by: dict[str, Tensor] | None = None
        self._model, self._data, self._seed, self._precision = model, data, seed, precision
        self._gates = Gates(network, sites)
        self._masks = sites.ones(device)
        self._masked: list[str] = []
        self._trackers: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {}
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    # --- gates and masks -------------------------------------------------------------------------------------

    def gate(self, values: Mapping[str, Tensor]) -> None:
        """Gate the current batch: site -> ``[n_units]`` or ``[B, n_units]``. Gone after the step and in evaluation."""
        self._gates.set(self._with_masks(values))

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
        before = self._gates.values
        self._gates.set(self._with_masks({name: mask.float() for name, mask in masks.items()}))
        try:
            yield
        finally:
            self._gates.set(before)

    def insert(self, site: str, module: nn.Module) -> None:
        """Pass the activation ``[B, n_units, ...]`` of ``site`` through ``module`` wherever it is read.

        Keep the module as an attribute of the method, so that a checkpoint has it; its parameters are trained
        with the network from the next phase on. The harness takes it out again before slicing.
        """
        self._gates.insert(site, module.to(self.device))

    def _with_masks(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = {name: value.to(self.device) for name, value in values.items()}
        for name in self._masked:
            mask = self._masks[name]
            both[name] = both[name] * mask if name in both else mask.float()
        return both

    # --- looking at the network ------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` in the recipe's precision, gates included."""
        self.forwarded += len(x)
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
            gradients: allow a backward pass; parameters get their former gradients back afterwards.
        """
        network = self.network
        norms = [(m, m.track_running_stats) for m in network.modules() if isinstance(m, NORMS)]
        kept = [(p, p.grad) for p in network.parameters()]
        gated = self._gates.values
        devices = [self.device] if self.device.type == "cuda" else []
        with evaluating(network), torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
            try:
                for norm, _ in norms if batch_statistics else ():
                    norm.training, norm.track_running_stats = True, False
                for parameter, _ in kept if gradients else ():
                    parameter.grad = None
                self._gates.set(self._with_masks({}))
                yield
            finally:
                for norm, tracks in norms:
                    norm.track_running_stats = tracks
                for parameter, grad in kept:
                    parameter.grad = grad
                self._gates.set(gated)

    @contextmanager
    def activations(self) -> Iterator[dict[str, Tensor]]:
        """Within the block, every forward fills the yielded dictionary: site -> ``[B, n_units, ...]``.

        The values are what the consumer reads (after norm, activation and pooling), masked and detached.
        """
        found: dict[str, Tensor] = {}
        before = self._gates.observer

        def observe(site: str, activation: Tensor) -> None:
            mask = self._masks[site].to(activation.dtype)
            found[site] = activation.detach() * mask.reshape(-1, *[1] * (activation.dim() - 2))

        self._gates.observe(observe)
        try:
            yield found
        finally:
            self._gates.observe(before)

    def track(self, site: str, statistic: Callable[[Tensor], Tensor], momentum: float) -> None:
        """Keep a running statistic of a site's activations in every training forward, in ``tracked[site]``.

        Args:
            site: its name.
            statistic: maps the batch's values ``[n_units, B * positions]``, as the consumer reads them before
                any gate, to ``[n_units]``.
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
            values = activation.detach().float().movedim(1, 0).flatten(1)
            self.tracked[site].lerp_(statistic(values), 1 - momentum)

    def evaluate(self, candidates: Mapping[str, Tensor], at_once: int = 1024) -> Tensor:
        """Logits ``[P, B, classes]`` of the current batch under ``P`` candidate masks, in batched forwards.

        Eval mode; nothing moves (see :meth:`probe`).

        Args:
            candidates: site -> ``[P, n_units]``, bool or float.
            at_once: most examples in one forward; candidates are split to stay below it.
        """
        population, batch = len(next(iter(candidates.values()))), len(self.x)
        chunk = max(1, at_once // batch)
        parts = []
        with self.probe():
            for start in range(0, population, chunk):
                some = {n: c[start : start + chunk].to(self.device).float() for n, c in candidates.items()}
                count = len(next(iter(some.values())))
                gates = {n: c.repeat_interleave(batch, dim=0) for n, c in some.items()}
                self._gates.set(self._with_masks(gates))
                logits = self.forward(self.x.repeat(count, 1, 1, 1)).float()
                parts.append(logits.unflatten(0, (count, batch)))
        return torch.cat(parts)

    def batches(self, split: str = "train", limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``train`` or ``val``, unaugmented and in order, the last one smaller; at most ``limit``.

        There is no way to the test set: it is loaded after the method is gone.
        """
        if split not in ("train", "val"):
            raise RunFailed(f"a method asked for the split '{split}'; it may see 'train' and 'val' only")
        batches = getattr(self._data, split).batches(self.recipe.batch_size)
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

        ``init`` is the network before any training, ``base`` the trained dense one, ``fresh`` draws new weights.
        The prune slices all snapshots with the network.
        """
        if tag == "fresh":
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(derive(self._seed, "fresh"))
                initialize(self.network)
        elif tag not in self.snapshots:
            raise RunFailed(f"no snapshot '{tag}'; there are {', '.join(sorted(self.snapshots))} and fresh")
        else:
            self.network.load_state_dict(self.snapshots[tag])
        if self.optimizer is not None:
            self.optimizer.state.clear()
        self._hold()

    # --- deciding --------------------------------------------------------------------------------------------

    def rank(self, scores: Scores, ranking: str | Mapping[str, float]) -> dict[str, Tensor]:
        """Masks that keep the best units within the budget.

        Args:
            scores: site -> float ``[n_units]``, larger is more worth keeping.
            ranking: ``global``, ``layer`` (equal shares) or shares per site; the user's ``--ranking`` wins.

        Raises:
            RunFailed: a site is missing, or scores have the wrong shape or are not finite.
        """
        for name, width in self.sites.widths.items():
            if name not in scores:
                raise RunFailed(f"the method gives no scores for site {name}")
            given = scores[name]
            if tuple(given.shape) != (width,):
                raise RunFailed(f"the method's scores for site {name} have shape {list(given.shape)}, not [{width}]")
            if not bool(given.isfinite().all()):
                raise RunFailed(f"the method's scores for site {name} are not finite")
        return select(scores, self._model, self.budget, self.budget.ranking or ranking)

    def log(self, **scalars: float | Tensor) -> None:
        """Add numbers to the curve of the current epoch; the last value counts, one that is not finite is null."""
        self.logged |= {name: float(value) for name, value in scalars.items()}

    # --- for the harness -------------------------------------------------------------------------------------

    def after_step(self) -> None:
        """End of a step: batch gates go, masked units are put back as they were."""
        self._gates.set(self._with_masks({}))
        for parameter, rows, saved in self._held:
            with torch.no_grad():
                parameter[rows] = saved
            for moment in self.optimizer.state[parameter].values() if self.optimizer else ():
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
    def inserted(self) -> list[nn.Module]:
        """Modules a method has put in."""
        return list(self._gates.inserted.values())

    def slice(self, masks: Masks) -> nn.Module:
        """Replace the network, and every snapshot, by its slice. Gates and masks end here."""
        self.release()
        self.sliced_by = {name: mask.cpu() for name, mask in masks.items()}
        state = clone_state(self.network)
        for tag, snapshot in self.snapshots.items():
            self.network.load_state_dict(snapshot)
            self.snapshots[tag] = clone_state(self.sites.slice(self.network, self.sliced_by))
        self.network.load_state_dict(state)
        self.network = self.sites.slice(self.network, self.sliced_by)
        return self.network

    def _hold(self) -> None:
        self._held = []
        for name in self._masked:
            mask = self._masks[name]
            for parameter, cut in self.sites[name].unit_parameters():
                rows = cut.positions.to(self.device)[~mask[cut.units.to(self.device)]]
                self._held.append((parameter, rows, parameter.detach()[rows].clone()))


def check_masks(sites: Sites, masks: Masks, min_keep: int = 1) -> Masks:
    """``masks`` as they are; raises RunFailed unless each site has a bool mask that keeps ``min_keep`` units."""
    for name, width in sites.widths.items():
        if name not in masks:
            raise RunFailed(f"the method gives no mask for site {name}")
        mask = masks[name]
        if tuple(mask.shape) != (width,) or mask.dtype != torch.bool:
            raise RunFailed(
                f"the method's mask for site {name} is {mask.dtype} {list(mask.shape)}, not torch.bool [{width}]"
            )
        if int(mask.sum()) < min(min_keep, width):
            raise RunFailed(
                f"the method's mask for site {name} keeps {int(mask.sum())} units; --min-keep is {min_keep}"
            )
    return masks


def clone_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights and buffers."""
    return {name: t.detach().clone() for name, t in network.state_dict().items()}
