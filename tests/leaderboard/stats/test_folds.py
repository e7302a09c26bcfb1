"""Boards of a data set whose test part rotates with the seed: each run counts its own test images."""

import dataclasses
import json

import pytest
from support.boards import boards_of
from support.made_records import made, put, sha
from support.records import quality, refitted

from leaderboard.lint.check import check_text
from leaderboard.render.tables import render
from leaderboard.stats.compare import compare

SIZES = (364, 362, 359, 357, 355)
ALL = sum(SIZES)


def folded(method, seed, wrong, **changes):
    """The record of a run that gets so many of the images of its fold wrong."""
    found, images = made(method, seed, 10, keep=None if method == "dense" else 0.5), SIZES[seed % 5]
    for key in ("dense", "pruned", "final"):
        if found["metrics"].get(key):
            right = (images - (20 if key == "pruned" else wrong)) / images
            found["metrics"][key] = quality(examples=images, top1=right, top5=1.0, worst_class_top1=right / 2)
    found["data"] |= {"train": ALL - images - 100, "val": 100, "test": images, "fold": seed % 5}
    found["data"] |= {"train_sha256": sha(("train", seed % 5)), "test_sha256": sha(("test", seed % 5))}
    found["data"] |= {"folds_sha256": sha("all")} | changes
    return refitted(found)


ROWS = {"dense": (3, 4, 3, 2, 4), "random": (14, 9, 12, 11, 10), "l1_norm": (7, 9, 8, 6, 10), "fpgm": (8, 8, 9, 7, 9)}


@pytest.fixture
def records(tmp_path):
    return put(tmp_path / "records", *(folded(m, s, w) for m, ws in ROWS.items() for s, w in enumerate(ws)))


def test_seeds_of_all_folds_are_on_one_board(records):
    (board,), problems = boards_of(records)
    assert (problems, board.key["images"], board.key["train_sha256"]) == ([], "1797", sha("all"))
    rows = {row.name: row for row in board.tables[0].rows}
    assert rows.keys() == ROWS.keys()
    for name, wrong in ROWS.items():
        shares = [100 * (1 - w / n) for w, n in zip(wrong, SIZES, strict=True)]
        assert rows[name].top1.mean == pytest.approx(sum(shares) / 5, abs=1e-9)
        assert [run.images for run in rows[name].runs] == list(SIZES)
    gained = [100 * (w - v) / n for w, v, n in zip(ROWS["random"], ROWS["l1_norm"], SIZES, strict=True)]
    assert rows["l1_norm"].differences["random"].mean == pytest.approx(sum(gained) / 5, abs=1e-9)
    (found,) = compare([board], "l1_norm", "random")
    assert found.mean == pytest.approx(sum(gained) / 5, abs=1e-9)
    assert found.a == rows["l1_norm"].top1


@pytest.mark.parametrize(
    ("changes", "differs"),
    [({"folds_sha256": sha("others")}, "train_sha256"), ({"val": 50}, "images")],
)
def test_other_images_are_another_board(tmp_path, changes, differs):
    put(
        tmp_path, *(folded("random", s, 10) for s in range(5)), *(folded("l1_norm", s, 10, **changes) for s in range(5))
    )
    boards, _ = boards_of(tmp_path)
    assert len(boards) == 2
    assert differs in boards[0].differs


@pytest.mark.parametrize("fmt", ["csv", "json"])
def test_table_is_computed_again_from_the_counts_in_it(records, fmt):
    boards, _ = boards_of(records)
    text = render(boards, fmt)
    assert "0:7/364 1:9/362 2:8/359 3:6/357 4:10/355" in text
    assert check_text(text, fmt) == []
    assert check_text(text, fmt, boards) == []
    for old, new, code in (
        ("0:7/364", "0:8/364", "mean"),
        ("0:7/364", "0:7/365", "mixed-test-set"),
        ("0:7/364", "0:7/3", "wrong-images"),
        ("0:7/364", "0:7/0", "counts"),
    ):
        assert code in {found.code for found in check_text(text.replace(old, new), fmt)}, new


def test_json_has_the_test_images_of_a_run(records):
    boards, _ = boards_of(records)
    (board,) = json.loads(render(boards, "json"))["boards"]
    row = next(row for row in board["tables"][0]["rows"] if row["name"] == "l1_norm")
    assert row["test_images"] is None
    assert [run["images"] for run in row["runs"]] == list(SIZES)


def test_run_without_test_images_has_no_part_in_a_mean():
    from support.boards import row

    from leaderboard.stats.comparisons import series

    one = row(1, 0.5, 2)
    lost = dataclasses.replace(one, runs=(one.runs[0]._replace(images=0), one.runs[1]))
    assert list(series(lost, "top1").cells) == [1]


def test_other_seeds_of_all_folds_make_a_prediction(tmp_path):
    from support.records import record

    from bench.records import store
    from leaderboard.stats.prediction import other_seeds

    made_ones = [folded("random", seed, 10) for seed in range(5)]
    made_ones.append(folded("random", 5, 10, folds_sha256=sha("others")))
    for found in made_ones:
        (tmp_path / f"{found['id']}.json").write_bytes(store.encode(record(found)))
    given = record(made_ones[0])
    assert [found.spec.seed for found in other_seeds(tmp_path / f"{given.id}.json", given)] == [1, 2, 3, 4]
