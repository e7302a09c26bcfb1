"""Intervals of a difference over other seeds and other test images, from which images each run gets right.

For boards where all seeds are tested on the same images. Where each seed has its own, the interval over seeds holds
the images already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from leaderboard.reader.model import ALPHA


@dataclass(frozen=True)
class ImageInterval:
    """Mean difference in share of images, its standard error over seeds and images, degrees of freedom."""

    mean: float
    error: float
    freedom: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return float(stdtrit(self.freedom, 1 - ALPHA / 2)) * self.error


def image_interval(
    row: ArrayLike, reference: ArrayLike, variance: float | None = None, freedom: float | None = None
) -> ImageInterval:
    """Two-way analysis of variance over seeds and images, both random, one value a cell.

    With mean squares MS: Var = (MS_seed + MS_image - MS_residual) / (S N), not below MS_seed / (S N) and
    MS_image / (S N); degrees of freedom by Satterthwaite 1946, at least S - 1. The crossed bootstrap counts the
    residual about three times (Owen 2007, https://doi.org/10.1214/07-AOAS122).

    Args:
        row, reference: ``[seeds, images]``, whether an image is right, the same images in each seed; 2 or more of each.
        variance: of the difference over seeds as it is believed (``Contrasts.deviation ** 2``), in shares squared;
            None: that of these seeds.
        freedom: its degrees of freedom; None: seeds - 1.
    """
    d = np.asarray(row, dtype=np.int8) - np.asarray(reference, dtype=np.int8)
    seeds, images = d.shape
    over_seeds, over_images = d.mean(axis=1), d.sum(axis=0) / seeds
    mean = float(over_seeds.mean())
    total = float(np.count_nonzero(d)) - seeds * images * mean**2
    from_seeds = images * float(((over_seeds - mean) ** 2).sum())
    from_images = seeds * float(((over_images - mean) ** 2).sum())
    image = from_images / (images - 1)
    residual = max(total - from_seeds - from_images, 0.0) / ((seeds - 1) * (images - 1))
    seed = from_seeds / (seeds - 1) if variance is None else images * variance
    seed_freedom = seeds - 1.0 if freedom is None else freedom
    mine, other = (seed, seed_freedom), (image, images - 1.0)
    both = [mine, other, (-residual, (seeds - 1.0) * (images - 1.0))]
    terms = max((both, [mine], [other]), key=lambda terms: sum(square for square, _ in terms))
    value = sum(square for square, _ in terms)
    if value == 0:
        return ImageInterval(mean, 0.0, seeds - 1.0)
    degrees = value**2 / sum(square**2 / own for square, own in terms)
    return ImageInterval(mean, math.sqrt(value / (seeds * images)), max(degrees, seeds - 1.0))


def refit_factor(folds: int) -> float:
    """How much wider an interval over rotating folds is once training sets overlap (Nadeau and Bengio 2003, eq. 9).

    The folds are test sets of 1/folds of the images, the others train.
    """
    return math.sqrt((1 / folds + 1 / (folds - 1)) * folds)
