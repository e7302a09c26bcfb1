"""Simulated counts through records, a plan and real boards get the answers of the rule itself."""

import numpy as np
import pytest

from tools.timing.null_boards import JUDGES
from tools.timing.null_tables import NULL


@pytest.mark.parametrize("name", ["all alike", "one row 5x as noisy", "99.9 % of 355"])
def test_boards_judge_as_the_rule_does(name):
    tables = NULL[name][0](np.random.default_rng(1), (20, 12, 5))
    for board, rule in zip(JUDGES["board"](tables), JUDGES["new"](tables), strict=True):
        assert board.mean == pytest.approx(rule.mean, abs=1e-6)
        assert board.half == pytest.approx(rule.half, rel=1e-6)
        assert board.significant.tolist() == rule.significant.tolist()
        assert board.any_pair == rule.any_pair
