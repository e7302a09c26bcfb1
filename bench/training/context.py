"""The context: all that a method sees of the harness."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Literal, Protocol

import torch
from msgspec import UNSET
from torch import Tensor, nn

from bench.data.loading import TrainingData
from bench.errors import METHOD, RunFailed
from bench.pruning import selection
from bench.pruning.masks import Masks, Scores
from bench.pruning.sites import Site
from bench.spec.digest import derive_seed
from bench.spec.recipe import Recipe
from bench.spec.spec import Budget
from bench.training import batch_means, prefix_cache
from bench.training.layer_view import LayerView
from bench.training.masked_model import MaskedModel
from bench.training.teacher import Teachers
from bench.training.training_signals import TrainingSignals
from bench.training.validation import validation


class Chooser(Protocol):
    """The method whose scores and masks count in a run; a :class:`bench.training.method.Method`."""

    def scores(self, ctx: Context) -> Scores:
        """Site -> ``[n_units]``."""

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """Site -> bool ``[n_units]``."""


class Context(TrainingSignals, LayerView):
    """One run as its method sees it: sites, gates, data, snapshots, clocks.

    Its public names are those of docs/add_a_method.md; only ``masks`` can be assigned.
    """

    def __init__(
        self, model: MaskedModel, data: TrainingData, recipe: Recipe, budget: Budget | None, seed: int
    ) -> None:
        super().__init__(model, recipe, budget, seed)
        self._data, self._teachers = data, Teachers(model)
        self._method: Chooser  # training sets it

    # --- gates and masks -------------------------------------------------------------------------------------

    def gate(self, values: Mapping[str, Tensor]) -> None:
        """Gate the current batch: site -> ``[n_units]`` or ``[B, n_units]``. Gone after the step and in evaluation."""
        self._model.frozen.require_unserved("ctx.gate", values, self.sites)
        self._model.gate(values)

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
        their weights, biases and norm scales, and the weights that read them, then stay exactly as they are, whatever
        decay or momentum do."""
        return self._model.masks

    @masks.setter
    def masks(self, masks: Masks) -> None:
        self._now.require_hook("masks")
        self._model.masks = masks

    def masked(self, masks: Masks) -> AbstractContextManager[None]:
        """Within the block, units whose mask is False read as zero."""
        return self._model.masked(masks)

    def insert(self, site: str, module: nn.Module) -> None:
        """Pass the activation ``[B, n_units, ...]`` of ``site`` through ``module`` wherever it is read.

        Keep the module as an attribute of the method, so that a checkpoint has it; its parameters are trained
        with the network: from this phase on if it is inserted in ``prepare`` or ``on_phase_start``, from the next one
        on in ``on_phase_end``; other hooks may not insert. The harness takes it out again before slicing.
        """
        self._now.require_hook("insert", ("prepare", "on_phase_start", "on_phase_end"))
        self._require_activation(site, "insert")
        self._model.frozen.require_unserved("ctx.insert", [site], self.sites)
        self._model.insert(site, module)

    # --- looking at the network ------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]`` in the recipe's precision, gates included."""
        return self._model.forward(x)

    def probe(self, batch_statistics: bool = False, gradients: bool = False) -> AbstractContextManager[None]:
        """Within the block, forwards leave no trace: eval mode, no batch norm update, no RNG use, no gradients kept.

        Args:
            batch_statistics: normalise by the batch's own statistics, as in training, without recording them.
            gradients: allow a backward pass; parameters get their former gradients back afterwards. A forward whose
                output requires a gradient costs as much as in training, three times one without.
        """
        return self._model.probe(batch_statistics, gradients)

    def activations(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Within the block, every forward fills the yielded dictionary: site -> ``[B, n_units, ...]``, detached.

        See :meth:`bench.training.masked_model.MaskedModel.activations`.
        """
        return self._model.activations()

    def track(self, site: str, statistic: Callable[[Tensor], Tensor], momentum: float) -> None:
        """In ``prepare``: keep a running statistic of a site's activations in every training forward, in
        ``tracked[site]``.

        Args:
            site: its name.
            statistic: maps the batch's activations ``[B, n_units, ...]``, before any gate, to ``[n_units]`` (such as
                those in ``bench.api.STATISTICS``).
            momentum: weight of the past in the exponential mean; it starts at zero. Checkpoints keep it.
        """
        self._now.require_hook("track", ("prepare",))
        self._require_activation(site, "track")
        self._model.track(site, statistic, momentum)

    def _require_activation(self, site: str, call: str) -> None:
        if self.sites[site].blocks:
            raise RunFailed(f"ctx.{call} at site {site}: its units are blocks, which have no activation", blame=METHOD)

    def evaluate(
        self, candidates: Mapping[str, Tensor], x: Tensor | None = None, batch_statistics: bool = False
    ) -> Tensor:
        """Logits ``[P, B, classes]`` of a batch under ``P`` candidate masks; nothing moves.

        Args:
            candidates: site -> ``[P, n_units]``, bool or float.
            x: the batch ``[B, C, H, W]``, normalised; None for the current one.
            batch_statistics: normalise by the batch's own statistics (see :meth:`probe`).
        """
        return self._model.evaluate(candidates, self.x if x is None else x, batch_statistics)

    def mean(
        self,
        statistic: Callable[[Site, Tensor], Tensor],
        of: Literal["activations", "gate_gradients", "block_io"] = "activations",
        batches: int | None = None,
    ) -> dict[str, Tensor]:
        """Mean over training examples of a statistic, site -> ``[n_units]``. Eval mode, unaugmented, nothing moves.

        Sites of blocks have no activations, and only they have ``block_io``.

        Args:
            statistic: maps a site and its values in a batch, in the precision of the forward, to ``[n_units]``.
            of: ``activations`` ``[B, n_units, ...]`` with at least one position (see :meth:`activations`), or
                ``gate_gradients`` ``[B, n_units]``: derivative of each example's loss by a gate of 1 on each unit
                (Molchanov et al. 2019); ``block_io`` ``[2, B, ...]``: input and output of a block, for which the
                statistic is called once for each and gives one number.
            batches: at most so many; None takes the whole training set.
        """
        return batch_means.mean(self._model, self.batches("train", batches), statistic, of)

    def leave_one_out(self) -> dict[str, Tensor]:
        """Training loss of the network without each single unit: site -> ``[n_units]``. One forward pass a unit."""
        return batch_means.leave_one_out(self._model, self.batches("train"))

    def batches(self, split: str = "train", limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ``train`` or ``val``, unaugmented, the last one smaller; at most ``limit``.

        They come in an order that the run's seed mixes, the same in every pass, in memory, streamed and after a
        resume: so the first batches hold all classes, and none holds one class only.

        There is no way to the test set: it is loaded after the method is gone.
        """
        if split not in ("train", "val"):
            raise RunFailed(f"a method asked for the split '{split}'; it may see 'train' and 'val' only")
        batches = getattr(self._data, split).mixed(self.recipe.batch_size, derive_seed(self._seed, "batches"))
        for batch in islice(batches, limit):
            if split == "val" and self._now.guard:
                self._now.guard.validation(batch[0])
            yield batch

    def validate(self) -> tuple[float, float]:
        """Top-1 and loss on the validation images now, in eval mode and float32, masks included: as in the curve.

        It costs their forwards, and afterwards the hook changes weights as after ``batches("val")``.
        """
        if self._now.guard:
            self._now.guard.validation(self._data.val.first(1))
        with self._model.probe():
            return validation(self._model.network, self._data.val)

    def per_unit(
        self, name: str, value: float | Mapping[str, Tensor] = 0.0, trainable: bool = False
    ) -> dict[str, Tensor]:
        """In ``prepare``: a number for every unit, site -> float ``[n_units]``, at first ``value``, or its copy.

        The dictionary is live: change its tensors or put others of the same size in their places. It follows the
        network: a shrink and the prune take out the numbers of the units that go, a resume puts them back.
        ``trainable`` numbers have a ``.grad`` after the backward pass of each step, such as that of a gate that is
        made of them; the recipe's optimizer leaves them alone.

        Raises:
            RunFailed: in another hook, or for a name that exists.
        """
        self._now.require_hook("per_unit", ("prepare",))
        return self._model.per_unit.add(name, self.sites.widths, value, self.device, trainable)

    # --- going back, getting smaller, stopping ---------------------------------------------------------------

    def snapshot(self, tag: str) -> None:
        """Keep the network's weights and statistics under ``tag``; checkpoints keep it too."""
        self._model.snapshots.take(tag, self._model.network)

    def rewind(self, tag: str) -> None:
        """Back to the snapshot ``tag``: weights and statistics; the optimizer forgets, masks stay.

        ``init`` is the network before any training, ``base`` the trained dense one; ``fresh`` draws the layers'
        weights again, different ones in every phase, from ``init``. The prune slices all snapshots with the network.
        Not between a forward and its step, that is in ``penalty`` and ``on_backward_end``.
        """
        self._now.require_hook("rewind")
        if self._model.frozen:
            raise RunFailed(f"ctx.rewind('{tag}') after ctx.freeze: frozen layers stay as they are", blame=METHOD)
        if self._now.hook in ("penalty", "on_backward_end"):
            raise RunFailed(f"ctx.rewind in {self._now.hook}: the step would mix two networks; use on_step_end")
        if tag == "fresh":
            self._model.redraw(derive_seed(self._seed, "fresh", self.phase))
        else:
            self._model.rewind(tag)

    def shrink(self, masks: Masks) -> None:
        """Take what ``masks`` (site -> bool ``[n_units]``) removes out of the network now, at a phase's start or end.

        Sites, masks, snapshots and tracked statistics follow; inserted modules go. The smaller network computes
        what the masked one would and costs less to train; removed units do not come back.

        Raises:
            RunFailed: in any hook but ``on_phase_start`` and ``on_phase_end``, or for masks that do not fit.
        """
        self._now.require_hook("shrink", ("on_phase_start", "on_phase_end"))
        self._model.shrink(masks)

    def freeze(self, upto: str | Site | Sequence[str | Site], cache: int = 0) -> str | None:
        """The layers that a forward pass executes up to and including ``upto`` learn no more, until the prune.

        Their parameters get no gradient, their modules are in eval mode; the other parameters keep their momentum.

        Args:
            upto: dotted name of a module, or a site for the layer of its name. Of several layers, in the order of the
                forward pass, the last one that can be frozen (and kept), with the module that ends with it.
            cache: keep the outputs of ``upto`` for so many augmented views of each training image; steps take them
                in place of its layers' forward.

        Returns:
            The name of the module; None where none of several can be frozen.

        Raises:
            RunFailed: in other hooks than ``on_epoch_end`` and ``on_phase_end``; where the outputs would take more
                than a quarter of the free memory, or do not decide all that is later; see also
                :func:`bench.pruning.prefix.prefix`.
        """
        now = self._now
        now.require_hook("freeze", ("on_epoch_end", "on_phase_end"))
        if not now.hook:
            raise RunFailed("ctx.freeze outside of on_epoch_end and on_phase_end", blame=METHOD)
        given = [upto] if isinstance(upto, str) or not isinstance(upto, Sequence) else upto
        names = [m.name if isinstance(m, Site) else str(m) for m in given]
        return prefix_cache.freeze(self._model, self._data, names, cache, phase=now.phase, epoch=int(now.progress))

    def stop_phase(self) -> None:
        """The present phase ends after this epoch."""
        self._now.stopping = self._now.stopping or "phase"

    def stop_search(self) -> None:
        """End the search after this epoch: the plan continues with its PRUNE."""
        self._now.require_hook("stop_search")
        self._now.stopping = "search"

    def log(self, **scalars: float | Tensor) -> None:
        """Add numbers to the curve of the current epoch; the last value counts, one that is not finite is null."""
        self._now.logged |= {name: float(value) for name, value in scalars.items()}

    # --- choosing what stays ---------------------------------------------------------------------------------

    def scores(self) -> dict[str, Tensor]:
        """What each unit is worth now: the scores of the run's method, of ``a+b`` the composition's."""
        with self._asking("scores"):
            return dict(self._checked(self._method.scores(self)))

    def select(self) -> dict[str, Tensor]:
        """What a PRUNE would keep now: the choice of the run's method, of ``a+b`` the composition's, on ``device``.

        Raises:
            RunFailed: within ``select`` itself, or for masks that are incomplete, not bool, below ``min_keep`` or of
                other widths than ``round_to`` allows.
        """
        with self._asking("select"):
            masks = self._method.select(self, self.budget)
        if not isinstance(masks, dict):
            why = f"the method's select returned {type(masks).__name__}, not a dictionary of masks"
            raise RunFailed(why, blame=METHOD)
        costs = self._model.costs
        least = costs.least(dataclasses.replace(self.budget, round_to=UNSET))
        selection.check_masks(self.sites, masks, least, costs.exempt)
        settled = self.sites.settled({name: masks[name].to(self.device) for name in self.sites})
        if off := costs.misfit(self.budget, settled):
            raise RunFailed(f"the method's mask for {off}", blame=METHOD)
        return settled

    def _asking(self, hook: str) -> AbstractContextManager[None]:
        self._now.require_hook(hook)
        if hook in self._now.hooks:
            raise RunFailed(f"ctx.{hook} in {hook}: it would ask itself")
        return self._now.during(hook)
