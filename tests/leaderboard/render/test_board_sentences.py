"""What a board says in words follows from its numbers."""

from dataclasses import replace

import pytest
from support.boards import boards_of, difference, large, plan_for
from support.made_records import put, seeds

from leaderboard.reader.model import Table
from leaderboard.render import board_sentences

POWER = "a difference of 0.90 points would have been found with 80 % power"


def board(outcomes, references=("random",)):
    """One table a budget: for each method its difference to each reference, and whether it is significant."""
    base = large(5)
    tables = []
    for keep, methods in outcomes.items():
        rows = [
            replace(row, method=name, name=name, differences={to: difference(to, mean, p) for to in references})
            for row, (name, mean, p) in zip(base.tables[0].rows, methods, strict=False)
        ]
        tables.append(Table("macs", keep, tuple(rows), 1000, 100))
    return replace(base, tables=tuple(tables))


SAME, BETTER, WORSE = ("a", 0.1, 0.9), ("b", 1.5, 0.01), ("c", -2.0, 0.01)


def test_both_directions_reference_seeds_correction_and_power_are_named():
    assert board_sentences.sentences(board({0.1: [SAME, BETTER, WORSE, ("d", -3.0, 0.02)]})) == [
        "At 10 % of the MACs 2 of 4 methods are significantly worse than random units, 1 is significantly better "
        "(b by 1.50 points), none is shown to be equivalent within 1 point (5 seeds, Holm's correction over 4 rows; "
        f"{POWER})."
    ]


def test_what_is_not_significant_is_not_said_to_be_equal():
    (said,) = board_sentences.sentences(board({0.5: [SAME]}, ("uniform_thin",)))
    assert said == (
        "At 50 % of the MACs none of 1 method is significantly better than a thin network trained from scratch, none "
        "is significantly worse, none is shown to be equivalent within 1 point "
        f"(5 seeds, Holm's correction over 1 rows; {POWER})."
    )


def test_equivalent_rows_and_the_cost_of_the_reference_are_named():
    made = board({0.5: [SAME, ("uniform_thin", 0.0, 1.0)]}, ("uniform_thin",))
    row, thin = made.tables[0].rows
    equal = replace(row, differences={"uniform_thin": difference("uniform_thin", verdicts=("undecided", "equivalent"))})
    table = replace(made.tables[0], rows=(replace(equal, cost=1.0), replace(thin, cost=0.5, differences={})))
    (said,) = board_sentences.sentences(replace(made, tables=(table,)))
    assert "trained from scratch at 0.5 times the training cost, none" in said
    assert ", 1 is shown to be equivalent within 1 point (" in said


def test_controls_do_not_count():
    (said,) = board_sentences.sentences(board({0.5: [SAME, ("l1_norm", *WORSE[1:])]}))
    assert "none of 1 method" in said


def test_first_sentence_is_over_all_budgets_and_corrected_over_the_board(tmp_path):
    by_method = {"random": [30, 31, 33, 29, 30], "new": [10, 12, 11, 12, 10], "other": [30, 33, 31, 30, 29]}
    records = [r for keep in (0.5, 0.25) for name, wrong in by_method.items() for r in seeds(name, wrong, keep=keep)]
    records += seeds("dense", [5, 6, 4, 5, 6], keep=None)
    (made,), _ = boards_of(put(tmp_path, *records), plan_for(records))
    random, dense, *each = board_sentences.sentences(made)
    assert random.startswith(
        "Over all budgets 1 of 2 methods makes significantly fewer errors than random units (new: 0.37 times as many), "
        "none makes significantly more (5 seeds, Holm's correction over the 5 comparisons of the board; "
    )
    assert dense.startswith(
        "Over all budgets none of 2 methods makes significantly fewer errors than the dense network"
    )
    assert "2 make significantly more (other: 5.50 times as many) (5 seeds" in dense
    assert dense.endswith(" times as many errors would have been found with 80 % power).")
    assert [said[:14] for said in each] == ["At 50 % of the"] * 2 + ["At 25 % of the"] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"differences": {}}, "No verdicts: fewer than 5 seeds in common, or seeds of the plan are missing."),
        ({}, "Exploratory: no plan names these rows, so there are no verdicts (bench board --plan FILE)."),
        ({"track": "native"}, "Methods chose their own sparsity here; they differ in size, so they are not ranked."),
        ({"method": "random"}, "There are only controls here."),
    ],
)
def test_why_nothing_is_said(change, said):
    base = large(2)
    kind = "native" if "track" in change else "macs"
    rows = tuple(replace(r, **change) for r in base.tables[0].rows)
    table = Table(kind, None if kind == "native" else 0.5, rows, 1, 1)
    terms = base.terms if "differences" in change else None
    assert board_sentences.sentences(replace(base, tables=(table,), terms=terms)) == [said]


def test_lists_in_words():
    assert board_sentences.listed(["a"]) == "a"
    assert board_sentences.listed(["keep 0.5", "keep 0.25", "native track"]) == "keep 0.5, keep 0.25 and native track"
    assert board_sentences.listed(["keep 0.5", "keep 0.5 of the params"]) == "keep 0.5 and 0.5 of the params"
