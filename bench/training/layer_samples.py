"""What layers read: in a forward pass of a method's own, or as a sample of rows that is the same for every network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.models.torch_state import evaluating
from bench.pruning.layers import Layer
from bench.pruning.sites import Sites
from bench.spec.digest import derive_seed


@contextmanager
def inputs(layers: Sequence[Layer], gradients: bool) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward fills the yielded dictionary: name of a layer -> what it reads.

    Gates and inserted modules are included. Of a layer that runs several times in a forward the last input is kept.

    Args:
        layers: to watch.
        gradients: give tensors of the graph, of which only this layer reads each; they are detached otherwise.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def runs(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found[name] = args[0].view_as(args[0]) if gradients else args[0].detach()
            return (found[name], *args[1:]) if gradients else args

        return runs

    # gates and inserted modules act in hooks of the same kind, which have to be there already
    handles = [layer.module.register_forward_pre_hook(keep(layer.name)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def to_units(sites: Sites, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values shaped like what layers read, summed for each unit: site -> ``[n_units]``.

    Args:
        sites: of the network.
        values: layer -> ``[B, ...]``; what a reader without an entry reads is left out.
    """
    some = next(iter(values.values()), torch.empty(0))
    dtype = torch.promote_types(some.dtype, torch.float32)  # of what autocast makes, too
    total = {}
    for name, site in sites.items():
        total[name] = torch.zeros(site.n_units, dtype=dtype, device=some.device)
        for tap in site.consumers:
            if tap.layer in values:
                channel = values[tap.layer].detach().movedim(tap.axis, 0).flatten(1).to(dtype).sum(dim=1)
                total[name].index_add_(0, tap.units.to(some.device), channel[tap.positions.to(some.device)])
    return total


@torch.no_grad()
def sample(
    network: nn.Module,
    layers: Iterable[Layer],
    forward: Callable[[Tensor], object],
    batches: Iterable[Tensor],
    count: int,
    patches: int,
    seed: int,
) -> dict[str, Tensor]:
    """Rows of what ``layers`` multiply with their matrices, in one pass: layer -> ``[rows, K]``.

    Which rows (an image and a position in it) depends on the layer's name and the numbers of images and positions.

    Args:
        network: that runs, in eval mode meanwhile.
        layers: of it.
        forward: runs it on a batch.
        batches: of ``count`` images together.
        count: number of images.
        patches: most rows of a layer; one with a single position gives a row for each image in any case.
        seed: of the choice of rows.

    Raises:
        RunFailed: a layer does not run once for each image.
    """
    rows: dict[str, Tensor] = {}
    found: dict[str, list[Tensor]] = {}
    seen: dict[str, int] = {}
    images = 0

    def collect(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def ran(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            made = len(output) * layer.positions(output)
            each, rest = divmod(made, images)
            if layer.name not in rows:
                rows[layer.name] = _draw(layer.name, count, each, patches, seed).to(output.device)
            first = seen.get(layer.name, 0)
            seen[layer.name] = first + made
            if rest or first + made > count * each:
                raise RunFailed(f"layer {layer.name} does not run once for each image: its inputs cannot be sampled")
            inside = rows[layer.name]
            inside = inside[(inside >= first) & (inside < first + made)] - first
            found.setdefault(layer.name, []).append(layer.patches(args[0], output, inside))

        return ran

    handles = [layer.module.register_forward_hook(collect(layer)) for layer in layers]
    try:
        with evaluating(network):
            for x in batches:
                images = len(x)
                forward(x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _draw(name: str, images: int, positions: int, most: int, seed: int) -> Tensor:
    """Indices of rows, ascending, int64: ``image * positions + position``."""
    if positions == 1 or images * positions <= most:
        return torch.arange(images * positions)
    generator = torch.Generator().manual_seed(derive_seed(seed, "samples", name))
    return torch.randperm(images * positions, generator=generator)[:most].sort().values


def named(layers: Mapping[str, Layer], wanted: Iterable[Layer | str]) -> list[Layer]:
    """Some of ``layers``, given themselves or by name; raises RunFailed for another name."""
    names = [layer if isinstance(layer, str) else layer.name for layer in wanted]
    for name in names:
        if name not in layers:
            why = f"no layer '{name}' runs in a forward pass; there are {', '.join(layers)}"
            raise RunFailed(why, blame=METHOD)
    return [layers[name] for name in names]
