"""One record file as the values of one row, or why it is not believed."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from bench.errors import METHOD, UsageError
from bench.records import store
from bench.spec.decode import decode
from bench.spec.recipe import Recipe
from bench.spec.spec import Spec
from leaderboard.reader.model import VOID

SMALL = re.compile(rb"0\.0000([1-9])(\d*)(?=[,\]}])")
SMALLER = re.compile(rb"e-([6-9])(?=[,\]}])")
"""How orjson writes numbers below 1e-4 and below 1e-5; what is hashed is Python's way."""
SPACE = b" \n\r\t"

COLUMNS = (
    *("file", "id", "record_sha256", "status", "error", "finished_at"),
    *("schema", "rules", "arch", "arch_sha256", "dataset", "train_sha256", "test_sha256", "recipe", "recipe_sha256"),
    *("coupling", "precision", "counter", "device", "device_type", "threads"),
    *("spec_sha256", "method", "name", "seed", "track", "kind", "keep_share"),
    *("code_commit", "code_changed", "method_sha256", "torch"),
    *("train_images", "test_images", "dense_wrong_images", "pruned_wrong_images", "final_wrong_images"),
    *("dense_macs", "final_macs", "dense_params", "final_params"),
    *("epochs", "finetune_plan", "base_sha256", "examples_images", "training_macs", "training_seconds"),
    *("small_batch", "small_dense_ms", "small_final_ms", "small_speedup", "small_low", "small_high"),
    *("large_batch", "large_dense_ms", "large_final_ms", "large_speedup", "large_low", "large_high"),
    *("busy", "at_once", "differs", "frozen"),
)
"""Columns of the frame. Units are in the names; what has none is a text, a count or a ratio."""
Record = Any
"""One row as a named tuple; None where it has no value."""
_Record: Any = namedtuple("Record", COLUMNS)  # type: ignore[misc]  # mypy wants to read the fields
as_record: Callable[[Iterable[Any]], Record] = _Record._make
"""The row of some values in the order of ``COLUMNS``."""


def read(path: Path | str) -> tuple[Any, ...] | str:
    """The values of one file in the order of ``COLUMNS`` (without ``file``), or why it is not believed."""
    try:
        found = _as_written(path)
        if found is None:
            found = store.load(Path(path))
            if not store.intact(found):
                return "tampered: its content is not what record_sha256 was made of"
        else:
            problems = store.check_form(found)
            if problems:
                return problems[0]
        return tuple(_values(found))
    except store.RecordError as error:
        return str(error).removeprefix(f"record {path}: ")
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        return f"damaged: {type(error).__name__}: {str(error)[:200]}"


def _as_written(path: Path | str) -> dict[str, Any] | None:
    """The record, if the file is what this suite writes, to the last sign that is no space, and its hash holds.

    The quick way for the many files that nobody touched; None says nothing but that the careful way must decide.
    Equal signs mean that no key stands there twice and that no number is out of range.
    """
    try:
        raw = store.content(path)
        found = orjson.loads(raw)
        text = _as_python(orjson.dumps(found, option=orjson.OPT_SORT_KEYS))
    except (store.RecordError, ValueError, TypeError):
        return None
    if not isinstance(found, dict) or found.get("kind") != "bench.run" or found.get("schema") != store.SCHEMA:
        return None
    if raw.translate(None, SPACE) != text.translate(None, SPACE):
        return None
    own = str(found.get("record_sha256")).encode()
    body = text.replace(b'"record_sha256":"%b",' % own, b"", 1)  # if it stood elsewhere too, the hash would not hold
    return found if hashlib.sha256(body).hexdigest().encode() == own else None


def _as_python(text: bytes) -> bytes:
    """JSON with numbers as Python writes them: ``1.5e-05`` for ``0.000015``, ``1e-06`` for ``1e-6``."""
    if b"0.0000" in text:
        text = SMALL.sub(lambda m: m[1] + (b"." + m[2] if m[2] else b"") + b"e-05", text)
    return SMALLER.sub(rb"e-0\1", text)


def _values(found: Mapping[str, Any]) -> Iterator[Any]:
    asked, code, environment = found["spec"], found["code"], found["environment"]
    done = found["status"] == "ok"
    data, training = found["data"] or {}, found["training"] or {}
    structure, cost, metrics = found["structure"] or {}, found["cost"] or {}, found["metrics"] or {}
    if _hashes(orjson.dumps(asked | {"seed": 0}, option=orjson.OPT_SORT_KEYS)) != (
        found["spec_sha256"],
        asked["recipe_sha256"],
    ):
        raise ValueError("spec_sha256 or spec.recipe_sha256 is not the hash of the specification")
    error = found["error"] or {}
    of_method = error.get("blame", METHOD) == METHOD
    status = found["status"] if of_method or found["status"] in ("ok", "interrupted") else VOID
    message = ("" if status != VOID else f"fault of the {error['blame']}: ") + str(error.get("message", ""))
    yield from (found["id"], found["record_sha256"], status)
    yield from (message[:500], found["clock"].get("finished_at"))
    yield from (found["schema"], asked["rules"], asked["arch"], structure.get("arch_sha256"), asked["dataset"])
    yield from (data.get("train_sha256"), data.get("test_sha256"))
    recipe = asked["recipe"]
    yield f"{recipe['name']} {recipe['train']['epochs']}+{recipe['finetune']['epochs']}"
    yield from (asked["recipe_sha256"], asked["coupling"], store.arithmetic(training))
    yield from (cost["final"]["counter"] if done else None, environment["device"], environment["device_type"])
    yield environment["threads"]
    budget = asked["budget"] or {}
    yield from (found["spec_sha256"], asked["method"], name_of(asked), asked["seed"])
    yield from _track(budget, training, done)
    yield from (code["commit"], code["diff_sha256"] is not None, code["method_sha256"])
    yield environment["packages"].get("torch")
    wrong = {key: _wrong(metrics[key]) for key in ("dense", "pruned", "final")} if done else {}
    yield from (data["train"] + data["val"] if data else None, data.get("test"))
    yield from map(wrong.get, ("dense", "pruned", "final"))
    for key in ("macs", "params"):
        yield from (cost[which][key] if done else None for which in ("dense", "final"))
    plan = training.get("plan", [])
    after = plan[plan.index("prune") + 1 :] if "prune" in plan else plan
    yield from (training.get("epochs"), orjson.dumps(after).decode(), _base(training))
    yield from (training.get("examples"), training.get("macs"), _seconds(found["clock"], training))
    timings = sorted((t for t in found["latency"] if t["runtime"] == "eager"), key=lambda t: t["batch"])
    for timing in (timings[0], timings[-1]) if done and timings else (None, None):
        yield from _timing(timing)
    yield any(t["load_average"] > t["threads"] + 1 for t in timings)
    job = found["job"] or {}
    yield from (job.get("at_once", 1), ", ".join(text.partition(":")[0] for text in job.get("differs", ())))
    yield bool(training.get("extras", {}).get("freeze"))


@functools.lru_cache(maxsize=4096)
def _hashes(text: bytes) -> tuple[str, str]:
    """Of a specification, given as JSON, and of its recipe: the same for all seeds, which are neighbours."""
    asked = orjson.loads(text)
    recipe = _recipe(orjson.dumps(asked["recipe"]))
    return Spec.from_dict(asked | {"recipe": recipe}).sha256, recipe.sha256


@functools.lru_cache(maxsize=256)
def _recipe(text: bytes) -> Recipe:
    found: Recipe = decode(Recipe, orjson.loads(text), "specification.recipe")
    return found


def name_of(asked: Mapping[str, Any]) -> str:
    """Method with what was asked of it beyond its defaults, as one text: ``l1l2 share=30 ranking=layer``."""
    budget = asked["budget"] or {}
    extra = dict(sorted(asked["config"].items()))
    extra |= {"ranking": budget["ranking"]} if budget.get("ranking") else {}
    extra |= {"min_keep": budget["min_keep"]} if budget.get("min_keep", 1) != 1 else {}
    return " ".join([asked["method"], *(f"{key}={value}" for key, value in extra.items())])


def _track(budget: Mapping[str, Any], training: Mapping[str, Any], done: bool) -> tuple[Any, ...]:
    """Track, what the budget is a share of, and the share."""
    if budget.get("widths") is not None:
        return "like", "like", None
    for kind in ("macs", "params"):
        if budget.get(f"keep_{kind}") is not None:
            return "matched", kind, float(budget[f"keep_{kind}"])
    if not done or "prune" in training["plan"]:  # of a run that did not finish nobody knows whether it would prune
        return "native", "native", None
    return "dense", None, None


def _wrong(metrics: Mapping[str, Any] | None) -> int | None:
    """Images that are wrong; that accuracy is a count was checked with the form."""
    return None if metrics is None else round((1 - metrics["top1"]) * metrics["examples"])


def _base(training: Mapping[str, Any]) -> str | None:
    """Hash of the dense network that training started from; None where it started from initial weights."""
    return training["base"]["sha256"] if training.get("starts_from") == "base" else None


def _seconds(clock: Mapping[str, Any], training: Mapping[str, Any]) -> float | None:
    """Seconds of training with the method's hooks, the base's included where training started from it."""
    if not training:
        return None
    parts = [clock["seconds"]]
    if training["starts_from"] == "base":
        if not clock.get("base_seconds"):
            return None
        parts.append(clock["base_seconds"])
    return sum(part["train"] + part["method"] for part in parts)


def _timing(timing: Mapping[str, Any] | None) -> tuple[Any, ...]:
    if timing is None:
        return (None,) * 6
    times = (timing["dense_ms"], timing["sliced_ms"], timing["speedup"], *timing["speedup_ci95"])
    return (timing["batch"], *map(float, times))
