"""From record files to a frame: one row a record, what cannot be believed left out and named."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from bench import form, kinds, record, spec
from bench.errors import UsageError
from bench.files import write_atomic

CACHE = ".board-cache.json"
"""Beside the records, not one of them: what was read of each file last time. May be deleted at any time."""
MANY = 2000
"""Files from which on it pays to read them in several processes."""
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
    *("test_images", "dense_wrong_images", "pruned_wrong_images", "final_wrong_images"),
    *("dense_macs", "final_macs", "dense_params", "final_params"),
    *("epochs", "finetune_plan", "base_sha256", "examples_images", "training_macs", "training_seconds"),
    *("small_batch", "small_dense_ms", "small_final_ms", "small_speedup", "small_low", "small_high"),
    *("large_batch", "large_dense_ms", "large_final_ms", "large_speedup", "large_low", "large_high"),
    *("busy", "at_once"),
)
"""Columns of the frame. Units are in the names; what has none is a text, a count or a ratio."""


@dataclass(frozen=True)
class Problem:
    """A record that was left out, or that contradicts another: which file, and why, in one line."""

    file: str
    message: str


def load(path: Path | str, cache: bool = True) -> pd.DataFrame:
    """The records at or below ``path``, one row each, sorted by file; see ``COLUMNS``.

    Args:
        path: a folder of records, or one record.
        cache: read and write the file ``CACHE`` in the folder. It holds nothing that is not in the records.

    Returns:
        The frame; ``frame.attrs["problems"]`` is the tuple of :class:`Problem` and ``frame.attrs["root"]`` the
        folder that ``file`` is relative to, as text.

    Raises:
        UsageError: nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"board {path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    files = record.names(path) if path.is_dir() else [path.name]
    known = _cached(root / CACHE) if cache and path.is_dir() else {}
    stamps = {file: _stamp(os.path.join(root, file)) for file in files}
    todo = [file for file in files if known.get(file, (None,))[0] != stamps[file]]
    fresh = dict(zip(todo, _read_all(root, todo), strict=True))
    found = {file: (stamps[file], fresh[file] if file in fresh else known[file][1]) for file in files}
    if cache and path.is_dir() and (todo or len(known) != len(files)):
        _keep(root / CACHE, found)
    rows = [(file, *values) for file, (_, values) in found.items() if isinstance(values, list | tuple)]
    frame = pd.DataFrame.from_records(rows, columns=COLUMNS)
    frame.attrs["problems"] = tuple(Problem(f, values) for f, (_, values) in found.items() if isinstance(values, str))
    frame.attrs["root"] = str(root)
    return frame


def read(path: Path) -> tuple[Any, ...] | str:
    """The values of one file in the order of ``COLUMNS`` (without ``file``), or why it is not believed."""
    try:
        found = _as_written(path)
        if found is None:
            found = record.load(path)
            if not record.intact(found):
                return "tampered: its content is not what record_sha256 was made of"
        else:
            problems = record.check_form(found)
            if problems:
                return problems[0]
        return tuple(_values(found))
    except record.RecordError as error:
        return str(error).removeprefix(f"record {path}: ")
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        return f"damaged: {type(error).__name__}: {str(error)[:200]}"


def _as_written(path: Path) -> dict[str, Any] | None:
    """The record, if the file is what this suite writes, to the last sign that is no space, and its hash holds.

    The quick way for the many files that nobody touched; None says nothing but that the careful way must decide.
    Equal signs mean that no key stands there twice and that no number is out of range.
    """
    try:
        if path.stat().st_size > record.LARGEST:
            return None
        raw = path.read_bytes()
        found = orjson.loads(raw)
        text = _as_python(orjson.dumps(found, option=orjson.OPT_SORT_KEYS))
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(found, dict) or found.get("kind") != "bench.run" or found.get("schema") != record.SCHEMA:
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
    if _spec_sha256(orjson.dumps(asked | {"seed": 0}, option=orjson.OPT_SORT_KEYS)) != found["spec_sha256"]:
        raise ValueError("spec_sha256 is not the hash of the specification")
    error = found["error"] or {}
    yield from (found["id"], found["record_sha256"], found["status"])
    yield from (str(error.get("message", ""))[:500], found["clock"].get("finished_at"))
    yield from (found["schema"], asked["rules"], asked["arch"], structure.get("arch_sha256"), asked["dataset"])
    yield from (data.get("train_sha256"), data.get("test_sha256"))
    yield from (asked["recipe"]["name"], asked["recipe_sha256"], asked["coupling"], training.get("precision"))
    yield from (cost["final"]["counter"] if done else None, environment["device"], environment["device_type"])
    yield environment["threads"]
    budget = asked["budget"] or {}
    yield from (found["spec_sha256"], asked["method"], name_of(asked), asked["seed"])
    yield from _track(budget, metrics, done)
    yield from (code["commit"], code["diff_sha256"] is not None, code["method_sha256"])
    yield environment["packages"].get("torch")
    wrong = {key: _wrong(metrics[key]) for key in ("dense", "pruned", "final")} if done else {}
    yield from (metrics["final"]["examples"] if done else None, *map(wrong.get, ("dense", "pruned", "final")))
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
    yield (found["job"] or {}).get("at_once", 1)


@functools.lru_cache(maxsize=4096)
def _spec_sha256(text: bytes) -> str:
    """Hash of a specification, given as JSON: the same for all seeds, which are neighbours."""
    return spec.Spec.from_dict(orjson.loads(text)).sha256


def name_of(asked: Mapping[str, Any]) -> str:
    """Method with what was asked of it beyond its defaults, as one text: ``l1l2 share=30 ranking=layer``."""
    budget = asked["budget"] or {}
    extra = dict(sorted(asked["config"].items()))
    extra |= {"ranking": budget["ranking"]} if budget.get("ranking") else {}
    extra |= {"min_keep": budget["min_keep"]} if budget.get("min_keep", 1) != 1 else {}
    return " ".join([asked["method"], *(f"{key}={value}" for key, value in extra.items())])


def _track(budget: Mapping[str, Any], metrics: Mapping[str, Any], done: bool) -> tuple[str | None, ...]:
    """Track, what the budget is a share of, and the share."""
    if budget.get("widths") is not None:
        return "like", "like", None
    for kind in ("macs", "params"):
        if budget.get(f"keep_{kind}") is not None:
            return "matched", kind, budget[f"keep_{kind}"]
    if not done or metrics["pruned"] is not None:  # of a run that did not finish nobody knows whether it would prune
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
    return (timing["batch"], timing["dense_ms"], timing["sliced_ms"], timing["speedup"], *timing["speedup_ci95"])


def _read_all(root: Path, files: Sequence[str]) -> list[Any]:
    """What :func:`read` says of each file; of many, in processes of their own.

    They are started by name and not forked: this one may have threads, and its script may not be one to import.
    """
    if len(files) < MANY:
        return [read(root / file) for file in files]
    workers = min(2 * (os.cpu_count() or 1), 16)  # each waits for the disk as long as it reads
    size = -(-len(files) // workers)
    parts = [files[k : k + size] for k in range(0, len(files), size)]  # neighbours have the specification in common
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}

    def run(part: Sequence[str]) -> list[Any]:
        words = [sys.executable, "-m", "leaderboard.frame", str(root)]
        done = subprocess.run(words, input=orjson.dumps(part), stdout=subprocess.PIPE, env=environment, check=True)
        return list(orjson.loads(done.stdout))

    with ThreadPoolExecutor(workers) as pool:
        return [answer for answers in pool.map(run, parts) for answer in answers]


def _stamp(path: str) -> list[int]:
    """What changes when the file does: the time of change is the kernel's, so that no stored cache can pretend it."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _edition() -> str:
    """Hash of the code that reads: a cache of another edition is none."""
    files = (__file__, record.__file__, form.__file__, kinds.__file__, spec.__file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _cached(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
        return dict(found["files"]) if found["edition"] == _edition() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep(file: Path, found: Mapping[str, Any]) -> None:
    data = orjson.dumps({"edition": _edition(), "files": found})
    try:
        write_atomic(file, lambda temporary: temporary.write_bytes(data))
    except OSError:  # a folder that cannot be written to is read anew every time
        return


if __name__ == "__main__":
    base = Path(sys.argv[1])
    sys.stdout.buffer.write(orjson.dumps([read(base / file) for file in orjson.loads(sys.stdin.buffer.read())]))
