"""Scores and masks, by the name of the site."""

from collections.abc import Mapping

from torch import Tensor

Scores = Mapping[str, Tensor]
"""Site -> float ``[n_units]``; larger is more worth keeping; finite."""
Masks = Mapping[str, Tensor]
"""Site -> bool ``[n_units]``; True keeps."""
