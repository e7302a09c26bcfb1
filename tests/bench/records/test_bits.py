"""Bits as text: what was packed is unpacked, and nothing else passes for so many bits."""

import base64
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import changed, finished, record, with_bits

from bench.records import bits, store
from bench.records.schema import Record
from bench.records.store import RecordError


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), max_size=400))
def test_bits_are_unpacked_as_they_were(values):
    text = bits.pack(values)
    assert bits.unpack(text, len(values)).tolist() == values
    assert bits.ones(text, len(values)) == sum(values)
    assert text.isascii()


def test_shorter_of_raw_and_zlib_is_taken():
    rng = np.random.default_rng(0)
    even, right = rng.random(10_000) < 0.5, rng.random(10_000) < 0.99
    assert len(bits.pack(even)) == 1668  # 1,250 bytes
    assert len(bits.pack(right)) < 300
    assert base64.b64decode(bits.pack([True, False, False, True, False, True, False, True, True])) == b"\x95\x80"


def packed(data):
    return base64.b64encode(data).decode()


ZEROS = packed(zlib.compress(bytes(1250)))
HOSTILE = [
    (ZEROS, 9_992, "not 9,992 bits"),
    (ZEROS, 10_008, "not 10,008 bits"),
    (packed(bytes(2)), 8, "not 8 bits"),
    (packed(bytes(2)), 17, "zlib stream"),
    (packed(b"\x01"), 7, "not 7 bits"),  # a bit behind the last one
    (packed(zlib.compress(bytes(1250))[:-1]), 10_000, "zlib stream"),
    (packed(zlib.compress(bytes(1250)) + b"x"), 10_000, "zlib stream"),
    (packed(zlib.compress(bytes(2**24), 9)), 10**6, "bits"),  # what it unpacks to is never made
    ("AB==", 8, "base64"),  # as AA==, but for bits that nobody reads
    ("A", 8, "base64"),
    ("AAA=\n", 16, "base64"),
    ("\u00e4\u00e4\u00e4\u00e4", 24, "base64"),
    ("", 1, "zlib stream"),
    ("AA==", 0, "not 0 bits"),
]


def test_text_of_other_bits_is_refused():
    for text, count, match in HOSTILE:
        for read in (bits.unpack, bits.ones):
            with pytest.raises(ValueError, match=match):
                read(text, count)


def test_bomb_is_not_unpacked(monkeypatch):
    largest = []
    honest = zlib.decompressobj

    class Watched:
        def __init__(self):
            self.own = honest()

        def decompress(self, data, most):
            found = self.own.decompress(data, most)
            largest.append(len(found))
            return found

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="zlib"):
        bits.unpack(packed(zlib.compress(bytes(2**26), 9)), 10**6)
    assert largest == [10**6 // 8 + 1]


# --- in records -------------------------------------------------------------------------------------------------

CORRECT, MASKS = ("metrics", "final", "correct"), ("structure", "masks")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (CORRECT, bits.pack([True] * 4 + [False] * 6), "metrics.final.correct has 4 of 10 bits set, not 5"),
        (CORRECT, bits.pack([True] * 5 + [False] * 12), "metrics.final.correct: not 10 bits"),
        (CORRECT, "=", "metrics.final.correct: not base64"),
        (CORRECT, "no bits", "metrics.final.correct is 'no bits': expected bits in base64"),
        (CORRECT, "A" * 200_004, "metrics.final.correct is"),
        (CORRECT, None, "metrics.final.correct is null: "),
        (MASKS, None, "structure.masks is null: "),
        (MASKS, bits.pack([True] * 5 + [False] * 3), "structure.masks keep 5 units of '0', structure.widths 4"),
        (MASKS, bits.pack([True] * 9), "structure.masks: not 8 bits"),
        (("metrics", "dense", "correct"), "AAA=", "metrics.dense has an unknown field 'correct'"),
        (("data", "fold"), 1, "data.fold and data.folds_sha256: one is there without the other"),
        (("data", "folds_sha256"), "1" * 64, "data.fold and data.folds_sha256: one is there without the other"),
        (("data", "fold"), -1, "data.fold is -1"),
        (("plan_sha256",), "1" * 63, "plan_sha256 is"),
        (("replay_of",), "a record", "replay_of is 'a record'"),
    ],
)
def test_records_whose_bits_contradict_are_refused(path, value, says):
    honest = with_bits(finished())
    record(honest)
    with pytest.raises(RecordError) as caught:
        store.seal(msgspec.convert(forged, Record)) if fits(forged := changed(honest, path, value)) else record(forged)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def fits(table):
    """Whether the table has the types of a record, so that it can be written with its own hash."""
    try:
        msgspec.convert(table, Record)
    except msgspec.ValidationError:
        return False
    return True


def test_masks_are_of_the_sites_in_sorted_order():
    table = finished()
    table["structure"] |= {"widths": {"b.2": [3, 1], "b.10": [2, 2], "a": [4, 3]}, "units_before": 9, "units_after": 6}
    kept = [*(True, True, True, False), *(True, True), *(False, False, True)]  # a, b.10, b.2
    found = record(changed(table, MASKS, bits.pack(kept)))
    assert found.structure.masks == bits.pack(kept)
    table["structure"] |= {"widths": {"b.2": [3, 2], "b.10": [2, 1], "a": [4, 3]}}
    with pytest.raises(RecordError, match=r"structure\.masks keep 2 units of 'b\.10', structure\.widths 1"):
        record(changed(table, MASKS, bits.pack(kept)))
