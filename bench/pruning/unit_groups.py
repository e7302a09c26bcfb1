"""The weights around a site as groups, one a unit: those that make it, those that read it, the norms between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.models.torch_state import NORMS
from bench.pruning.slicing import CONVS, OTHER_NORMS, ChannelSlice, outputs_first, part

Side = Literal["makes", "reads", "both"]
"""Which weights of a unit: those that make it, those that read it, or all of them."""
SIDES = ("makes", "reads", "both")
PARTS = ("weight", "bias", "norm", "gamma")
EPS = 1e-8
"""Its square is added to the squares of a group, so that the gradient of the group's norm is finite at zero."""


class Affine(NamedTuple):
    """What a batch norm does to the units of a site: ``gamma * (x - mean) / sqrt(var + eps) + beta``.

    Attributes:
        gamma, beta: signed, ``[n_units]``, or ``[n_units, channels]`` where a unit has several; differentiable. Ones
            and zeros where the norm has no parameters.
        mean, var: running statistics, shaped alike; None where the norm keeps none.
        eps: a number.
    """

    gamma: Tensor
    beta: Tensor
    mean: Tensor | None
    var: Tensor | None
    eps: float


class UnitGroups:
    """What a :class:`bench.pruning.sites.Site` says and changes of the weights around its units."""

    name: str
    n_units: int
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    consumers: tuple[Any, ...]
    cuts: tuple[ChannelSlice, ...]
    network: nn.Module
    rows: Callable[[], Tensor]
    _by_unit: Callable[[str, Tensor], Tensor]

    def readers(self) -> Iterator[tuple[nn.Module, ChannelSlice]]:
        """Layers whose weights have columns (axis 1) that read single units, and which ones.

        Grouped convolutions are left out, and so is what has no weight, such as a padded shortcut.
        """
        for cut in self.cuts:
            layer = part(self.network, cut.layer)
            weight, whole = getattr(layer, "weight", None), getattr(layer, "groups", 1) == 1
            if cut.side == "in" and whole and isinstance(weight, nn.Parameter) and weight.dim() > 1:
                yield layer, cut

    def reads(self) -> Tensor:
        """Weights that read each unit, ``[n_units, fan_out]`` (all readers side by side); differentiable.

        A unit that is read at several positions, as after a flattening, has the weights of all of them.
        """
        found = [next(self.network.parameters()).new_zeros(self.n_units, 0)]
        for layer, cut in self.readers():
            order = cut.positions[cut.units.argsort(stable=True)].to(found[0].device)
            columns = outputs_first(layer).index_select(1, order).unflatten(1, (self.n_units, -1))
            found.append(columns.movedim(1, 0).flatten(1))
        return torch.cat(found, dim=1)

    def group_norms(self, side: Side, p: float = 2) -> Tensor:
        """lp norm of the weights that make each unit (``makes``), read it (``reads``), or of ``both`` as one group.

        ``[n_units]``, differentiable; for p = 2 ``sqrt(sum of squares + EPS ** 2)``.
        """
        _require(side in SIDES, f"side '{side}': makes, reads or both")
        groups = {"makes": (self.rows,), "reads": (self.reads,), "both": (self.rows, self.reads)}[side]
        group = torch.cat([weights() for weights in groups], dim=1)
        if p == 2:
            return (group.square().sum(dim=1) + EPS**2).sqrt()
        return group.abs().sum(dim=1) if p == 1 else group.norm(p=p, dim=1)

    @torch.no_grad()
    def scale_(self, factors: Tensor, side: Side, parts: Collection[str] = ("weight",), strict: bool = True) -> None:
        """Multiply each unit's weights in place by its factor, without a gradient.

        Args:
            factors: ``[n_units]``, float or bool.
            side: ``makes``, ``reads`` (the columns of its readers) or ``both``.
            parts: what of the makers: ``weight``; ``bias``, also of layers that pass the units on; ``norm``, gamma
                and beta of all norms behind them; ``gamma`` alone. ``weight``, ``bias`` and ``norm`` times zero
                silence a unit whose activation function maps zero to zero.
            strict: False leaves out layers that read the units without a weight, such as a padded shortcut.

        Raises:
            RunFailed: a layer reads the units without a weight, unless not ``strict``; wrong factors, side or part.
        """
        _require(side in SIDES, f"side '{side}': makes, reads or both")
        _require(set(parts) <= set(PARTS), f"parts {tuple(parts)}: of {', '.join(PARTS)}")
        _require(tuple(factors.shape) == (self.n_units,), f"factors {list(factors.shape)}, not [{self.n_units}]")
        if side != "makes" and strict:
            _require(bool(self.consumers), f"site {self.name}: its units are blocks, which no layer reads")
        scaled = [(outputs_first(layer), cut, 1) for layer, cut in self.readers()] if side != "makes" else []
        if side != "makes" and strict and (layer := self._weightless()):
            raise RunFailed(f"{layer} reads site {self.name} and has no weight that could be scaled", blame=METHOD)
        scaled += [(tensor, cut, 0) for tensor, cut in self._of_makers(parts)] if side != "reads" else []
        for tensor, cut, axis in scaled:
            spread = tensor.new_ones(tensor.shape[axis])
            spread[cut.positions.to(tensor.device)] = factors.to(tensor)[cut.units.to(tensor.device)]
            tensor.mul_(spread.reshape(*[1] * axis, -1, *[1] * (tensor.dim() - axis - 1)))

    def fold_(self, factors: Tensor) -> None:
        """Weights take in a gate by ``factors`` ``[n_units]``: the network then computes what it did under the gate.

        Those that read the units; of blocks the norms that their branches end in. Raises RunFailed where
        :meth:`unfoldable` says why not.
        """
        self.scale_(factors, "reads")

    def unfoldable(self) -> str | None:
        """Why no gate can be folded into weights; None where one can."""
        layer = self._weightless()
        return f"{layer} reads it and has no weight that could be scaled" if layer else None

    def _weightless(self) -> str | None:
        """A layer that reads the units without a weight, such as a padded shortcut."""
        weighted = {cut.layer for _, cut in self.readers()}
        return next((tap.layer for tap in self.consumers if tap.layer not in weighted), None)

    def affine(self) -> list[Affine]:
        """Each batch norm over exactly the units of the site, in order; empty without one."""
        found = []
        for name in self.norms:
            norm = self._affine(name)
            of_units = [None if t is None else self._of_units(name, t) for t in norm[:4]]
            found.append(Affine._make([*of_units, norm.eps]))
        return found

    def _affine(self, norm: str) -> Affine:
        """What a batch norm does, channel by channel."""
        module: Any = self.network.get_submodule(norm)
        ones = next(self.network.parameters()).new_ones(module.num_features)
        gamma, beta = ones if module.weight is None else module.weight, 0 * ones if module.bias is None else module.bias
        return Affine(gamma, beta, module.running_mean, module.running_var, module.eps)

    def _of_makers(self, parts: Collection[str]) -> Iterator[tuple[Tensor, ChannelSlice]]:
        """The ``parts`` of layers that make the units or pass them on, outputs first."""
        for cut in self.cuts:
            layer = part(self.network, cut.layer)
            found: list[Tensor | None] = []
            if isinstance(layer, (*NORMS, *OTHER_NORMS)):
                found = [layer.weight] if "norm" in parts or "gamma" in parts else []
                found += [layer.bias] if "norm" in parts else []
            elif isinstance(layer, (*CONVS, nn.Linear)) and cut.side != "in":
                made = cut.layer in self.producers
                found = [outputs_first(layer)] if "weight" in parts and made else []
                found += [layer.bias] if "bias" in parts and (made or cut.side == "both") else []
            yield from ((tensor, cut) for tensor in found if tensor is not None)

    def _of_units(self, layer: str, values: Tensor) -> Tensor:
        """One number a channel of ``layer`` as ``[n_units]`` or ``[n_units, channels]``."""
        found = self._by_unit(layer, values[:, None])
        return found.squeeze(1) if found.shape[1] == 1 else found


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise RunFailed(otherwise, blame=METHOD)
