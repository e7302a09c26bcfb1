"""Records come from strangers: reading one ends in one line that names file and field, and soon."""

import gzip
import hashlib
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import changed, cost, ended, finished, line, quality, with_bits

from bench.records import pack, store
from bench.records.schema import Record
from bench.records.store import LARGEST, RecordError, decode
from bench.records.values import TEXT, fitting

GOOD = line(finished())


def refusal(content):
    """What :func:`decode` says of bytes, in one line that names the file."""
    with pytest.raises(RecordError) as caught:
        decode(content, "some.json")
    said = str(caught.value)
    assert said.startswith("record some.json: ")
    assert "\n" not in said and said.isprintable() and len(said) < 700
    return said.removeprefix("record some.json: ")


def forged(body):
    """Any body as a line, with the hash that it has."""
    return body[:-1] + b',"record_sha256":"%b"}\n' % hashlib.sha256(body).hexdigest().encode()


BODY = GOOD[: -store.TAIL - 1] + b"}"


def test_spelling_that_no_run_writes_is_refused():
    for old, new, said in (
        (b'"resumes":0', b'"resumes":NaN', "not JSON"),
        (b'"resumes":0', b'"resumes":0,"resumes":0', "doubled key"),
        (b'"resumes":0', b'"resumes":0,"\\u0072esumes":0', "doubled key"),
        (b'"seed":0', b'"sead":1,"seed":0', "an unknown or doubled key"),
        (b'"resumes":0', b'"resumes": 0', "not written as a run writes it"),
        (b'"resumes":0', b'"resumes":0.0', "clock.resumes"),
        (b'"resumes":0', b'"resumes":' + b"9" * 5000, ""),
        (b'"loss":1.2', b'"loss":1e999', "not JSON"),
        (b'"loss":1.2', b'"loss":1.20', "number's digits"),
        (b'"loss":1.2', b'"loss":true', "metrics.dense.loss is true"),
        (b'"a CPU"', b'"a \\ud800 CPU"', ""),
        (b'"a CPU"', b'"a \\u0007 CPU"', "environment.device is 'a \\x07 CPU': expected printable ASCII"),
        (b'"Linux"', b'"Li\\u0007nux"', "environment.os is 'Li\\x07nux', with the invisible or unusable"),
        (b'"a CPU"', b'"a \xff CPU"', ""),
        (b'"a CPU"', b'"a \t CPU"', ""),
        (b'"schema":2', b'"record_sha256":"' + b"0" * 64 + b'","schema":2', "record_sha256"),
    ):
        assert old in BODY
        assert said in refusal(forged(BODY.replace(old, new, 1)))


def test_bytes_of_another_kind_are_refused():
    for content, said in (
        (b"", "not JSON"),
        (b"\xef\xbb\xbf" + GOOD, ""),
        (GOOD.decode().encode("utf-16"), "not JSON"),
        (GOOD + b"{}", "not JSON"),
        (GOOD[:-1], "not one line of JSON with record_sha256 last"),
        (BODY + b"\n", "not one line of JSON with record_sha256 last"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"kind": "bench.run"}', "schema null, this is 2"),
        (b'{"kind": "bench.run", "schema": 3}', "schema 3, this is 2: update the suite"),
        (b'{"kind": "bench.run", "schema": true}', "schema true, this is 2"),
        (b'{"kind": "something"}', "not a record of this suite"),
        (b"[1, 2]", "not a record of this suite"),
        (GOOD.replace(b'"resumes":0', b'"resumes":1'), "its content is not what record_sha256 was made of"),
    ):
        assert said in refusal(content)


FIELDS = [
    (("id",), "../../etc/passwd", "id is '../../etc/passwd': expected 12 hexadecimal digits, -s and a seed"),
    (("id",), "0123456789ab-s0\n", "id is"),
    (("status",), "done", "status is 'done'"),
    (("spec_sha256",), "A" * 64, "spec_sha256 is 'AAAA"),
    (("spec", "seed"), -1, "spec.seed is -1, not from 0 to 999"),
    (("spec", "seed"), 1000, "spec.seed is 1000, not from 0 to 999"),
    (("spec", "seed"), True, "spec.seed is true"),
    (("spec", "method"), "x" * 10_000_000, "spec.method is 'xxxx"),
    (("spec", "method"), "r\u0430ndom", "expected a-z, 0-9 and _"),
    (("spec", "dataset"), "a\x00b", "spec.dataset is 'a\\x00b', with the invisible or unusable character U+0000"),
    (("spec", "dataset"), "a  b", "without spaces at an end or next to each other"),
    (("spec", "config"), {"a": {"b": 1}}, "spec.config is a table"),
    (("spec", "config"), {"k": "x" * 41}, "spec.config is a table"),
    (("spec", "config"), {f"k{n}": "x" * 40 for n in range(3)}, "method and options have 139 characters, more than 80"),
    (("spec", "config"), {f"k{n}": 1 for n in range(21)}, "spec.config is a table"),
    (("spec", "config"), {"a b": 1}, "spec.config is a table"),
    (("spec", "recipe", "train", "schedule"), "wavy", "spec.recipe.train.schedule is 'wavy'"),
    (("spec", "recipe", "momentum"), 2.0, "momentum"),
    (("spec", "budget", "keep_macs"), 1.5, "keep"),
    (("code", "comit"), None, "code has an unknown field 'comit'; did you mean 'commit'?"),
    (("code", "\x1b[31mred"), None, "code has an unknown field '\\x1b[31mred'"),
    (("environment", "threads"), 0, "environment.threads is 0"),
    (("environment", "packages"), {}, "environment.packages.torch is missing"),
    (("data", "shape"), [1, 8], "data.shape is a list"),
    (("training", "plan"), ["prune", "grow"], "training.plan[1] is 'grow'"),
    (("training", "macs"), 10**30, "training.macs or training.base.macs is too large"),
    (("structure", "widths"), [1], "structure.widths is a list"),
    (("structure", "rejected"), {"a": "\x07"}, "structure.rejected.a is '\\x07'"),
    (("cost", "final", "macs"), 2**80, "cost.final.macs is 1208925819614629174706176"),
    (("metrics", "final", "top1"), 1.2, "metrics.final.top1 is 1.2"),
    (("curve", "train_loss"), [0.5, 0.5], "curve.train_loss has 2 values, curve.epoch 1"),
    (("curve", "logged"), {"own": ["x"]}, "curve.logged[...][0]"),
    (("artifacts", "masks", "file"), "../../masks", "artifacts.masks.file is '../../masks'"),
    (("memory",), [], "memory is a list"),
    (("clock", "started_at"), "2026-01-01T00:00:00", "clock.started_at is '2026-01-01T00:00:00'"),
    (
        ("error",),
        {"type": "E", "message": "x", "traceback": [], "blame": "method"},
        "status and error contradict each other",
    ),
]


CONTRADICTIONS = [
    (("metrics", "final"), quality(top1=0.55), "not a whole number of 10 test images"),
    (("metrics", "final"), quality(top5=0.4), "worst class <= top-1 <= top-5 does not hold"),
    (("metrics", "final"), quality(examples=9, top1=4 / 9, top5=1.0), "metrics.final.examples is 9, data.test 10"),
    (("metrics", "final"), quality(worst_class=10), "worst_class is 10, data.classes 10"),
    (("metrics", "final"), quality(loss=None), "metrics.final.loss is null in a finished run"),
    (("metrics", "pruned"), None, "metrics.pruned is null, and training.plan prunes before it trains"),
    (("metrics",), None, "'metrics' is null in a finished run"),
    (("cost", "final"), cost(1001, 90), "1001 macs after, 1000 before"),
    (("cost", "final"), cost(501, 90), "more macs than the budget of 0.5"),
    (("cost", "final", "macs_by_op"), {"conv": 1}, "the sum of macs_by_op 1"),
    (("cost", "final", "counter"), "thop", "cost.final.counter is 'thop'"),
    (("structure", "widths"), {"0": [8, 9]}, "'0' has 9 of 8 units"),
    (("structure", "units_after"), 5, "structure.units_after is 5, the sum of the widths 4"),
    (("training", "plan"), [{"epochs": 1, "part": "train", "rewind": None}], "training.plan has no prune"),
    (("training", "examples"), 50, "training.examples is 50, of the base alone 90"),
    (("training", "epochs"), 9, "training.epochs is 9, of the plan and the base 2"),
    (("training", "precision"), "bf16", "training.precision is 'bf16', spec.recipe.precision 'fp32'"),
    (("clock", "finished_at"), "2025-01-01T00:00:00Z", "before clock.started_at"),
    (("clock", "seconds"), {}, "'clock.seconds.train' is null in a finished run"),
    (("spec", "coupling"), "full", "the hash of the specification is"),
]


def test_wrong_field_and_contradiction_are_named():
    for path, value, said in (*FIELDS, *CONTRADICTIONS):
        assert said in refusal(line(changed(finished(), path, value))), path


@pytest.mark.timeout(20)
def test_too_large_file_and_pipe_are_not_even_read(tmp_path):
    file = tmp_path / "0123456789ab-s0.json"
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST + 1)
    with pytest.raises(RecordError, match=r"16,777,217 bytes, more than 16,777,216"):
        store.load(file)
    os.mkfifo(tmp_path / "x-s0.json")
    with pytest.raises(RecordError, match="not a file"):
        store.load(tmp_path / "x-s0.json")


def test_endless_line_in_a_pack_is_not_held(tmp_path):
    file = tmp_path / f"bomb{pack.SUFFIX}"
    file.write_bytes(gzip.compress(b" " * (LARGEST + 10)))
    with pytest.raises(ValueError, match="longer than"):
        list(pack.lines(file))


def test_any_text_can_be_made_to_fit():
    for written in ("fine\n\ttoo", "\x1b[31m", "x" * (TEXT + 1), "\ud800", "\u202e"):
        decode(line(ended(message=fitting(written))), "x")


# --- properties -------------------------------------------------------------------------------------------------

STRUCTS = st.sampled_from([finished(), ended()])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Paths of all values inside of ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=150, deadline=5000, derandomize=True)
@given(st.data())
def test_damaged_field_is_refused_or_comes_back_the_same(data):
    """A line is refused in one line of text, or encoding what was read makes the same bytes."""
    table = data.draw(STRUCTS)
    path = data.draw(st.sampled_from([*places(table)]))
    try:
        damaged = line(changed(table, path, data.draw(VALUES)))
    except (UnicodeEncodeError, OverflowError, ValueError):  # no JSON has it
        return
    try:
        assert store.encode(decode(damaged, "x")) == damaged
    except RecordError:
        refusal(damaged)


@settings(max_examples=150, deadline=5000, derandomize=True)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_damaged_bytes_are_refused_unless_they_are_the_same(at, put, cut):
    damaged = GOOD[:at] + put + GOOD[at + cut :]
    if damaged != GOOD:
        refusal(damaged)


NUMBERS = st.floats(0, 1) | st.integers(0, 1)


@settings(max_examples=60, deadline=5000, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=4), st.floats(allow_nan=True), st.text('ab\u00e4 "\\é', min_size=1))
def test_what_is_written_is_read_back(numbers, logged, letters):
    """Whole numbers in places of floats, numbers that are not finite, letters of any script."""
    table = finished()
    table["clock"]["seconds"] |= {f"own {k}": number for k, number in enumerate(numbers)}
    table["curve"]["logged"] = {"own": [logged]}
    table["environment"]["os"] = f"a{letters}"
    record = store.seal(msgspec.convert(with_bits(table), Record))
    assert store.decode(store.encode(record), "x") == record
    assert store.encode(store.decode(store.encode(record), "x")) == store.encode(record)
    assert record.clock.seconds["own 0"] == numbers[0]
