"""What a board says in words follows from its numbers."""

from dataclasses import replace

import pytest
from support.boards import large

from leaderboard.reader.model import Difference, Table
from leaderboard.render import board_sentences


def board(outcomes, seeds=5):
    """One table a budget: for each method its difference to random and to thin, and whether they are clear."""
    base = large(3)
    tables = []
    for keep, methods in outcomes.items():
        rows = []
        for row, (name, to_random, to_thin) in zip(base.tables[0].rows, methods, strict=False):
            differences = {
                to: Difference(to, mean, 0.1, seeds, 0.01, 0.01 if clear else 0.9)
                for to, (mean, clear) in (("random", to_random), ("uniform_thin", to_thin))
            }
            rows.append(replace(row, method=name, name=name, differences=differences))
        tables.append(Table("macs", keep, tuple(rows), 1000, 100))
    return replace(base, tables=tuple(tables))


SAME = ("a", (0.1, False), (-0.1, False))
BETTER = ("b", (1.5, True), (0.4, True))
WORSE = ("c", (-2.0, True), (-2.0, True))


def test_budgets_without_a_difference_are_named_together():
    assert board_sentences.sentences(board({0.75: [SAME], 0.5: [SAME], 0.25: [SAME]})) == [
        "No method can be told from random at keep 0.75, 0.5 and 0.25 (5 seeds).",
        "No method is better than a thin network trained from scratch at any budget.",
    ]
    assert board_sentences.sentences(board({0.5: [("random", *BETTER[1:]), ("l1_norm", *WORSE[1:])]})) == [
        "There are only controls here."
    ]
    assert board_sentences.listed(["a"]) == "a"
    assert board_sentences.listed(["keep 0.5", "keep 0.25", "native track"]) == "keep 0.5, keep 0.25 and native track"
    assert board_sentences.listed(["keep 0.5", "keep 0.5 of the params"]) == "keep 0.5 and 0.5 of the params"


def test_methods_that_are_better_or_worse_are_counted():
    said = board_sentences.sentences(board({0.5: [SAME], 0.25: [SAME, BETTER, WORSE]}))
    assert said == [
        "No method can be told from random at keep 0.5 (5 seeds).",
        "At keep 0.25, 1 of 3 methods is better than random, 1 worse; b leads it by 1.50 points.",
        "Better than a thin network trained from scratch: 1 of 3 methods at keep 0.25, none at keep 0.5.",
    ]
    assert board_sentences.sentences(board({0.5: [WORSE]})) == [
        "At keep 0.5, no method is better than random and 1 of 1 methods is worse.",
        "No method is better than a thin network trained from scratch at any budget.",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"differences": {}}, "Nothing can be told from random: there are too few seeds in common with it."),
        ({"track": "native"}, "Methods chose their own sparsity here; they differ in size, so they are not ranked."),
    ],
)
def test_why_nothing_is_said(change, said):
    base = large(2)
    kind = "native" if "track" in change else "macs"
    table = Table(
        kind, None if kind == "native" else 0.5, tuple(replace(r, **change) for r in base.tables[0].rows), 1, 1
    )
    assert board_sentences.sentences(replace(base, tables=(table,))) == [said]
