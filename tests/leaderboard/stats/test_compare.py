"""Two rows against each other: what the board says, and single tests only on request."""

import itertools

import pytest
from scipy import stats
from support.boards import boards_of, plan_for
from support.made_records import IMAGES, made, put, seeds

from bench.errors import UsageError
from leaderboard.stats.compare import compare, sign_flip_p
from leaderboard.stats.ranking import pairs

A, B = [20, 22, 21, 23, 20], [30, 29, 35, 33, 31]
RECORDS = (
    *[*seeds("a", A, cost=2.0), *seeds("random", B), *seeds("b", [40, 41, 45, 43, 42])],
    *[made("random", 7, 90), *seeds("c", [1, 2], config={"k": 3})],
    *[*seeds("a", [9, 9], keep=0.25), *seeds("lonely", [1], keep=0.1)],
)


@pytest.fixture
def boards(tmp_path):
    return boards_of(put(tmp_path, *RECORDS), plan_for(RECORDS))[0]


def test_planned_comparison_has_the_verdict_of_the_board(boards):
    (found,) = compare(boards, "a", "random")
    difference = next(row for row in boards[0].tables[0].rows if row.name == "a").differences["random"]
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.mean == difference.mean == pytest.approx(100 / IMAGES * (sum(B) - sum(A)) / 5)
    assert (found.half, found.p_board) == (difference.shown_half, difference.p_holm)
    assert (found.verdict, found.subject) == ("better", "a")
    assert found.p == pytest.approx(stats.ttest_rel(B, A).pvalue)
    assert found.p_exact == 2 / 32
    assert found.cost == pytest.approx(2)
    (other,) = compare(boards, "random", "a")
    assert (other.mean, other.verdict, other.subject) == (-found.mean, "better", "b")


def test_other_ranked_rows_have_the_verdict_of_all_pairs(boards):
    (found,) = compare(boards, "b", "a")
    ranked = [row for row in boards[0].tables[0].rows if row.rank]
    tests, names = pairs(ranked), [row.name for row in ranked]
    p = tests.p_holm[names.index("b"), names.index("a")]
    assert found.p_board == pytest.approx(p)
    assert (p < 0.05, found.verdict, found.subject) == (True, "worse", "a")


def test_rows_that_the_board_does_not_test_have_no_verdict(boards, tmp_path):
    (few,) = compare(boards, "c k=3", "a")
    assert (few.p_board, few.verdict) == (None, "")
    assert few.half > 0
    (exploratory,) = compare(boards_of(put(tmp_path / "b", *RECORDS))[0], "a", "random")
    assert (exploratory.p_board, exploratory.verdict) == (None, "")
    assert exploratory.p < 0.05


def test_rows_are_named_with_their_options_or_by_hash(boards):
    (by_name,) = compare(boards, "c k=3", "a")
    spec = next(r.spec for b in boards for t in b.tables for r in t.rows if r.name == "c k=3")
    assert compare(boards, spec[:8], "a") == [by_name]


def test_errors_say_what_there_is(boards):
    with pytest.raises(UsageError, match="row 'aa'"):
        compare(boards, "aa", "b")
    with pytest.raises(UsageError, match="never on one board"):
        compare(boards, "lonely", "b")


def test_one_seed_has_no_interval(tmp_path):
    (found,) = compare(boards_of(put(tmp_path, made("a"), made("b", wrong=50)))[0], "a", "b")
    assert (found.half, found.p, found.p_exact, found.verdict) == (None, None, None, "")


@pytest.mark.parametrize("values", [[1, 2, 3], [1, -2, 3, 4], [0.5, 0.5]])
def test_sign_flips_by_hand(values):
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = sum(s >= abs(sum(values)) - 1e-9 for s in sums) / len(sums)
    assert sign_flip_p(values) == pytest.approx(expected)


def test_sign_flips_have_an_end():
    assert sign_flip_p([1.0]) is None
    assert sign_flip_p([1.0] * 17) is None
