"""Two rows against each other."""

import itertools

import pytest
from scipy import stats
from support.made_records import IMAGES, made, put, seeds
from support.paths import ROOT

import leaderboard
from bench.errors import UsageError
from leaderboard.stats.boards import build
from leaderboard.stats.compare import compare, sign_flip_p
from leaderboard.stats.statistics import holm

A, B = [20, 22, 21, 23, 20], [30, 29, 35, 33, 31]


@pytest.fixture
def boards(tmp_path):
    records = [*seeds("a", A, cost=2.0), *seeds("b", B), made("b", 7, 90), *seeds("c", [1, 2], config={"k": 3})]
    records += [*seeds("a", [9, 9], keep=0.25), *seeds("lonely", [1], keep=0.1)]
    return build(leaderboard.load(put(tmp_path, *records), cache=False))[0]


def test_the_difference_is_paired_on_common_seeds(boards):
    (found,) = compare(boards, "a", "b")
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.mean == pytest.approx(100 / IMAGES * (sum(B) - sum(A)) / 5)
    assert found.p == pytest.approx(stats.ttest_rel(B, A).pvalue)
    assert found.p_exact == 2 / 32
    assert found.verdict == "a is better"
    assert found.cost == pytest.approx(2)
    assert 2 <= found.seeds_needed <= 5
    (other,) = compare(boards, "b", "a")
    assert (other.mean, other.p, other.verdict) == (pytest.approx(-found.mean), pytest.approx(found.p), "b is better")


def test_verdicts_are_corrected_over_the_lines(tmp_path):
    """Three of these tests are below 0.05 alone, and none of all after the correction."""
    records = []
    for n, keep in enumerate((0.9, 0.7, 0.5, 0.3, 0.1)):
        records += seeds("a", [20, 22, 21, 23, 20], keep=keep)
        records += seeds("b", [23, 23, 23, 24, 22] if n < 3 else [20, 22, 20, 24, 20], keep=keep)
    found = compare(build(leaderboard.load(put(tmp_path, *records), cache=False))[0], "a", "b")
    alone = [c.p for c in found]
    assert sum(p < 0.05 for p in alone) == 3
    assert [c.p_holm for c in found] == pytest.approx(list(holm(alone)), rel=1e-11)
    assert {c.verdict for c in found if c.p_holm >= 0.05} == {"not significantly different"}
    assert [c.verdict == "a is better" for c in found] == [c.p_holm < 0.05 for c in found]


def test_a_verdict_says_where_the_board_disagrees(tmp_path):
    """The board corrects over its 30 rows, the comparison over its one line."""
    records = [*seeds("random", [23, 23, 24, 24, 22]), *seeds("a", [20, 22, 21, 23, 20])]
    records += [each for n in range(30) for each in seeds(f"other{n}", [20 + n % 3, 24, 21, 25 - n % 2, 22])]
    boards = build(leaderboard.load(put(tmp_path, *records), cache=False))[0]
    (row,) = [row for row in boards[0].tables[0].rows if row.name == "a"]
    assert row.differences["random"].p_holm > 0.05
    (found,) = compare(boards, "a", "random")
    assert found.p_holm == found.p < 0.05
    assert found.on_board is False
    assert found.verdict == "a is better in these tests, not significantly on the board"


def test_no_verdict_on_the_committed_board_contradicts_it():
    boards = build(leaderboard.load(ROOT / "leaderboard" / "records"))[0]
    for method in ("ddrop", "l1l2", "taylor"):
        for c in compare(boards, method, "random"):
            better = "is better" in c.verdict and "not significantly" not in c.verdict
            assert not (better and c.on_board is False)


def test_rows_are_named_with_their_options_or_by_hash(boards):
    (by_name,) = compare(boards, "c k=3", "a")
    spec = next(r.spec for b in boards for t in b.tables for r in t.rows if r.name == "c k=3")
    assert compare(boards, spec[:8], "a") == [by_name]


def test_errors_say_what_there_is(boards):
    with pytest.raises(UsageError, match="row 'aa'"):
        compare(boards, "aa", "b")
    with pytest.raises(UsageError, match="never on one board"):
        compare(boards, "lonely", "b")


def test_one_seed_is_no_verdict(tmp_path):
    boards = build(leaderboard.load(put(tmp_path, made("a"), made("b", wrong=50)), cache=False))[0]
    (found,) = compare(boards, "a", "b")
    assert (found.half, found.p, found.p_exact, found.seeds_needed) == (None,) * 4
    assert found.verdict == "one seed: no verdict"


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
