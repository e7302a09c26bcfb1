"""A recipe as a request names it: a file of recipes that are known here, and what differs from it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from bench.spec.option_text import flat
from bench.spec.recipe import Recipe, load_recipe, recipe_names

ANY_RECIPE = "digits"
"""Where the recipe is not known here, all of its values are set, so that it does not matter which one they change."""


def name_and_changes(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """Name of a recipe, and its precision with the values that differ from those of its file as it is now."""
    known = recipe.name in recipe_names()
    name = recipe.name if known else ANY_RECIPE
    there = flat(dataclasses.asdict(_loaded(name))) if known else {}
    wanted = flat(dataclasses.asdict(recipe))
    changed = {key: value for key, value in wanted.items() if key != "name" and there.get(key) != value}
    if recipe.precision != "auto":
        changed["precision"] = recipe.precision  # always, as a recipe's own may be chosen by the machine
    return name, changed


@functools.cache
def _loaded(name: str) -> Recipe:
    return load_recipe(name)
