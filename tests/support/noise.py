"""Values of rows at seeds, as statistics take them."""

import numpy as np


def noise(rows, seeds, scale=1.0, start=0):
    rng = np.random.default_rng(start)
    return rng.normal(0, 3, seeds) + rng.normal(0, scale, (rows, seeds)) * rng.uniform(0.5, 2, (rows, 1))
