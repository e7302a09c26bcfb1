"""A record run again: the command that makes its specification, and whether a new result is what was to be expected.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record
from bench.errors import UsageError
from bench.reproduce import T975
from bench.spec import Recipe, Spec, load_recipe, recipe_names

LIKE = "A_RECORD_WITH_THESE_WIDTHS"
"""What stands for the record that ``--like`` named: a specification keeps its widths, not where it was."""
ANY_RECIPE = "digits"
"""Where the recipe is not known here, all of its values are set, so that it does not matter which one they change."""
QUANTUM = math.sqrt(1 / 12)
"""Least standard deviation that is believed, in test images: what rounding to whole images makes."""
LEAST = 3
"""Other runs that a prediction from their spread needs."""
Z975 = 1.96

Record = Mapping[str, Any]


def words(found: Record, like: str = LIKE) -> list[str]:
    """The words after ``python -m bench`` that ask for exactly the record's specification.

    Args:
        found: a record of any status.
        like: what stands after ``--like``, for a budget of widths.

    Raises UsageError for a specification that no command makes here.
    """
    spec = Spec.from_dict(found["spec"])
    for text, prefix in ((spec.arch, "file:"), (spec.dataset, "folder:")):
        if text.startswith(prefix) and not re.search(r"#[0-9a-f]{8}$", text):  # or a record could name any file
            raise UsageError(f"{text!r}: a record names such things with the hash of their content")
    made = ["run", *_option("--method", spec.method), *_option("--arch", spec.arch)]
    made += _option("--dataset", spec.dataset)
    made += _recipe(spec.recipe)
    made += _budget(spec, found, like)
    made += _option("--coupling", spec.coupling) if spec.coupling != "inner" else []
    for key, value in spec.config.items():
        made += _option("-p", f"{key}={_text(value)}")
    return [*made, *_option("--seeds", str(spec.seed))]


def command(found: Record) -> str:
    """The same as a line for a shell; raises UsageError likewise."""
    return shlex.join(["python", "-m", "bench", *words(found)])


def _option(flag: str, value: str) -> list[str]:
    """An option with its value; one that looks like an option itself is tied to it."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _recipe(recipe: Recipe) -> list[str]:
    """The recipe by name, with what is another value than in its file as it is now."""
    known = recipe.name in recipe_names()
    name = recipe.name if known else ANY_RECIPE
    wanted = _flat(dataclasses.asdict(recipe))
    there = _flat(dataclasses.asdict(load_recipe(name))) if known else {}
    changed = {key: value for key, value in wanted.items() if key != "name" and there.get(key) != value}
    return ["--recipe", name, *(word for key, value in changed.items() for word in ("--set", f"{key}={_text(value)}"))]


def _budget(spec: Spec, found: Record, like: str) -> list[str]:
    budget = spec.budget
    if budget is None:
        prunes = found["training"] is None or "prune" in found["training"]["plan"]
        return ["--native"] if prunes else []
    shares = (("--keep-macs", budget.keep_macs), ("--keep-params", budget.keep_params))
    made = [word for flag, share in shares if share is not None for word in (flag, _text(share))]
    made += _option("--like", like) if budget.widths is not None else []
    if not made:
        raise UsageError("a budget without a share and without widths: no command asks for it")
    made += _option("--ranking", budget.ranking) if budget.ranking is not None else []
    return made + (["--min-keep", str(budget.min_keep)] if budget.min_keep != 1 else [])


def _text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


# --- what to expect ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Where final top-1 (a share) of one more run of a specification lies in 95 of 100 cases.

    Attributes:
        runs: other runs that it is made of; 0 where they were too few and it is made of the record's own value.
    """

    low: float
    high: float
    runs: int

    def holds(self, top1: float) -> bool:
        """Whether a value lies inside."""
        return self.low - 1e-12 <= top1 <= self.high + 1e-12

    def __str__(self) -> str:
        basis = (
            f"of {self.runs} other runs of the specification"
            if self.runs
            else f"of the record alone and the size of its test set (fewer than {LEAST} other runs lie beside it)"
        )
        return f"{100 * self.low:.2f} to {100 * self.high:.2f} %, {basis}"


def predict(given: Record, others: Sequence[Record]) -> Prediction:
    """The prediction interval for a new run of a finished record's specification.

    From ``LEAST`` other runs on: mean +- t(n - 1) s sqrt(1 + 1/n). With fewer: the record's value +- the error of two
    accuracies on that many test images (binomial, with Agresti and Coull's two hits and two misses added).
    """
    images, own = given["metrics"]["final"]["examples"], top1(given)
    if len(others) < LEAST:
        share = (own * images + 2) / (images + 4)
        half = Z975 * math.sqrt(2 * share * (1 - share) / images)
        return Prediction(max(own - half, 0.0), min(own + half, 1.0), 0)
    values = [top1(other) for other in others]
    n, mean = len(values), statistics.fmean(values)
    spread = max(statistics.stdev(values), QUANTUM / images)
    half = T975[min(n - 1, len(T975)) - 1] * spread * math.sqrt(1 + 1 / n)
    return Prediction(max(mean - half, 0.0), min(mean + half, 1.0), n)


def beside(path: Path, given: Record) -> list[Record]:
    """Finished runs of the same specification on the same test images with other seeds, in the folder of ``path``."""
    found: list[Record] = []
    for file in sorted(path.parent.glob(f"{given['spec_sha256'][:12]}-s*.json")):
        try:
            other = record.load(file)
        except record.RecordError:
            continue
        same = all(other[key] == given[key] for key in ("status", "spec_sha256"))
        if same and other["id"] != given["id"] and other["data"]["test_sha256"] == given["data"]["test_sha256"]:
            found.append(other)
    return found


def top1(found: Record) -> float:
    """Test accuracy of the final network, a share."""
    return float(found["metrics"]["final"]["top1"])


# --- what came out ----------------------------------------------------------------------------------------------


def measures(found: Record) -> dict[str, float | int | None]:
    """The numbers that are set side by side, by name."""
    metrics, cost = found["metrics"], found["cost"]["final"]
    pruned = metrics["pruned"]
    return {
        "final top-1 %": 100 * top1(found),
        "pruned top-1 %": None if pruned is None else 100 * pruned["top1"],
        "MACs": cost["macs"],
        "params": cost["params"],
    }


def parts_that_differ(old: Record, new: Record) -> list[str]:
    """Parts that two equal runs on one machine share to the last bit, and these two do not."""
    before, after = record.timeless(old), record.timeless(new)
    return [key for key in record.FIELDS if before.get(key) != after.get(key)]


def versions_that_differ(old: Record, new: Record) -> Iterator[str]:
    """One line for everything in ``code`` and ``environment`` that was another."""
    before, after = (_flat({key: found[key] for key in ("code", "environment")}) for found in (old, new))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: was {before.get(key)}, is {after.get(key)}"
