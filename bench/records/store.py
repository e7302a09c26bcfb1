"""Records: one immutable JSON file a run. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError, RunFailed
from bench.records import schema as form
from bench.records.fields import said
from bench.spec.digest import digest, path_component

SCHEMA = 1
LARGEST = 16 * 2**20
"""Most bytes of a record's file."""
FIELDS, STATUSES, check_form = form.FIELDS, form.STATUSES, form.check
VOLATILE = ("clock", "latency", "memory", "job", "record_sha256")
"""Parts that differ between two equal runs: when, how fast, where."""


class RecordError(BenchError):
    """A file that is no record of this schema (exit 1)."""


def path_of(folder: Path, spec: Any) -> Path:
    """Where the record of ``spec`` belongs under the output folder."""
    return (
        folder / "records" / path_component(spec.dataset) / path_component(spec.arch) / spec.method / f"{spec.id}.json"
    )


def find(folder: Path) -> Iterator[Path]:
    """Record files at or below ``folder``, sorted; superseded ones are left out."""
    if folder.is_file():
        yield folder
        return
    yield from (folder / name for name in names(folder))


def names(folder: Path) -> list[str]:
    """The same as paths relative to ``folder``, with ``/``; of very many files it takes a fraction of the time."""
    root, found = str(folder), []
    for parent, folders, files in os.walk(root):
        if os.path.basename(parent) in ("superseded", "bases"):
            continue
        below = parent[len(root) :].replace(os.sep, "/").strip("/")
        for file in (*files, *folders):
            if file.endswith(".json") and "-s" in file and not file.startswith("."):
                found.append(f"{below}/{file}" if below else file)
    return sorted(found, key=lambda name: name.split("/"))


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own hash."""
    body = {k: v for k, v in record.items() if k != "record_sha256"}
    return body | {"record_sha256": digest(body)}


def arithmetic(training: Mapping[str, Any]) -> str | None:
    """How a run computed: its precision, and its memory format where that is an unusual one; None without training."""
    return " ".join(training[key] for key in ("precision", "layout") if key in training) or None


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
    return parse(content(path), str(path))


def glance(path: Path) -> dict[str, Any]:
    """``status``, ``record_sha256``, ``error``, ``clock`` and ``job`` of a record, found in its text as
    :func:`to_text` writes it; the rest is neither read nor checked. Raises RecordError, as for any other text."""
    text = content(path)
    keys = ("status", "record_sha256", "error", "clock", "job")
    found = {key: part[0] for key in keys if (part := _part(text, key))}
    if text.endswith(b"\n}\n") and len(found) == len(keys) and found["status"] in STATUSES:
        return found
    whole = parse(text, str(path))
    return {key: whole[key] for key in keys}


def _part(text: bytes, key: str) -> tuple[Any] | None:
    """The value of a key of the outermost table; None where it is not found."""
    name = f'\n "{key}": '.encode()
    start = text.find(name)
    end = text.find(b'\n "', start + 1)
    if start < 0 or end < 0:
        return None
    try:
        return (json.loads(text[start + len(name) : end].rstrip(b",")),)
    except ValueError:
        return None


def content(path: Path | str) -> bytes:
    """The bytes of a record's file, with the least that the system can be asked for; raises RecordError in one line."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
        try:
            facts = os.fstat(handle)
            if facts.st_size > LARGEST:
                raise RecordError(f"record {path}: {facts.st_size:,} bytes, more than {LARGEST:,}")
            if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
                raise RecordError(f"record {path}: not a file")
            return _read(handle, facts.st_size)
        finally:
            os.close(handle)
    except OSError as error:
        raise RecordError(f"record {path}: {error.strerror}") from error


def _read(handle: int, size: int) -> bytes:
    """The first ``size`` bytes of an open file: one call may return fewer, as on network file systems."""
    found = part = os.read(handle, size)
    while part and len(found) < size:
        part = os.read(handle, size - len(found))
        found += part
    return found


def parse(written: str | bytes, name: str) -> dict[str, Any]:
    """The record in a file's text, which may be anything; raises RecordError in one line that names the file."""
    try:
        text = written if isinstance(written, str) else written.decode("utf-8")
        record = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise RecordError(f"record {name}: nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"record {name}: not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("kind") != "bench.run":
        raise RecordError(f"record {name}: not a record of this suite")
    schema = record.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        newer = isinstance(schema, int) and schema > SCHEMA
        raise RecordError(
            f"record {name}: schema {said(schema)}, this is {SCHEMA}" + (": update the suite" if newer else "")
        )
    problems = check_form(record)
    if problems:
        raise RecordError(f"record {name}: {problems[0]}")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON; raises ValueError where a key stands in it twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        most, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {said(most)} stands twice in one table")
    return made


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def intact(record: Mapping[str, Any]) -> bool:
    """Whether the record's own hash is that of the rest."""
    return bool(seal(record)["record_sha256"] == record["record_sha256"])


def timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that two equal runs share to the last bit."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


def write(path: Path, record: Mapping[str, Any], replace: bool = False) -> None:
    """Seal and write a record, atomically and once.

    An unfinished run's record (``interrupted``) is replaced, a failed one moves to ``superseded/`` beside it,
    a finished one too where ``replace`` says so.
    Raises RunFailed when a finished record is already there, OSError when the disk does not take it.
    """
    from bench.files import write_atomic

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
