"""What a hostile submitter may try with records, and what the command then does: refused, listed, or a row of its own.

Forged records are honest ones that were changed, sealed again and written under their ids.
"""

import json

import pytest
from support.boards import boards_of, plan_for
from support.history import made, seeds
from support.made_records import IMAGES, put
from support.records import fitted, line, quality, seal

from bench.cli import main
from bench.records.method_history import MethodHistory
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget

OURS = [
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("l1_norm", [20, 21, 22, 20, 19]),
    *seeds("uniform_thin", [25, 24, 27, 26, 24], starts_from="init", cost=0.5),
]
TAMPERED = "refused"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A folder with the suite's records, and what the board says of it."""
    folder = tmp_path_factory.mktemp("honest")
    put(folder / "suite", *OURS)
    return folder


@pytest.fixture
def board(tmp_path, capsys, suite):
    """A function of somebody's records: exit code, our board in JSON, other boards, and what is printed on stderr."""

    def run(*forged, submitter="acme", beside=OURS):
        put(tmp_path / "suite", *beside)
        if forged:
            put(tmp_path / submitter, *forged)
        code = main(["board", str(tmp_path), "--json", "--no-cache"])
        printed = capsys.readouterr()
        boards = json.loads(printed.out)["boards"]
        own = [board for board in boards if board["key"]["submitter"] == "suite"]
        return code, own, [board for board in boards if board not in own], printed.err

    return run


@pytest.fixture(scope="module")
def honest(suite):
    """Our boards where nobody else submits anything."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["board", str(suite), "--json", "--no-cache"]) == 0
    return json.loads(out.getvalue())["boards"]


def altered(found, **parts):
    """A record with other values in some of its parts, sealed again."""
    for part, values in parts.items():
        found[part] |= values
    return seal(found)


def names(boards):
    return {row["name"] for board in boards for table in board["tables"] for row in table["rows"]}


def forged_rows():
    """Records of another submitter that must not change ours."""
    bad = made("random", 77, status="failed")
    yield "a failed run of a control", [bad]
    long_ago = {"started_at": "2020-01-01T00:00:00Z", "finished_at": "2020-01-01T00:00:00Z"}
    yield "a control of long ago", [altered(r, clock=long_ago) for r in seeds("random", [60] * 5)]
    yield "very noisy rows", [r for k in range(3) for r in seeds("ddrop", [0, 400, 3, 250, 90], config={"noisy": k})]
    yield "constant rows", [r for k in range(6) for r in seeds("slimming", [9] * 5, config={"constant": k})]
    yield "copies of a control", [r for k in range(3) for r in seeds("random", [30, 31, 33, 29, 30], config={"k": k})]
    yield "other seeds", [made("fpgm", seed, 10) for seed in range(10)]
    yield "nothing right", seeds("dropnet", [IMAGES - 50] * 5)
    yield "all right", seeds("taylor", [0] * 5)


@pytest.mark.parametrize(
    ("name", "forged"), [*forged_rows()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_nothing_of_another_submitter_changes_our_rows(board, honest, name, forged):
    code, own, others, err = board(*forged)
    assert own == honest
    assert code == 0
    shown = {row for row in names(others) if row.endswith(" (acme)")}
    assert shown or "failed" in err
    for each in others:
        assert each["key"]["submitter"] == "acme"
        for table in each["tables"]:
            for row in table["rows"]:
                if row["name"].endswith(" (acme)"):
                    assert row["rank_best"] is None and not row["planned"]
                    assert "as submitted by acme" in row["notes"]
                    assert all(value is None for key, value in row.items() if key.endswith("p_holm"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (20, "as submitted by acme, 5 records: 5 consistent, 1 replayed by suite (outside)"),
        (0, "5 records: 5 consistent, 1 replayed by suite (equal)"),
    ],
)
def test_replay_says_whether_a_row_is_as_submitted(board, wrong, said):
    best = seeds("taylor", [0] * 5)
    again = made("taylor", 0, wrong) | {"replay_of": best[0]["record_sha256"]}
    _, _, theirs, _ = board(*best, beside=[*OURS, seal(again)])
    rows = [row for one in theirs for table in one["tables"] for row in table["rows"]]
    (row,) = [row for row in rows if row["name"] == "taylor (acme)"]
    assert row["checked"] == said
    assert said in row["notes"]


@pytest.mark.parametrize("name", ["suite ", "suite\N{NO-BREAK SPACE}", "Suite", "\N{FIRE}", ".x", "a" * 41, "=1"])
def test_submitter_that_could_be_taken_for_another_is_refused(board, honest, name):
    code, own, others, err = board(*seeds("random", [60] * 5), submitter=name)
    assert (code, own, others) == (1, honest, [])
    assert err.count("refused: the submitter ") == 5


def test_record_in_no_folder_of_a_submitter_is_refused(tmp_path, board, honest):
    loose = made("random", 0, 60)
    (tmp_path / f"{loose['id']}.json").write_bytes(line(loose))
    code, own, others, err = board()
    assert (code, own, others) == (1, honest, [])
    assert "refused: lies in no submitter's folder" in err


def test_same_bytes_in_two_folders_have_one_page(tmp_path):
    put(tmp_path / "records/suite", *OURS)
    put(tmp_path / "records/acme", *seeds("random", [30, 31, 33, 29, 30]))
    assert main(["board", str(tmp_path / "records"), "--site", str(tmp_path / "site"), "--no-cache"]) == 0
    assert len(list((tmp_path / "site/records").glob("*.html"))) == len(OURS)


def test_known_method_with_another_file_is_a_row_of_its_own(board, honest):
    forged = [altered(r, code={"method_sha256": "0" * 64, "diff_sha256": "1" * 64}) for r in seeds("random", [60] * 5)]
    _, own, (theirs,), _ = board(*forged)
    assert own == honest
    assert {"random (acme)", "random"} <= names([theirs])


def test_of_two_results_of_one_run_neither_counts(board, honest):
    better = made("l1_norm", 0, 1, finished="2026-01-02T00:00:00Z")
    code, own, _, err = board(beside=[*OURS, better])
    assert code == 1
    assert err.count("conflict: another result than") == 2
    (row,) = [row for row in own[0]["tables"][0]["rows"] if row["name"] == "l1_norm"]
    assert row["wrong_test_images_by_seed"] == "1:21 2:22 3:20 4:19"
    (code, own, _, err) = board(better)
    assert (own == honest) or code == 1


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00-08:00", "9999-01-01", "20260101T000000Z", "2026-01-01T00:00:00"])
def test_time_that_is_not_utc_with_z_is_refused(board, honest, time):
    forged = made("random", 9, 1)
    forged["clock"] |= {"started_at": time, "finished_at": time}
    code, own, others, err = board(seal(forged))
    assert (code, own, others) == (1, honest, [])
    assert "acme/random/" in err and "refused: " in err


def contradictions():
    """Forged records, and what is said of each."""
    dense = made("taylor", 1, 10)
    dense["metrics"]["dense"] = quality(examples=IMAGES, top1=1.0, top5=1.0, worst_class_top1=1.0)
    yield "a better base", dense, "metrics.dense has 0 wrong images, the same base in suite/"
    images = made("taylor", 1, 10)
    images["data"]["test_sha256"] = "0" * 64
    yield "other test images", images, "its images of digits are others than in suite/"
    split = made("taylor", 1, 10)
    split["data"]["split_sha256"] = "0" * 64
    split["training"]["base"]["sha256"] = "0" * 64
    yield "another split", split, ""
    base = made("taylor", 1, 10)
    base["cost"]["dense"]["params"] -= 1
    yield "a smaller base", base, "cost and work of the base is another than in suite/"
    fewer = made("taylor", 1, 10)
    fewer["data"]["test"] = 400
    for which in ("dense", "pruned", "final"):
        fewer["metrics"][which] = quality(examples=400, top1=1.0, top5=1.0, worst_class_top1=1.0)
    yield "fewer test images", fewer, "data.test is another than in suite/"
    one = made("taylor", 1, 10)
    one["data"]["train"] = 1
    fitted(one)
    yield "one training image", one, "data.train + data.val is another than in suite/"


@pytest.mark.parametrize(("name", "forged", "said"), [*contradictions()], ids=lambda v: v if isinstance(v, str) else "")
def test_contradiction_to_the_suite_is_refused(board, honest, name, forged, said):
    code, own, others, err = board(seal(forged))
    assert own == honest
    if said:
        assert (code, others) == (1, [])
        assert f"refused: {said}" in err


def test_unknown_commit_and_other_source_are_refused(board, honest):
    foreign = [] if MethodHistory().shallow else [{"commit": "f" * 40}]  # a shallow clone cannot know
    for changes in (*foreign, {"method_sha256": "0" * 64}):
        forged = altered(made("ddrop", 0, 1), code=changes)
        code, own, others, err = board(forged)
        assert (code, own, others) == (1, honest, [])
        assert "refused: code." in err


def test_local_changes_cost_the_rank(tmp_path, capsys):
    put(tmp_path, *(made("l1_norm", seed, 20 + seed, changed=True) for seed in range(5)))
    assert main(["board", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["boards"]
    (row,) = found["tables"][0]["rows"]
    assert row["rank_best"] is None
    assert "made from a working tree with local changes" in row["notes"]


def test_recipe_that_is_edited_under_our_name_makes_another_board(board, honest):
    recipe = load_recipe("digits", {"train.epochs": "6", "finetune.epochs": "2", "weight_decay": "0.0123"})
    code, own, (theirs,), _ = board(*(made("l1_norm", seed, 1, recipe=recipe) for seed in range(5)))
    assert (code, own) == (0, honest)
    assert "recipe digits 6+2, weight_decay 0.0123" in theirs["title"]
    assert not any(row["planned"] or row["rank_best"] for table in theirs["tables"] for row in table["rows"])


def test_budget_that_is_a_little_smaller_is_another_table(board, honest):
    _, own, (theirs,), _ = board(*(made("l1_norm", seed, 1, keep=0.4999) for seed in range(5)))
    assert own == honest
    assert [table["keep"] for table in theirs["tables"]] == [0.4999]
    assert not any(row["planned"] or row["rank_best"] for table in theirs["tables"] for row in table["rows"])
    assert Budget(keep_macs=0.4999)


def test_plan_that_is_not_the_one_of_the_runs_is_noted(tmp_path):
    found = [seal({**record, "plan_sha256": "8" * 64}) for record in OURS]
    put(tmp_path / "other", *found)
    (board,), _ = boards_of(tmp_path / "other", plan_for(found))
    said = f"{len(OURS)} of the runs were made under another plan than this one: 888888888888 (RULES.md, 8.2)"
    assert said in board.notes
    put(tmp_path / "same", *(seal({**record, "plan_sha256": "9" * 64}) for record in OURS))
    (board,), _ = boards_of(tmp_path / "same", plan_for(found))
    assert not [note for note in board.notes if "another plan" in note]


def test_budget_and_recipe_that_no_plan_names_are_exploratory(tmp_path):
    recipe = load_recipe("digits", {"train.epochs": "6", "finetune.epochs": "2", "weight_decay": "0.0123"})
    put(tmp_path, *OURS, *seeds("l1_norm", [1] * 5, keep=0.4999), *seeds("l1_norm", [1] * 5, recipe=recipe))
    boards, _ = boards_of(tmp_path, plan_for(OURS))
    edited = next(board for board in boards if "weight_decay" in board.title)
    assert edited.title == "net on digits (recipe digits 6+2, weight_decay 0.0123)"
    smaller = next(table for board in boards for table in board.tables if table.keep == 0.4999)
    for row in (*edited.tables[0].rows, smaller.rows[-1]):
        assert (row.name, row.planned, row.rank) == ("l1_norm", False, None)
        assert row.unranked == "exploratory, no plan names it"


def test_hostile_file_is_refused(tmp_path, capsys, honest):
    put(tmp_path / "suite", *OURS)
    folder = tmp_path / "acme"
    folder.mkdir()
    good = line(made("fpgm", 0, 1))
    for number, content in enumerate(
        (b"\xef\xbb\xbf" + good, good.replace(b'"resumes":0', b'"resumes":NaN'), b"[" * 100_000)
    ):
        (folder / f"{number:012x}-s0.json").write_bytes(content)
    (folder / "00000000000a-s0.json").symlink_to("/dev/zero")
    assert main(["board", str(tmp_path), "--json", "--no-cache"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["boards"] == honest
    assert printed.err.count("refused: ") == 4


def test_work_that_the_plan_does_not_make_is_refused(board, honest):
    honest_one = made("fpgm", 0, 1)
    assert fitted(honest_one)
    forged = altered(made("fpgm", 0, 1), training={"macs": 1})
    code, own, others, err = board(forged)
    assert (code, own, others) == (1, honest, [])
    assert "training.macs is 1" in err
