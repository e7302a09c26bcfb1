"""Recipes: how a network is trained, independent of the method. Those of the suite are in ``recipes/``."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import UsageError
from bench.spec.decode import decode_with, non_default, read_toml
from bench.spec.digest import digest
from bench.spec.near_names import unknown

RECIPES = Path(__file__).parent / "recipes"
PRECISION = "fp32"
"""Of a recipe that does not say it. The class's own default is resolved before anything is hashed, so that every hash
has the precision in it."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training: epochs, peak learning rate, and how it moves.

    ``schedule``: ``constant``; ``cosine`` or ``linear`` to zero; ``step`` divides by 10 at ``drops``;
    ``onecycle`` rises from lr/25 over the first 30 % and falls to lr/250,000, both as cosines (the defaults of
    torch's OneCycleLR; momentum stays constant).
    ``drops``: shares of the steps after the warm-up, used by ``step`` only.
    ``warmup``: share of the steps over which the rate first rises linearly.
    ``patience``: end a phase when the validation loss has not fallen for so many epochs; the weights of the last
    epoch stay. 0: train all epochs.
    """

    epochs: int
    lr: float
    schedule: Literal["constant", "cosine", "linear", "step", "onecycle"] = "cosine"
    warmup: float = 0.0
    patience: int = 0
    drops: tuple[float, ...] = (0.5, 0.75)


@dataclass(frozen=True)
class Recipe:
    """Everything that training needs and a method does not choose: SGD, batch, augmentation, precision."""

    name: str
    train: Stage
    finetune: Stage
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: Literal["none", "shift", "crop_flip", "resized_crop"] = "none"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recalibrate: int = 20  # training batches that re-estimate batch norm after slicing, for every method alike
    latency_batch: int = 256  # the larger of the two batch sizes latency is measured at

    def __post_init__(self) -> None:
        for stage in (self.train, self.finetune):
            _within("epochs", stage.epochs, 0)
            _within("lr", stage.lr, 0)
            _within("warmup", stage.warmup, 0, 1)
            _within("patience", stage.patience, 0)
            for share in stage.drops:
                _within("drops", share, 0, 1)
        for name in ("batch_size", "latency_batch"):
            _within(name, getattr(self, name), 1)
        for name in ("weight_decay", "recalibrate"):
            _within(name, getattr(self, name), 0)
        for name in ("momentum", "label_smoothing"):
            _within(name, getattr(self, name), 0, 1)
        if self.nesterov and not self.momentum:
            raise UsageError("recipe: nesterov needs momentum above 0; add --set nesterov=false")

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the values that differ from this class's defaults (so that a new field renames nothing)."""
        return digest(non_default(self, skip=("name", "latency_batch")))


def recipe_names() -> list[str]:
    """Recipes that come with the suite."""
    return sorted(file.stem for file in RECIPES.glob("*.toml"))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe called ``name`` (or the TOML file at that path), with ``overrides`` such as ``train.epochs``.

    A file that does not say its precision means fp32, which every machine can repeat.
    Raises UsageError for an unknown name, key or value.
    """
    file = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not file.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"recipe {name}: no such file")
        raise unknown("recipe", name, recipe_names())
    values = read_toml(file, f"recipe {file}")
    values.pop("description", None)
    return decode_with(
        Recipe, {"name": file.stem, "precision": PRECISION, **values}, overrides or {}, f"recipe {file.stem}"
    )


def _within(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not (least <= value <= most and math.isfinite(value)):
        upper = f" and at most {most:g}" if most < math.inf else " and finite"
        raise UsageError(f"recipe: {name} = {value}: at least {least:g}{upper}")
