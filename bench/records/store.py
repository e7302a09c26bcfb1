"""Records: one immutable line of JSON a run, in a file of its own or in a pack. Needs no torch."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import BenchError, RunFailed, UsageError
from bench.records import pack, schema
from bench.records.consistency import OLD, OLD_RULES, contradictions
from bench.records.schema import FORMAT_VERSION, Record
from bench.records.values import explained, hidden, printable, said
from bench.spec.digest import path_component
from bench.spec.spec import Spec

LARGEST = 16 * 2**20
"""Most bytes of a record."""
VOLATILE = ("clock", "memory", "job", "plan_sha256", "replay_of", "record_sha256")
"""Parts that differ between two equal runs: when, how fast, where, what for."""
HASH = b',"record_sha256":"'
TAIL = len(HASH) + 64 + len(b'"}')
_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Record)


class RecordError(BenchError):
    """A file or line that is not a record of this schema (exit 1)."""


# --- names and places -------------------------------------------------------------------------------------------


def path_of(folder: Path, spec: Spec) -> Path:
    """Where the record of ``spec`` belongs under the output folder."""
    return (
        folder / "records" / path_component(spec.dataset) / path_component(spec.arch) / spec.method / f"{spec.id}.json"
    )


def find(folder: Path) -> Iterator[Path]:
    """Records at or below ``folder``, sorted; superseded ones are left out. Those of a pack are ``PACK#ID``."""
    if folder.is_file():
        yield from (Path(f"{folder}#{name}") for name in pack.names(folder)) if pack.is_pack(folder) else [folder]
        return
    for name in names(folder):
        yield from find(folder / name) if pack.is_pack(name) else [folder / name]


def names(folder: Path) -> list[str]:
    """Files of records and packs as paths relative to ``folder``, with ``/``; a fraction of the time of a glob."""
    root, found = str(folder), []
    for parent, folders, files in os.walk(root):
        if os.path.basename(parent) in ("superseded", "bases"):
            continue
        below = parent[len(root) :].replace(os.sep, "/").strip("/")
        for file in (*files, *folders):
            if not file.startswith(".") and (pack.is_pack(file) or (file.endswith(".json") and "-s" in file)):
                found.append(f"{below}/{file}" if below else file)
    return sorted(found, key=lambda name: name.split("/"))


def neighbours(path: Path) -> list[Path]:
    """Records in the folder or pack of the record ``path``, sorted."""
    file, name = pack.split(path)
    return list(find(file)) if name else sorted(path.parent.glob("*-s*.json"))


def id_of(path: Path) -> str:
    """Id of the run whose record ``path`` names, a file or ``PACK#ID``."""
    return pack.split(path)[1] or path.stem


# --- reading ----------------------------------------------------------------------------------------------------


def load(path: Path | str) -> Record:
    """The record in a file, or in a pack as ``PACK#ID``; raises RecordError in one line."""
    return decode(line_of(path), str(path))


def line_of(path: Path | str) -> bytes:
    """The line of a record as it was written; raises RecordError in one line."""
    file, name = pack.split(path)
    if not name:
        return content(path)
    try:
        return pack.line(file, name)
    except (OSError, EOFError, KeyError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error.args[0] if error.args else error)
        raise RecordError(f"record {path}: {why}") from error


def content(path: Path | str) -> bytes:
    """The bytes of a record's file; raises RecordError in one line."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
        try:
            facts = os.fstat(handle)
            if facts.st_size > LARGEST:
                raise RecordError(f"record {path}: {facts.st_size:,} bytes, more than {LARGEST:,}")
            if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
                raise RecordError(f"record {path}: not a file")
            found = part = os.read(handle, facts.st_size)
            while part and len(found) < facts.st_size:  # one call may return fewer, as on network file systems
                part = os.read(handle, facts.st_size - len(found))
                found += part
            return found
        finally:
            os.close(handle)
    except OSError as error:
        raise RecordError(f"record {path}: {error.strerror}") from error


def decode(line: bytes, name: str) -> Record:
    """The record in a line, which may be anything; raises RecordError in one line that starts with ``record NAME``.

    The line's hash, its spelling (``encode`` makes the same bytes), the fields, and the rules between them all hold.
    """
    body = line[: -TAIL - 1] + b"}"
    own = line[-TAIL - 1 :]
    try:
        if not (own.startswith(HASH) and own.endswith(b'"}\n')):
            raise RecordError(_not_a_line(line))
        if hashlib.sha256(body).hexdigest().encode() != own[len(HASH) : -3]:
            raise RecordError(_not_a_line(line, "its content is not what record_sha256 was made of"))
        record = _DECODER.decode(body)
        again = _ENCODER.encode(record)
        if record.record_sha256 or again != body:
            raise RecordError(
                "the key 'record_sha256' appears twice" if record.record_sha256 else _spelling(body, again)
            )
        plain = body.isascii() and b"\\" not in body and b"\x7f" not in body  # then every text is printable ASCII
        for problem in contradictions(record) if plain else chain(hidden(json.loads(body)), contradictions(record)):
            raise RecordError(problem)
    except RecordError as error:
        raise RecordError(f"record {name}: {error}") from None
    except msgspec.ValidationError as error:
        raise RecordError(f"record {name}: {_not_a_line(line, _field(str(error), body))}") from None
    except (msgspec.MsgspecError, UsageError, ValueError, RecursionError) as error:
        raise RecordError(f"record {name}: {_not_a_line(line, printable(str(error)))}") from None
    return msgspec.structs.replace(record, record_sha256=own[len(HASH) : -3].decode())


def _not_a_line(
    line: bytes, otherwise: str = "not one line of JSON with record_sha256 last, as a run writes it"
) -> str:
    """Why bytes are not the line of a record, by their kind and version first."""
    try:
        found = msgspec.json.decode(line)
    except RecursionError:
        return "nested too deeply"
    except (msgspec.MsgspecError, ValueError) as error:
        return f"not JSON ({printable(str(error))})"
    if not isinstance(found, dict) or found.get("kind") != "bench.run":
        return "not a record of this suite"
    number = found.get("schema")
    if type(number) is not int or number > FORMAT_VERSION:
        newer = ": update the suite" if type(number) is int else ""
        return f"schema {said(number)}, this is {FORMAT_VERSION}{newer}"
    if number < FORMAT_VERSION:
        return f"schema {said(number)}, {OLD}" if number == 1 else f"schema {said(number)}, this is {FORMAT_VERSION}"
    rules = found["spec"].get("rules") if isinstance(found.get("spec"), dict) else None
    return f"rules {rules}, {OLD}" if rules in OLD_RULES else otherwise


def _field(message: str, body: bytes) -> str:
    """A message of msgspec with the field first, its value, and near names for an unknown field."""
    what, _, where = message.partition(" - at `")
    field = printable(where.rstrip("`").removeprefix("$").removeprefix(".") or "the record")
    if found := re.search("unknown field `(.*)`", what, re.DOTALL):
        near = difflib.get_close_matches(found[1], _field_names(), 1)
        return f"{field} has an unknown field {said(found[1])}" + (f"; did you mean '{near[0]}'?" if near else "")
    if found := re.search("missing required field `(.*)`", what):
        return f"{field}: '{found[1]}' is missing"
    try:
        value = json.loads(body)
        for key, place in re.findall(r"(\w+)|\[(\d*)\]", field):
            value = value[key] if key else value[int(place)]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return f"{field}: {explained(what)}"
    return f"{field} is {said(value)}: {explained(what)}"


@functools.cache
def _field_names() -> list[str]:
    parts = [part for part in vars(schema).values() if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    return sorted({name for part in parts for name in part.__struct_fields__})


def _spelling(body: bytes, again: bytes) -> str:
    """Where a line differs from what :func:`encode` makes of its own content."""
    k = next((k for k, (a, b) in enumerate(zip(body, again, strict=False)) if a != b), min(len(body), len(again)))
    there = printable(body[max(k - 30, 0) : k + 30].decode(errors="replace"))
    return f"not written as a run writes it, near {there}: an unknown or doubled key, the order, or a number's digits"


# --- writing ----------------------------------------------------------------------------------------------------


def seal(record: Record) -> Record:
    """The record as it is read after it was written, with its hash; raises RecordError where it cannot be read."""
    return decode(encode(record), record.id)


def encode(record: Record) -> bytes:
    """The record's line: sorted keys, no spaces, exact numbers (null where not finite), the hash last."""
    body = _ENCODER.encode(msgspec.structs.replace(record, record_sha256=""))
    with suppress(msgspec.MsgspecError):  # reading says why
        body = _ENCODER.encode(_DECODER.decode(body))  # whole numbers in places of floats
    return b'%b%b%b"}\n' % (body[:-1], HASH, hashlib.sha256(body).hexdigest().encode())


def as_table(record: Record) -> dict[str, Any]:
    """The record as JSON holds it."""
    return dict(msgspec.json.decode(encode(record)))


def write(path: Path, record: Record, replace: bool = False) -> Record:
    """Seal and write a record, atomically and once; returns it with its hash.

    An unfinished run's record (``interrupted``) is replaced, a failed one moves to ``superseded/`` next to it,
    a finished one too where ``replace`` says so.
    Raises RunFailed when a finished record is already there, RecordError when this one cannot be read, OSError when
    the disk does not take it.
    """
    from bench.files import write_atomic

    record = seal(record)
    text = encode(record)

    def put(temporary: Path) -> None:
        temporary.write_bytes(text)

    if path.exists():
        old = load(path)
        if old.status == "ok" and not replace:
            raise RunFailed(f"record {path} is already there and stays as it is")
        if old.status != "interrupted":
            aside = path.parent / "superseded" / f"{path.stem}-{old.record_sha256[:8]}.json"
            write_atomic(aside, lambda p: p.write_bytes(encode(old)))
        write_atomic(path, put)
    elif not write_atomic(path, put, exclusive=True):
        raise RunFailed(f"record {path} was written by another run meanwhile and stays as it is")
    return record


# --- views ------------------------------------------------------------------------------------------------------


def without_timing(record: Record) -> Mapping[str, Any]:
    """The part of a record that two equal runs share to the last bit."""
    return {key: getattr(record, key) for key in record.__struct_fields__ if key not in VOLATILE}


def arithmetic(training: schema.Training | None) -> str | None:
    """How a run computed: its precision, and its memory format where that is an unusual one; None without training."""
    if training is None:
        return None
    return f"{training.precision} {training.layout}" if training.layout else training.precision
