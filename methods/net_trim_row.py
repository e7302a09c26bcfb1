"""net_trim_row: the fewest rows of each reader that keep its response, as a convex program.

Our structured variant of Net-Trim; see docs/methods/net_trim_row.md.
"""

from dataclasses import dataclass

import torch

from bench.api import method, require_ranges, unit_squares
from methods.papers import AGHASI2017
from methods.refit import Refit, ridge


def row_admm(x, w, group, gain, rho, iterations):
    """``min sum_i ||U_i|| / ||W_i||`` over U with ``||X U - X W|| <= gain ||X W||``, by ADMM; U_i: the rows of unit i.

    Args:
        x: inputs ``[rows, k]``; further columns, such as one of ones, have rows that start at 0 and cost nothing.
        w: W ``[k, O]``.
        group: unit of each row of W, ``[k]``.
        gain: largest error, as a share of the response.
        rho: penalty of the augmented Lagrangian.
        iterations: steps.

    Returns:
        U, with a row for each column of ``x``: exactly zero in the rows of units that go.
    """
    k, free = len(w), w.new_ones(x.shape[1] - len(w), 1)
    size = torch.cat([unit_squares(w, group).sqrt().clamp(min=1e-12)[group][:, None], free])
    r = torch.linalg.qr(x, mode="r").R * size.T  # ||X A|| = ||R A||; in V_i = U_i / ||W_i|| all units cost the same
    r = r / (0.3 * r.square().sum(dim=0).max().sqrt()).clamp(min=1e-30)
    v = torch.cat([w, 0 * free * w[:1]]) / size
    target, sparse, dual, dual2 = r @ v, v, torch.zeros_like(r @ v), torch.zeros_like(v)
    inverse = torch.linalg.inv(r.T @ r + torch.eye(len(v)).to(r))
    for _ in range(iterations):
        sparse = v - dual2
        shrink = (1 - 1 / (rho * unit_squares(sparse[:k], group).sqrt().clamp(min=1e-30))).clamp(min=0)
        sparse = torch.cat([sparse[:k] * shrink[group][:, None], sparse[k:]])
        away = r @ v - dual - target
        near = target + away * (gain * target.norm() / away.norm().clamp(min=1e-30)).clamp(max=1)
        v = inverse @ (r.T @ (near + dual) + sparse + dual2)
        dual, dual2 = dual + near - r @ v, dual2 + sparse - v
    return sparse * size


@method("net_trim_row", paper=AGHASI2017)
class NetTrimRow(Refit):
    """Keep the units that the sparsest equivalent next layer still reads, refit it (after Aghasi et al. 2017)."""

    compensation = "weights"
    native = True

    @dataclass(frozen=True)
    class Config(Refit.Config):
        """Options."""

        gain: float = 0.05  # largest error of a response, as a share of it (code)
        rho: float = 1.0  # penalty of ADMM (code)
        iterations: int = 100  # of ADMM (ours)

        def __post_init__(self):
            super().__post_init__()
            require_ranges(self, gain="[0, 1)", rho="(0, inf)", iterations="[1, inf)")

    def scores(self, ctx):
        """Norm of each unit's rows in the solution as a share of what it was, summed over readers; 0 where it goes."""
        readings = ctx.readings(self.config.images, self.config.patches)
        return {site: sum(map(self.left, each)) for site, each in readings.items()}

    def left(self, reading):
        """Norm of each unit's rows in the solution of one reader as a share of what it was."""
        c, w = self.config, reading.weight
        rows = row_admm(reading.inputs, w, reading.unit, c.gain, c.rho, c.iterations)[: len(w)]
        return reading.norms(rows) / reading.norms(w).clamp(min=1e-12)

    def select(self, ctx, budget):
        """The best within the budget; in the native track all that a reader still reads, at least one."""
        return ctx.rank(self.scores(ctx), "layer", above=0.0)

    def solve(self, x, missing, weight):
        """Least squares on the rows that stay: it meets the program's constraint wherever they can."""
        return ridge(x, missing, weight.shape[1], 1e-6)
