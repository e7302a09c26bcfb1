"""Latencies of rows: looked up by the shape of each seed's network; no entry, no number."""

import math
from dataclasses import replace

import pytest
from support.boards import boards_of, latencies_for, plan_for
from support.made_records import put, seeds
from support.records import refitted

from leaderboard.reader.latency_files import Latencies, Setting
from leaderboard.render.fields import FIELDS
from leaderboard.stats.speeds import in_words, settings

RECORDS = (*seeds("dense", [5, 6, 4, 5, 6], keep=None), *seeds("random", [30, 31, 33, 29, 30]))


def row_of(folder, records, latencies, name="random"):
    (board,), _ = boards_of(put(folder, *records), plan_for(records), latencies)
    return next(row for row in board.tables[0].rows if row.name == name), board


def with_widths(record, after):
    structure = record["structure"] | {"widths": {"one": [10, after]}, "units_after": after}
    return refitted(record | {"structure": structure})


def test_a_row_has_the_numbers_of_its_shape_at_both_batches(tmp_path):
    row, board = row_of(tmp_path, RECORDS, latencies_for(RECORDS))
    small, large = row.speeds
    assert (small.batch, large.batch) == (1, 64)
    assert (small.times, large.times) == (pytest.approx(1.5 * (1 + 1 / 640)), pytest.approx(1.65))
    assert large.final_ms == pytest.approx(64 / 1.65)
    assert (large.high - large.low) / 2 == pytest.approx(0.05)
    assert board.timed == "onnxruntime 1.20, 1 thread, float32 channels_last, on a chip"


def test_without_an_entry_there_is_no_number(tmp_path):
    row, board = row_of(tmp_path / "a", RECORDS, latencies_for(RECORDS[:5]))
    assert (row.speeds, board.timed != "") == ((), True)  # dense has some
    row, board = row_of(tmp_path / "b", RECORDS, None)
    assert (row.speeds, board.timed) == ((), "")


def test_seeds_of_several_shapes_have_their_geometric_mean_if_all_were_measured(tmp_path):
    records = [*RECORDS[:6], *(with_widths(found, 4) for found in RECORDS[6:])]
    known = {**latencies_for(RECORDS).lines, **latencies_for(records[6:], times=3.0).lines}
    row, _ = row_of(tmp_path / "a", records, Latencies(known))
    both = [1.5 * 1.1, 3.0 * 1.1]
    assert row.speeds[1].times == pytest.approx(math.sqrt(math.prod(both)))
    assert row.speeds[1].low == pytest.approx(math.sqrt(math.prod(one - 0.05 for one in both)))
    assert row_of(tmp_path / "b", records, latencies_for(RECORDS))[0].speeds == ()


def test_faster_is_above_three_per_cent(tmp_path):
    for times, faster in ((1.07, False), (1.09, True)):
        row, board = row_of(tmp_path / str(times), RECORDS, latencies_for(RECORDS, times))
        assert FIELDS["small_faster"].get(row, board.tables[0]) is faster


def test_a_board_shows_one_setting_the_first_runtime_at_its_smallest_and_largest_batch():
    lines = latencies_for(RECORDS).lines
    arch = next(iter(lines)).arch_sha256
    other = {key.__class__(**{**_parts(key), "runtime": "eager"}): line for key, line in lines.items()}
    middle = {key.__class__(**{**_parts(key), "batch": 8}): line for key, line in lines.items()}
    shown = settings(Latencies({**other, **middle, **lines}), arch)
    assert [(one.runtime, one.batch) for one in shown] == [("onnxruntime", 1), ("onnxruntime", 64)]
    assert [one.batch for one in settings(Latencies(middle), arch)] == [8]
    assert (settings(None, arch), settings(Latencies(), arch), in_words([])) == ([], [], "")
    assert in_words([replace(shown[0], threads=2)]).startswith("onnxruntime 1.20, 2 threads")
    assert isinstance(shown[0], Setting)


def _parts(key):
    return {name: getattr(key, name) for name in key.__struct_fields__}
