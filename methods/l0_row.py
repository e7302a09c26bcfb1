"""l0_row: the rows of each reader that reproduce its response best, found by iterative hard thresholding.

Our structured variant of l0-constrained pruning, layer by layer; see docs/methods/l0_row.md.
"""

from dataclasses import dataclass

import torch

from bench.api import method, require_ranges, unit_squares
from methods.papers import PHAN2020
from methods.refit import Refit, ridge


def iht_row(problems, kept, iterations):
    """Units whose readers respond as before: ``min 1/2 sum ||X (U - W)||^2`` with ``kept`` units that are not 0.

    Projected gradient with step ``1 / ||X^T X||_2``, from the largest rows of W: the objective never rises.

    Args:
        problems: of each reader ``X^T X`` ``[k, k]``, W ``[k, O]`` and the unit of each row ``[k]``.
        kept: number of units.
        iterations: steps.

    Returns:
        mask ``[n_units]``, and the rows of each reader, 0 where they go.
    """

    def project(rows):
        sizes = sum(unit_squares(u, unit, n) for u, (_, _, unit) in zip(rows, problems))
        mask = torch.zeros(n, dtype=torch.bool, device=sizes.device).index_fill(0, sizes.topk(kept).indices, True)
        return mask, [u * mask[unit, None] for u, (_, _, unit) in zip(rows, problems)]

    n = int(max(unit.max() for _, _, unit in problems)) + 1
    step = 1 / max(float(torch.linalg.matrix_norm(gram, 2)) for gram, _, _ in problems)
    mask, rows = project([w for _, w, _ in problems])
    for _ in range(iterations):
        mask, rows = project([u - step * gram @ (u - w) for u, (gram, w, _) in zip(rows, problems)])
    return mask, rows


@method("l0_row", paper=PHAN2020)
class L0Row(Refit):
    """Keep the units whose rows in the next layer reproduce its response, refit these (after Phan et al. 2020)."""

    compensation = "weights"

    @dataclass(frozen=True)
    class Config(Refit.Config):
        """Options."""

        iterations: int = 50  # of hard thresholding (ours)
        ridge: float = 1e-6  # of the refit on what is kept, see refit_ridge (ours)

        def __post_init__(self):
            super().__post_init__()
            require_ranges(self, iterations="[1, inf)", ridge="[0, inf)")

    def select(self, ctx, budget):
        """As many units of each site as equal shares within the budget leave."""
        kept, masks = ctx.equal_widths(), {}
        for site, readings in ctx.readings(self.config.images, self.config.patches).items():
            problems = [(r.x.T @ r.x, r.weight, r.unit) for r in readings]
            masks[site], _ = iht_row(problems, kept[site], self.config.iterations)
        return masks

    def solve(self, x, missing, weight):
        """Least squares on the rows that stay, centred at the present ones."""
        return ridge(x, missing, weight.shape[1], self.config.ridge)
