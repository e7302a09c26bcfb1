"""Replays: what one says of its original, and that a forged run is drawn as often as chance says."""

import pytest
from support.records import changed, finished, quality, record

from bench.records import bits
from leaderboard.stats.replays import EQUAL, INSIDE, OUTSIDE, UNUSUAL, agreement, drawn, status

IMAGES = 1000


def run(wrong, seed=0):
    """The record of a run that gets these of 1,000 test images wrong; their number, or which ones."""
    wrong = range(wrong) if isinstance(wrong, int) else wrong
    table = finished()
    top1 = (IMAGES - len(wrong)) / IMAGES
    table["data"] |= {"test": IMAGES}
    for which in ("dense", "pruned", "final"):
        table["metrics"][which] = quality(examples=IMAGES, top1=top1, top5=1.0, worst_class_top1=0.0)
    table["metrics"]["final"]["correct"] = bits.pack([k not in wrong for k in range(IMAGES)])
    table["curve"]["val_top1"] = [top1]
    return record(changed(table, ("clock", "resumes"), seed))


SEEDS = [run({*range(50 + 2 * k, 100), *range(500 + 20 * k, 510 + 20 * k)}) for k in range(4)]  # 60, 58, 56, 54 wrong


@pytest.mark.parametrize(
    ("replay", "expected"),
    [
        ({*range(50, 100), *range(500, 510)}, EQUAL),
        ({*range(51, 100), *range(500, 510)}, INSIDE),
        ({*range(30, 100), *range(500, 510)}, UNUSUAL),
        ({*range(1, 100)}, OUTSIDE),
        ({*range(200, 260)}, OUTSIDE),  # as many, but other images
    ],
    ids=["equal", "one image less", "rarer", "too many", "other images"],
)
def test_status_of_a_replay(replay, expected):
    original = run({*range(50, 100), *range(500, 510)})
    assert status(original, run(replay), SEEDS) == expected


def test_without_other_seeds_the_number_of_images_decides():
    assert status(run(60), run(62), []) == INSIDE
    assert status(run(60), run(140), []) == OUTSIDE
    assert status(run(60), run({*range(500, 560)}), []) == INSIDE  # nobody knows how far two seeds agree


def test_agreement_counts_images_that_both_get_right_or_wrong():
    assert agreement(run({1, 2, 3}), run({3, 4})) == (IMAGES - 3) / IMAGES


def test_draw_takes_one_run_of_each_row_by_the_commit():
    rows = [[f"{row}-s{seed}" for seed in range(5)] for row in range(40)]
    first = drawn(rows, "a" * 40)
    assert [run in row for run, row in zip(first, rows, strict=True)] == [True] * 40
    assert first == drawn(rows, "a" * 40) != drawn(rows, "b" * 40)


def test_a_forged_run_is_drawn_one_time_in_five_and_a_forged_cell_always():
    row = [[f"s{seed}" for seed in range(5)]]
    commits = [f"{number:040x}" for number in range(1000)]
    caught = sum(drawn(row, commit) == ["s3"] for commit in commits)
    assert 150 <= caught <= 250  # 20 % of 1,000, four standard errors
    honest, forged = run({*range(50, 100), *range(500, 510)}), run(5)
    cell = [[forged] * 5]
    assert all(status(found, honest, []) == OUTSIDE for commit in commits[:5] for found in drawn(cell, commit))
