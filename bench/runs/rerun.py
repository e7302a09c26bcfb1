"""A record run again: the command that makes its specification, and whether a new result is what was to be expected.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bench import RULES
from bench.errors import UsageError
from bench.spec.recipe import Recipe, load_recipe, recipe_names
from bench.spec.spec import Spec

LIKE = "A_RECORD_WITH_THESE_WIDTHS"
"""What stands for the record that ``--like`` named: a specification keeps its widths, not where it was."""
ANY_RECIPE = "digits"
"""Where the recipe is not known here, all of its values are set, so that it does not matter which one they change."""
OLDER_RULES = ("0.1",)
"""Rules whose specifications can still be asked for, under today's."""
RESULTS = ("data", "training", "structure", "cost", "metrics", "curve", "artifacts")
"""Parts that two equal runs share to the last bit."""
NO_RESULT = ("training.base.id", "training.base.made", "structure.arch_sha256", "structure.rejected")
"""What these parts say of how a run was made, or in words."""
TABLES = ("structure.widths", "cost.dense.macs_by_op", "cost.final.macs_by_op")
"""Tables whose keys are results, too; a key that one record lacks elsewhere was not recorded then."""
CAUSES = ("training.precision", "environment.threads", "environment.device", "environment.instructions", "spec.rules")
"""What may make other results, the likeliest first; after these the base, versions, and at last the code."""

Record = Mapping[str, Any]


def words(found: Record, like: str = LIKE) -> list[str]:
    """The words after ``python -m bench`` that ask for exactly the record's specification.

    Args:
        found: a record of any status.
        like: what stands after ``--like``, for a budget of widths.

    Raises UsageError for a specification that no command makes here.
    """
    spec = today(found)
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
    machine = found["environment"]
    made += [*_option("--seeds", str(spec.seed)), *_option("--device", machine["device_type"])]
    return [*made, "--threads", str(machine["threads"])]


def today(found: Record) -> Spec:
    """The specification that the record's command makes here: with the precision it was trained in, today's rules."""
    spec = Spec.from_dict(found["spec"])
    precision = found["training"]["precision"] if found["training"] else spec.recipe.precision
    recipe = dataclasses.replace(spec.recipe, precision=precision)
    return dataclasses.replace(spec, recipe=recipe, rules=RULES if spec.rules in OLDER_RULES else spec.rules)


def command(found: Record) -> str:
    """The same as a line for a shell; raises UsageError likewise."""
    return shlex.join(["python", "-m", "bench", *words(found)])


def made_with(found: Record) -> str:
    """What no option of the command says: the state of the suite, the rules, torch, the machine."""
    code, machine, rules = found["code"], found["environment"], found["spec"]["rules"]
    state = f"commit {code['commit'] or 'not known'}{' with local changes' if code['diff_sha256'] else ''}"
    here = "" if rules == RULES else f" (here {RULES})"
    return f"{state}, rules {rules}{here}, torch {machine['packages']['torch']}, {machine['device']}"


def _option(flag: str, value: str) -> list[str]:
    """An option with its value; one that looks like an option itself is tied to it."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _recipe(recipe: Recipe) -> list[str]:
    """The recipe by name, with its precision and what is another value than in its file as it is now."""
    known = recipe.name in recipe_names()
    name = recipe.name if known else ANY_RECIPE
    wanted = _flat(dataclasses.asdict(recipe))
    there = _flat(dataclasses.asdict(load_recipe(name))) if known else {}
    changed = {key: value for key, value in wanted.items() if key != "name" and there.get(key) != value}
    if recipe.precision != "auto":
        changed["precision"] = recipe.precision  # always, as a recipe's own may be chosen by the machine
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


# --- what came out ----------------------------------------------------------------------------------------------


def measures(found: Record) -> dict[str, float | int | None]:
    """The numbers that are set side by side, by name."""
    metrics, cost = found["metrics"], found["cost"]["final"]
    pruned = metrics["pruned"]
    return {
        "final top-1 %": 100 * found["metrics"]["final"]["top1"],
        "pruned top-1 %": None if pruned is None else 100 * pruned["top1"],
        "MACs": cost["macs"],
        "params": cost["params"],
    }


def parts_that_differ(old: Record, new: Record) -> list[str]:
    """Results that two equal runs on one machine share to the last bit, and these two do not: ``metrics.final``."""
    found = []
    for part in RESULTS:
        if not isinstance(old[part], Mapping) or not isinstance(new[part], Mapping):
            found += [part] if old[part] != new[part] else []
            continue
        keys = [key for key in old[part] if key in new[part]]
        found += [f"{part}.{key}" for key in keys if _differ(old[part][key], new[part][key], f"{part}.{key}")]
    return found


def _differ(old: Any, new: Any, where: str) -> bool:
    if where in NO_RESULT:
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping) and where not in TABLES:
        return any(_differ(old[key], new[key], f"{where}.{key}") for key in old.keys() & new.keys())
    return bool(old != new)


def versions_that_differ(old: Record, new: Record) -> Iterator[str]:
    """One line for everything about how a run was made that was another, the likeliest cause of other results first.

    The last line names what the old record does not tell.
    """
    before, after = _made(old), _made(new)
    for key in sorted(before.keys() & after.keys(), key=_likeliest):
        if before[key] != after[key]:
            yield f"{key}: was {before[key]}, is {after[key]}"
    unknown = sorted(after.keys() - before.keys(), key=_likeliest)
    if unknown:
        yield f"not recorded then: {', '.join(unknown)}"


def _made(found: Record) -> dict[str, Any]:
    """How a run was made, by dotted keys."""
    training, rules = found["training"], found["spec"]["rules"]
    known = {"training": {"precision": training["precision"]}, "spec": {"rules": rules}}
    made = _flat(known) | _flat({"base": training["base"].get("made", {})})
    made |= _flat({key: found[key] for key in ("environment", "code")})
    if rules in OLDER_RULES:
        del made["code.method_sha256"]  # was that of one file, without what it imports
    return made


def _likeliest(key: str) -> tuple[int, str]:
    early = [k for k, cause in enumerate(CAUSES) if key.startswith(cause)]
    return (early[0] if early else len(CAUSES) + key.startswith("code."), key)
