"""An exact cost model of widths: MACs and parameters, and what a budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bench.errors import UsageError
from bench.measure import flops
from bench.models.torch_state import NORMS
from bench.pruning.other_macs import other_macs, own_macs
from bench.pruning.sites import Sites
from bench.pruning.slicing import CONVS, OTHER_NORMS, channels
from bench.spec.spec import Budget


class CostModel:
    """MACs and parameters of a network as an exact function of its sites' widths.

    Every layer costs ``a * in * out + b * out`` where ``in`` and ``out`` are linear in the widths. The constants
    come from one fvcore count of the dense network, so the model and fvcore agree to the last MAC.

    Args:
        network: the dense network.
        sites: its sites.
        shape: shape of one input.
    """

    def __init__(self, network: nn.Module, sites: Sites, shape: tuple[int, ...]) -> None:
        self.names, self.shape = list(sites), tuple(shape)
        self.dense = np.array([sites[n].n_units for n in self.names], dtype=np.int64)
        column = {name: k for k, name in enumerate(self.names)}
        counted = flops.count(network, shape)
        layers: dict[str, dict[str, NDArray[np.int64]]] = {}
        for name, site in sites.items():
            for cut in site.cuts:
                per_unit = layers.setdefault(cut.layer, {}).setdefault(cut.side, np.zeros_like(self.dense))
                per_unit[column[name]] += len(cut.positions) // site.n_units
        none = np.zeros_like(self.dense)
        rows = []  # fixed and per-unit channels in and out; MACs and params per in*out; MACs and params per out
        modelled = 0
        for layer, sides in layers.items():
            module = network.get_submodule(layer)
            macs = sum(counted.by_module.get(layer, {}).values())
            n_in, n_out = channels(module)
            params = {n: p.numel() for n, p in module.named_parameters(recurse=False)}
            per_in, per_out = sides.get("in", none), sides.get("out", sides.get("both", none))
            # What passes through (batch norm, depthwise) costs per channel; what mixes channels costs per pair.
            pairs = isinstance(module, (*CONVS, nn.Linear)) and "both" not in sides
            weight = params.pop("weight", 0)
            rows.append(
                (
                    n_in - per_in @ self.dense,
                    n_out - per_out @ self.dense,
                    per_in,
                    per_out,
                    *((macs // (n_in * n_out), weight // (n_in * n_out), 0) if pairs else (0, 0, macs // n_out)),
                    (sum(params.values()) + (0 if pairs else weight)) // n_out,
                )
            )
            modelled += macs
        fixed_in, fixed_out, per_in_, per_out_, *costs = zip(*rows)
        self.fixed_in, self.fixed_out = np.array(fixed_in), np.array(fixed_out)
        self.per_in, self.per_out = np.array(per_in_), np.array(per_out_)
        self.macs_pair, self.params_pair, self.macs_out, self.params_out = (np.array(c) for c in costs)
        self._other = np.zeros_like(self.dense)
        self._rest_macs = counted.total - modelled
        self._rows = {layer: row for row, layer in enumerate(layers)}
        self._own_macs = own_macs(counted)
        self._layers = {
            n for n, m in network.named_modules() if isinstance(m, (*CONVS, nn.Linear, *NORMS, *OTHER_NORMS))
        }
        if self._rest_macs:
            self._other = other_macs(network, sites, shape, self.dense, counted)
        self._rest_macs -= int(self._other @ self.dense)
        self._rest_params = 0
        self._rest_params = flops.parameters(network) - self.params(self.dense)

    def array(self, widths: Mapping[str, int]) -> NDArray[np.int64]:
        """Widths in this model's order."""
        return np.array([widths[n] for n in self.names], dtype=np.int64)

    def macs(self, widths: NDArray[np.int64]) -> int:
        """MACs of the network sliced to ``widths``, as fvcore counts them."""
        return int(self._macs(widths))

    def widths_of(self, network: nn.Module) -> NDArray[np.int64]:
        """Widths of a slice of the dense network, read off the layers that make the units."""
        widths = self.dense.copy()
        for k, name in enumerate(self.names):
            row = self._rows[name]
            made = channels(network.get_submodule(name))[1] - self.fixed_out[row]
            widths[k] = made // self.per_out[row, k]
        return widths

    def macs_within(self, modules: Iterable[str], widths: NDArray[np.int64]) -> int:
        """MACs of these modules (dotted names) and what is inside them, as part of the network at ``widths``.

        Once units are gone, operators that belong to no layer, such as pooling, are left out.
        """
        inside = tuple(modules)
        n_in, n_out = self._channels(widths)
        macs = self.macs_pair * (n_in * n_out) + self.macs_out * n_out
        whole = np.array_equal(widths, self.dense)
        return sum(
            int(macs[self._rows[name]]) if name in self._rows else own
            for name, own in self._own_macs.items()
            if any(name == module or name.startswith(f"{module}.") for module in inside)
            and (whole or name in self._layers)
        )

    def params(self, widths: NDArray[np.int64]) -> int:
        """Parameters of the network sliced to ``widths``."""
        return int(self._params(widths))

    def cost(self, budget: Budget, widths: NDArray[np.int64]) -> int:
        """The quantity that ``budget`` limits."""
        return int(self.costs(budget, widths))

    def costs(self, budget: Budget, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The quantity that ``budget`` limits, for widths ``[..., sites]``."""
        return self._params(widths) if budget.keep_params is not None else self._macs(widths)

    def allowed(self, budget: Budget) -> int:
        """Most that ``budget`` lets the sliced network cost."""
        if budget.widths is not None:
            return self.macs(self._asked(budget.widths))
        return int(budget.keep * self.cost(budget, self.dense) + 1e-6)

    def meets(self, budget: Budget, widths: NDArray[np.int64]) -> bool:
        """Whether a network of these widths is within the budget: in every site where that is one of widths."""
        if budget.widths is not None:
            return bool((widths <= self._asked(budget.widths)).all())
        return self.cost(budget, widths) <= self.allowed(budget)

    def floors(self, budget: Budget) -> NDArray[np.int64]:
        """Units that every site keeps in any case."""
        return np.minimum(self.dense, budget.min_keep if budget.widths is None else self._asked(budget.widths))

    def require(self, budget: Budget) -> None:
        """Raise UsageError when ``min_keep`` units in every site already cost more than the budget."""
        if budget.widths is not None and (
            len(budget.widths) != len(self.dense)
            or any(not 1 <= w <= most for w, most in zip(self._asked(budget.widths), self.dense, strict=True))
        ):
            most = self.dense[np.argsort(self._by_name)]
            raise UsageError(f"budget {budget}: this network's sites have {'-'.join(map(str, most))} units")
        if budget.widths is not None and any(np.minimum(self.dense, budget.min_keep) > self._asked(budget.widths)):
            raise UsageError(f"budget {budget} cannot be met: it leaves a site less than {budget.min_keep} units")
        least = self.cost(budget, np.minimum(self.dense, budget.min_keep))
        if least > self.allowed(budget):
            share = least / self.cost(budget, self.dense)
            raise UsageError(
                f"budget {budget} cannot be met: {budget.min_keep} unit(s) in each of the "
                f"{len(self.names)} sites already cost {share:.4f}; ask for more, or use --coupling full"
            )

    @property
    def _by_name(self) -> NDArray[np.int64]:
        """Place of each site in the order of the names, in which records and budgets list widths."""
        return np.argsort(np.array(sorted(range(len(self.names)), key=self.names.__getitem__), dtype=np.int64))

    def _asked(self, widths: tuple[int, ...]) -> NDArray[np.int64]:
        """The widths of a budget in this model's order."""
        return np.array(widths, dtype=np.int64)[self._by_name]

    def _macs(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        n_in, n_out = self._channels(widths)
        return (n_in * n_out) @ self.macs_pair + n_out @ self.macs_out + widths @ self._other + self._rest_macs

    def _params(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        n_in, n_out = self._channels(widths)
        return (n_in * n_out) @ self.params_pair + n_out @ self.params_out + self._rest_params

    def _channels(self, widths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.fixed_in + widths @ self.per_in.T, self.fixed_out + widths @ self.per_out.T
