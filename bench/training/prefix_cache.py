"""Freezing the first layers of a network, and their outputs for some views of each training image in place of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.loading import ImageSet, TrainingData
from bench.errors import METHOD, RunFailed
from bench.measure.environment import free_bytes
from bench.pruning.prefix import prefix
from bench.spec.digest import derive_seed, digest
from bench.spec.recipe import Recipe
from bench.training.ledger import LAYERS
from bench.training.masked_model import MaskedModel

SHARE = 4
"""A cache takes no more than the free memory divided by this."""
SAME = 1e-5
"""Largest difference of logits with and without the cache, relative to the largest logit where that exceeds 1."""


def freeze(model: MaskedModel, data: TrainingData, names: Sequence[str], views: int, **facts: Any) -> str | None:
    """Freeze what runs up to one of the modules ``names``: the last one that can be; see ``Context.freeze``.

    Args:
        model: the network.
        data: training images, and validation images to try the network with.
        names: of modules, in the order of the forward pass; with a single one, why it cannot be is raised.
        views: of each image whose outputs are kept; 0 for none.
        facts: for the record.

    Returns:
        Which one; None where none can be.
    """
    for name in reversed(names if len(names) == 1 else [*with_holders(model.network, names)]):
        try:
            with model.probe(), model.ledger.paused():
                part = prefix(model.network, name, data.val.first(2))
                if views:
                    _require_cache(model, part.modules, name, views, data)
        except RunFailed:
            if len(names) == 1:
                raise
        else:
            model.frozen.grow(part, views, upto=name, **facts)
            return name
    return None


def with_holders(network: nn.Module, names: Sequence[str]) -> Iterator[str]:
    """Each of the layers ``names``, followed by the modules that end with it: all of their layers are done by then."""
    layers = [name for name, module in network.named_modules() if isinstance(module, LAYERS)]
    done: set[str] = set()
    for name in names:
        yield name
        done.add(name)
        holder = name.rpartition(".")[0]
        while holder and all(layer in done for layer in layers if layer.startswith(f"{holder}.")):
            yield holder
            holder = holder.rpartition(".")[0]


def _require_cache(model: MaskedModel, modules: frozenset[str], upto: str, views: int, data: TrainingData) -> None:
    """Raise RunFailed where the outputs of ``upto`` cannot replace what runs before."""
    said, sites = f"ctx.freeze('{upto}', cache={views})", model.sites.values()
    inside = modules | model.frozen.modules
    made = [s.name for s in sites if {*s.producers, *(tap.layer for tap in s.consumers)} & inside]
    for what, there in (("tracked", model.tracked), ("changed by an inserted module", model.inserted)):
        if name := next((site for site in made if site in there), None):
            raise RunFailed(f"{said}: site {name} is {what}, which needs its layers to run", blame=METHOD)
    _, sample = outline(model, inside, upto, data.val.first(2), said)
    needed = views * len(data.train) * (sample[0].nbytes + prod(model.costs.shape))
    free = free_bytes(model.device)
    if needed > free // SHARE:
        mib = 2**20
        why = f"{needed // mib:,} MiB for {len(data.train):,} images, of {free // mib:,} MiB free it may take a quarter"
        raise RunFailed(f"{said} would keep {why}", blame=METHOD)


@dataclass(frozen=True)
class Stubs:
    """What replaces the outermost frozen modules of a network.

    Attributes:
        last: the one whose output is kept.
        shapes: of the others -> shape and type of each of its outputs in a forward, without the images' dimension.
    """

    last: str
    shapes: Mapping[str, Sequence[tuple[torch.Size, torch.dtype]]]

    @contextmanager
    def serving(self, network: nn.Module, output: Tensor) -> Iterator[None]:
        """Within the block the module ``last`` gives ``output``, the others what is not a number, so that it shows."""
        modules = {name: network.get_submodule(name) for name in (self.last, *self.shapes)}
        for name, module in modules.items():
            module.forward = self._stub(name, output)
        try:
            yield
        finally:
            for module in modules.values():
                del module.forward

    def _stub(self, name: str, output: Tensor) -> Any:
        if name == self.last:
            return lambda *args, **named: output
        shapes = iter(self.shapes[name])

        def stub(*args: Any, **named: Any) -> Tensor:
            shape, dtype = next(shapes)
            return torch.full((len(output), *shape), float("nan"), dtype=dtype, device=output.device)

        return stub


def outline(
    model: MaskedModel, modules: frozenset[str] | set[str], upto: str, x: Tensor, said: str
) -> tuple[Stubs, Tensor]:
    """Stubs for the frozen ``modules``, the last of which is ``upto``, and its output for the images ``x``.

    Raises:
        RunFailed: that output alone does not decide the logits, or is no tensor of the images. It begins with ``said``.
    """
    network = model.network
    outer = [n for n in modules if not any(n.startswith(f"{other}.") for other in modules)]
    end = network.get_submodule(upto)
    last = next(name for name in outer if any(end is module for module in network.get_submodule(name).modules()))
    made: dict[str, list[Any]] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: made.setdefault(name, []).append(
                out.clone() if isinstance(out, Tensor) else out
            )
        )
        for name in outer
    ]
    try:
        logits = model.forward(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in made.items():
        for out in outputs:
            if not isinstance(out, Tensor) or not out.is_floating_point() or out.dim() < 2 or len(out) != len(x):
                raise RunFailed(f"{said}: what {name} gives is no tensor with a row for each image", blame=METHOD)
    if len(made[last]) > 1:
        raise RunFailed(f"{said}: it runs {len(made[last])} times", blame=METHOD)
    stubs = Stubs(last, {n: [(o.shape[1:], o.dtype) for o in outs] for n, outs in made.items() if n != last})
    with stubs.serving(network, made[last][0].clone()):
        again = model.forward(x)
    if not float((again - logits).abs().max() / logits.abs().max().clamp(min=1)) <= SAME:  # not a number fails too
        why = "what runs later reads more than its output; name the module in which a block ends"
        raise RunFailed(f"{said}: {why}", blame=METHOD)
    return stubs, made[last][0]


class _Reached(Exception):
    """The module whose output is wanted has run."""


def output_of(model: MaskedModel, name: str, x: Tensor) -> Tensor:
    """What the module ``name`` makes of ``x``; what runs after it does not."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Tensor) -> None:
        found.append(out)
        raise _Reached

    handle = model.network.get_submodule(name).register_forward_hook(keep)
    try:
        model.forward(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


@dataclass(frozen=True)
class Kept:
    """A cache: row ``view * images + image`` of ``outputs`` and ``pixels``.

    Attributes:
        upto, views, key: what it was made for: last module, views of each image, widths and masks of the network.
        pixels: uint8 ``[rows, C, H, W]``, the augmented images.
    """

    upto: str
    views: int
    key: str
    stubs: Stubs
    pixels: Tensor
    outputs: Tensor


class PrefixCache:
    """The cache of one run; what a method asked for is in ``model.frozen``.

    It is made before the first epoch that uses it, and again after a change of masks or widths. On resume it is made
    again, which is not counted.

    Args:
        model: the network, what is frozen of it, its ledger.
        images: of training.
        recipe: batch size and augmentation.
        seed: of the run.
    """

    def __init__(self, model: MaskedModel, images: ImageSet, recipe: Recipe, seed: int) -> None:
        self.model, self.images, self.recipe, self.seed = model, images, recipe, seed
        self._kept: Kept | None = None
        self._rows = torch.empty(0, dtype=torch.int64)

    def start_epoch(self) -> ImageSet | PrefixCache:
        """What an epoch's batches come from: this cache, or the images where none is asked for."""
        frozen, kept = self.model.frozen, self._kept
        if not frozen.views:
            self._kept = None
            return self.images
        key = digest([self.model.sites.widths, {name: mask.tolist() for name, mask in self.model.masks.items()}])
        if kept is None or (kept.upto, kept.views, kept.key) != (frozen.upto, frozen.views, key):
            usable = kept is not None and (kept.views, kept.key) == (frozen.views, key)
            self._kept = self._made(key, kept if usable else None)
            self._count(key)
        return self

    def batches(
        self, size: int, generator: torch.Generator, augment: str, drop_last: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a view of each image, drawn for each image and epoch; see :class:`bench.data.loading.ImageSet`."""
        assert self._kept is not None
        count, device = len(self.images), self.images.labels.device
        order = torch.randperm(count, generator=generator, device=device)
        if self._kept.views > 1:
            order = order + count * torch.randint(self._kept.views, (count,), generator=generator, device=device)
        order = order[: count - count % size] if drop_last and count > size else order
        for rows in order.split(size):
            self._rows = rows
            yield self.images.normalised(self._kept.pixels[rows]), self.images.labels[rows % count]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Within the block, a forward of the batch that was given last takes the frozen layers' output from here."""
        if self._kept is None:
            yield
            return
        with self._kept.stubs.serving(self.model.network, self._kept.outputs[self._rows]):
            yield

    def saved(self) -> int:
        """MACs of an example that a step does not make since it is served."""
        return 0 if self._kept is None else self.model.ledger.macs_of_frozen(self.model.network)

    @torch.no_grad()
    def _made(self, key: str, before: Kept | None) -> Kept:
        """The outputs of all views, from those of ``before``, which ends earlier, where there is one."""
        model, images, upto, views = self.model, self.images, self.model.frozen.upto, self.model.frozen.views
        count, device = len(images), images.labels.device
        parts = torch.arange(count, device=device).split(self.recipe.batch_size)
        pixels = before.pixels if before else torch.cat([*self._views(views, parts)])
        with model.probe(), model.ledger.paused():
            stubs, sample = outline(model, model.frozen.modules, upto, images.first(2), f"ctx.freeze('{upto}')")
            outputs = sample.new_empty((views * count, *sample.shape[1:]))
            for rows in (part + count * view for view in range(views) for part in parts):
                x = images.normalised(pixels[rows])
                if before is None:
                    outputs[rows] = output_of(model, stubs.last, x)
                else:
                    with before.stubs.serving(model.network, before.outputs[rows]):
                        outputs[rows] = output_of(model, stubs.last, x)
        return Kept(upto, views, key, stubs, pixels, outputs)

    def _views(self, views: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        for view in range(views):
            generator = torch.Generator(self.images.labels.device).manual_seed(derive_seed(self.seed, "view", view))
            yield from (pixels for pixels, _ in self.images.decoded(parts, generator, self.recipe.augment))

    def _count(self, key: str) -> None:
        """Charge what the outputs cost beyond those that were there before; on resume nothing."""
        frozen, ledger = self.model.frozen, self.model.ledger
        macs, rows = ledger.macs_of_frozen(self.model.network), frozen.views * len(self.images)
        known: list[Any] = frozen.counted if frozen.counted[:2] == [frozen.views, key] else [0, "", 0]
        if macs > known[2]:
            ledger.charge("cache", frozen.upto, rows, rows * (macs - known[2]))
        frozen.counted = [frozen.views, key, macs]
