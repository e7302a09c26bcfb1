"""Files of latencies: one a device, a line of JSON a key, the samples in a second file next to it. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.errors import RunFailed
from bench.files import write_atomic
from bench.records import pack, store
from bench.records.latency import (
    LEAST_ROUNDS,
    Key,
    Line,
    Samples,
    Times,
    close,
    contradictions,
    samples_sha256,
    times_of,
)
from bench.records.store import RecordError
from bench.records.values import explained, hidden, printable, said
from bench.spec.digest import path_component

SUFFIX, SAMPLES = ".jsonl", ".samples.gz"
_HASH = b',"line_sha256":"'
_TAIL = len(_HASH) + 64 + len(b'"}\n')
_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Line)


@dataclass(frozen=True)
class Problem:
    """A line that is not believed: its number in the file, from 1 (0: the file), and why."""

    line: int
    message: str


def path_of(folder: Path, device: str) -> Path:
    """The file of a device."""
    return folder / f"{path_component(device).strip('-')}{SUFFIX}"


def encode(line: Line) -> bytes:
    """The bytes of a line: sorted keys, no spaces, its hash last."""
    body = _ENCODER.encode(msgspec.structs.replace(line, line_sha256=""))
    return b'%b%b%b"}\n' % (body[:-1], _HASH, hashlib.sha256(body).hexdigest().encode())


def decode(text: bytes) -> Line:
    """The line in some bytes, which may be anything; raises RecordError with what is wrong."""
    body, own = text[:-_TAIL] + b"}", text[-_TAIL:]
    if not (own.startswith(_HASH) and own.endswith(b'"}\n')):
        raise RecordError("not one line of JSON with line_sha256 last, as bench latency writes it")
    if hashlib.sha256(body).hexdigest().encode() != own[len(_HASH) : -3]:
        raise RecordError("its content is not what line_sha256 was made of")
    try:
        line = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        what, _, where = str(error).partition(" - at `$.")
        raise RecordError((f"{printable(where[:-1])}: " if where else "") + explained(what)) from error
    if line.line_sha256 or _ENCODER.encode(line) != body:
        raise RecordError("not written as bench latency writes it: a doubled key, the order, or a number's digits")
    for problem in (*hidden(json.loads(body)), *contradictions(line)):
        raise RecordError(problem)
    return msgspec.structs.replace(line, line_sha256=own[len(_HASH) : -3].decode())


def read(file: Path) -> tuple[dict[Key, Line], list[Problem]]:
    """The lines of a file that are believed, and the others; of two of one key, or of the same samples, none is."""
    found: dict[Key, tuple[int, Line]] = {}
    owners: dict[str, Key] = {}
    problems: list[Problem] = []
    doubled: set[Key] = set()
    try:
        content = store.content(file)
    except RecordError as error:
        return {}, [Problem(0, str(error).removeprefix(f"record {file}: "))]
    for number, text in enumerate(content.splitlines(keepends=True), 1):
        try:
            line = decode(text)
        except RecordError as error:
            problems.append(Problem(number, str(error)))
            continue
        if path_of(file.parent, line.key.device) != file:
            problems.append(Problem(number, f"is of the device {said(line.key.device)}, another one than the file"))
        elif line.key in found:
            problems.append(Problem(number, f"has the key of line {found[line.key][0]}: neither counts"))
            doubled.add(line.key)
        elif (other := owners.get(line.times.samples_sha256)) is not None:
            problems.append(Problem(number, f"has the samples of line {found[other][0]}: neither counts"))
            doubled |= {line.key, other}
        else:
            found[line.key], owners[line.times.samples_sha256] = (number, line), line.key
    return {key: line for key, (_, line) in found.items() if key not in doubled}, problems


def read_samples(file: Path) -> dict[str, Samples]:
    """The samples that belong to a file of lines, by their hash; raises RecordError where they are damaged."""
    path = file.with_name(file.name.removesuffix(SUFFIX) + SAMPLES)
    if not path.exists():
        return {}
    try:
        texts = [text.rstrip(b"\n") for _, text in pack.lines(path)]
        return {hashlib.sha256(text).hexdigest(): msgspec.json.decode(text, type=Samples) for text in texts}
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {printable(str(error))}") from error


def add(file: Path, lines: Iterable[Line], samples: Iterable[Samples]) -> None:
    """Add lines and samples to a file and its neighbour, first the samples; a reader sees all lines or none.

    Raises RunFailed where the file has lines that are not believed.
    """
    known = require_whole(file)
    kept = known | {line.key: line for line in lines}
    named = {times.samples_sha256 for line in kept.values() for times in (line.times, line.control)}
    there = read_samples(file) | {samples_sha256(one): one for one in samples}
    data = [(name, _ENCODER.encode(one) + b"\n") for name, one in there.items() if name in named]
    pack.write(file.with_name(file.name.removesuffix(SUFFIX) + SAMPLES), data)
    text = b"".join(encode(kept[key]) for key in sorted(kept))
    write_atomic(file, lambda temporary: temporary.write_bytes(text))


def require_whole(file: Path) -> dict[Key, Line]:
    """The lines of a file, none where it is not there; raises RunFailed where one of them is not believed."""
    known, problems = read(file) if file.exists() else ({}, [])
    for problem in problems:
        raise RunFailed(f"{file}, line {problem.line}: {problem.message}; take that line out first")
    return known


def check_samples(lines: Iterable[Line], samples: Mapping[str, Samples]) -> Iterator[tuple[Key, str]]:
    """Keys whose line does not say what its samples say, and why: everything is computed again from the samples."""
    for line in lines:
        for name in ("times", "control"):
            times: Times = getattr(line, name)
            found = samples.get(times.samples_sha256)
            if found is None:
                yield line.key, f"{name}: there are no samples of the hash {times.samples_sha256[:12]}..."
            elif problem := _of_samples(times, found):
                yield line.key, f"{name}: {problem}"


def _of_samples(times: Times, samples: Samples) -> str:
    of_each = [ns for restart in samples.restarts for ns in (restart.dense_ns, restart.final_ns)]
    if any(len(restart.dense_ns) != len(restart.final_ns) for restart in samples.restarts):
        return "its samples are not pairs"
    if len(samples.restarts) < 2 or min(map(len, of_each)) < LEAST_ROUNDS:
        return f"its samples are of less than two restarts, or {LEAST_ROUNDS} rounds"
    if len(set(map(tuple, of_each))) < len(of_each) or any(len(set(ns)) == 1 for ns in of_each):
        return "its samples are equal, as no clock measures them"
    again = times_of(samples)
    for field in times.__struct_fields__[:-1]:
        own, computed = getattr(times, field), getattr(again, field)
        pair = (own, computed) if isinstance(own, list | tuple) else ([own], [computed])
        if len(pair[0]) != len(pair[1]) or not close(*pair):
            return f"{field} is {said(own)}, of its samples {said(computed)}"
    return ""
