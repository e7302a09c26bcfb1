"""Records: one immutable JSON file a run. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError, RunFailed
from bench.spec import component, digest

SCHEMA = 1
STATUSES = ("ok", "failed", "diverged", "interrupted")
VOLATILE = ("clock", "latency", "memory", "job", "record_sha256")
"""Parts that differ between two equal runs: when, how fast, where."""

FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "kind": str,
    "id": str,
    "status": str,
    "spec": dict,
    "spec_sha256": str,
    "code": dict,
    "environment": dict,
    "data": (dict, type(None)),
    "training": (dict, type(None)),
    "structure": (dict, type(None)),
    "cost": (dict, type(None)),
    "metrics": (dict, type(None)),
    "curve": list,
    "artifacts": dict,
    "latency": list,
    "memory": (dict, type(None)),
    "clock": dict,
    "job": (dict, type(None)),
    "error": (dict, type(None)),
    "record_sha256": str,
}
"""Keys of a record and the types of their values; nothing may be missing, nothing else may stand there."""


class RecordError(BenchError):
    """A file that is no record of this schema (exit 1)."""


def path_of(folder: Path, spec: Any) -> Path:
    """Where the record of ``spec`` belongs under the output folder."""
    return folder / "records" / component(spec.dataset) / component(spec.arch) / spec.method / f"{spec.id}.json"


def find(folder: Path) -> Iterator[Path]:
    """Record files at or below ``folder``, sorted; superseded ones are left out."""
    if folder.is_file():
        yield folder
        return
    yield from sorted(
        f
        for f in folder.rglob("*.json")
        if "-s" in f.stem and not f.name.startswith(".") and f.parent.name not in ("superseded", "bases")
    )


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own hash."""
    body = {k: v for k, v in record.items() if k != "record_sha256"}
    return body | {"record_sha256": digest(body)}


def finite(value: Any) -> Any:
    """``value`` with null for every number in it that is not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_text(record: Mapping[str, Any]) -> str:
    """The file's text: sorted keys, numbers as they are."""
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def load(path: Path) -> dict[str, Any]:
    """Read a record and check its form; raises RecordError in one line."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"record {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"record {path}: not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("kind") != "bench.run":
        raise RecordError(f"record {path}: not a record of this suite")
    schema = record.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise RecordError(f"record {path}: schema {schema}, this is {SCHEMA}" + (": update the suite" if newer else ""))
    problems = check_form(record)
    if problems:
        raise RecordError(f"record {path}: {problems[0]}")
    return record


def check_form(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record's keys, types and bounds; empty when all is well."""
    problems = [f"'{key}' is missing" for key in FIELDS if key not in record]
    problems += [f"'{key}' does not belong there" for key in record if key not in FIELDS]
    problems += [
        f"'{key}' is {type(record[key]).__name__}"
        for key, kind in FIELDS.items()
        if key in record and not isinstance(record[key], kind)
    ]
    if problems:
        return problems
    if record["status"] not in STATUSES:
        problems.append(f"status '{record['status']}' is none of {', '.join(STATUSES)}")
    if (record["status"] == "ok") != (record["error"] is None):
        problems.append("status and error contradict each other")
    if record["status"] == "ok":
        missing = [k for k in ("data", "training", "structure", "cost", "metrics", "memory") if record[k] is None]
        problems += [f"'{key}' is null in a finished run" for key in missing]
        if not missing:
            problems += _check_bounds(record)
    return problems


def _check_bounds(record: Mapping[str, Any]) -> list[str]:
    problems = []
    try:
        for which, metrics in record["metrics"].items():
            if metrics is None:
                continue
            for key in ("top1", "top5", "ece", "worst_class_top1"):
                if not 0 <= metrics[key] <= 1:
                    problems.append(f"metrics.{which}.{key} = {metrics[key]} is not a share")
            if not (metrics["worst_class_top1"] <= metrics["top1"] <= metrics["top5"]):
                problems.append(f"metrics.{which}: worst class <= top-1 <= top-5 does not hold")
            if not (metrics["loss"] >= 0 and math.isfinite(metrics["loss"])):
                problems.append(f"metrics.{which}.loss = {metrics['loss']}")
        for key in ("macs", "params"):
            dense, final = record["cost"]["dense"][key], record["cost"]["final"][key]
            if not 0 < final <= dense:
                problems.append(f"cost: {final} {key} after, {dense} before")
        for key in ("macs", "examples", "epochs"):
            if record["training"][key] < 0:
                problems.append(f"training.{key} = {record['training'][key]}")
        budget = record["spec"]["budget"] or {}
        for key in ("macs", "params"):
            share = budget.get(f"keep_{key}")
            if share is not None and record["cost"]["final"][key] > share * record["cost"]["dense"][key] + 1e-6:
                problems.append(f"cost: more {key} than the budget of {share}")
        for site, (before, after) in record["structure"]["widths"].items():
            if not 0 < after <= before:
                problems.append(f"structure: {site} has {after} of {before} units")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"damaged near {error}")
    return problems


def timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that two equal runs share to the last bit."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


def write(path: Path, record: Mapping[str, Any], replace: bool = False) -> None:
    """Seal and write a record, atomically and once.

    An unfinished run's record (``interrupted``) is replaced, a failed one moves to ``superseded/`` beside it,
    a finished one too where ``replace`` says so.
    Raises RunFailed when a finished record is already there, OSError when the disk does not take it.
    """
    from bench.checkpoint import write_atomic

    text = to_text(seal(record))

    def put(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    if path.exists():
        old = load(path)
        if old["status"] == "ok" and not replace:
            raise RunFailed(f"record {path} is already there and stays as it is")
        if old["status"] != "interrupted":
            aside = path.parent / "superseded" / f"{path.stem}-{old['record_sha256'][:8]}.json"
            write_atomic(aside, lambda p: p.write_text(to_text(old), encoding="utf-8"))
        write_atomic(path, put)
    elif not write_atomic(path, put, exclusive=True):
        raise RunFailed(f"record {path} was written by another run meanwhile and stays as it is")
