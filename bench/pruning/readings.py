"""What layers compute of the units of a site they read: the equations by which rows of their weights are chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.pruning.layers import Layer


def unit_squares(rows: Tensor, unit: Tensor, n_units: int | None = None) -> Tensor:
    """Squared l2 norm of the rows of each unit: rows ``[k, O]``, the unit of each ``[k]`` -> ``[n_units]``.

    Args:
        rows: of numbers.
        unit: int64.
        n_units: how many there are; None for those up to the last one that has a row.
    """
    count = int(unit.max()) + 1 if n_units is None else n_units
    return rows.new_zeros(count).index_add(0, unit, rows.square().sum(dim=1))


@dataclass(frozen=True)
class Reading:
    """What one layer computes of the units of one site: ``x @ weight``, in float64.

    Attributes:
        layer: that reads them.
        site: name of the site.
        samples: rows of all that the layer reads, ``[rows, K]``.
        columns: indices of those that read the site, int64 ``[k]``.
        unit: which unit each of these reads, int64 ``[k]``.
        n_units: of the site.
    """

    layer: Layer
    site: str
    samples: Tensor
    columns: Tensor
    unit: Tensor
    n_units: int

    @property
    def x(self) -> Tensor:
        """What is read of the site, ``[rows, k]``."""
        return self.samples[:, self.columns].double()

    @property
    def inputs(self) -> Tensor:
        """``x``, and a last column of ones where the layer's output can be shifted, ``[rows, k or k + 1]``."""
        x = self.x
        return torch.cat([x, x.new_ones(len(x), 1)], dim=1) if self.layer.shifts else x

    @property
    def weight(self) -> Tensor:
        """The weights that read it, ``[k, O]``, detached."""
        return self.layer.matrix().detach().double()[:, self.columns].T

    def norms(self, rows: Tensor) -> Tensor:
        """l2 norm of each unit's rows, such as those of ``weight``: ``[k, O] -> [n_units]``."""
        return unit_squares(rows, self.unit, self.n_units).sqrt()


def readings_of(layer: Layer, samples: Tensor) -> list[Reading]:
    """The reading of each site that a layer reads, from rows of what it reads ``[rows, K]``."""
    found = []
    for site in layer.reads:
        unit = layer.columns(site)
        columns = (unit >= 0).nonzero()[:, 0]
        found.append(Reading(layer, site, samples, columns, unit[columns], layer.sites[site].n_units))
    return found
