"""What must not change in contrasts when rows come, go or move, whatever they hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from support.noise import noise

from leaderboard.stats.contrasts import against

NAN = math.nan


@some.composite
def foreign(draw):
    """Rows of two other submitters, whatever they hold."""
    cell = some.one_of(some.just(NAN), some.sampled_from([0.0, 1e9, -1e9]), some.floats(-50, 50))
    rows = draw(some.integers(1, 6))
    owners = [draw(some.sampled_from(["acme", "zoo"])) for _ in range(rows)]
    return np.array([[draw(cell) for _ in range(5)] for _ in range(rows)]), owners


FIELDS = ("mean", "deviation", "freedom", "seeds", "won", "p", "p_holm")


@given(foreign(), some.integers(0, 7))
def test_rows_of_others_change_no_number_of_ours(added, reference):
    rows, owners = added
    ours = noise(8, 5, start=4)
    alone = against(ours, reference, ["suite"] * 8, 1 / 12)
    with_others = against(np.concatenate([rows, ours]), reference + len(rows), [*owners, *["suite"] * 8], 1 / 12)
    for name in FIELDS:
        assert getattr(with_others, name)[len(rows) :].tobytes() == getattr(alone, name).tobytes(), name


@given(foreign(), some.integers(0, 7))
def test_rows_of_one_other_change_no_number_of_another_s(added, reference):
    rows, owners = added
    ours, theirs = noise(8, 5, start=4), noise(3, 5, start=5)
    names = ["suite"] * 8 + ["third"] * 3
    alone = against(np.concatenate([ours, theirs]), reference, names, 1 / 12)
    with_others = against(np.concatenate([ours, theirs, rows]), reference, names + owners, 1 / 12)
    for name in FIELDS:
        assert getattr(with_others, name)[:11].tobytes() == getattr(alone, name).tobytes(), name


def test_other_seeds_of_others_change_no_number_of_ours():
    ours = noise(8, 5, start=4)
    wide = np.full((11, 12), NAN)
    wide[:8, [0, 2, 3, 7, 9]] = ours
    wide[8:] = noise(3, 12, start=5)
    alone, with_others = against(ours, 0, quantum=0.1), against(wide, 0, [*["suite"] * 8, *["acme"] * 3], 0.1)
    for name in FIELDS:
        assert getattr(with_others, name)[:8].tobytes() == getattr(alone, name).tobytes(), name
    assert with_others.seeds[8:].tolist() == [5, 5, 5]


def test_rows_of_others_are_tested_with_the_plan_s_prior():
    ours = noise(8, 5, start=4)
    copied = against(np.concatenate([ours, ours[3:4]]), 0, ["suite"] * 8 + ["acme"], 1 / 12)
    for name in ("mean", "deviation", "freedom", "p"):
        assert getattr(copied, name)[8] == getattr(copied, name)[3]
    assert copied.p_holm[8] == copied.p[8]  # alone in its family
    assert copied.family.tolist() == [-1, 0, 0, 0, 0, 0, 0, 0, 1]


@given(some.permutations(range(9)))
def test_order_of_rows_changes_nothing(order):
    values = noise(9, 5, start=6)
    found, mixed = against(values, 0), against(values[order], order.index(0))
    for name in FIELDS:
        assert getattr(mixed, name) == pytest.approx(getattr(found, name)[order], nan_ok=True)


@given(some.floats(0.01, 100), some.floats(-1000, 1000))
def test_another_unit_changes_no_p(scale, shift):
    values = noise(7, 5, start=7)
    found, other = against(values, 0, quantum=0.5), against(scale * values + shift, 0, quantum=0.5 * scale**2)
    assert other.p[1:] == pytest.approx(found.p[1:], rel=1e-6)
    assert other.half[1:] == pytest.approx(scale * found.half[1:], rel=1e-6)
