"""Equal shares as whole units, against every rounding of every common share."""

import itertools
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.cost_models import family

from bench.pruning.rounding import best_rounding, whole_units
from bench.pruning.selection import select
from bench.spec.spec import BUDGET_TOLERANCE, Budget

LIMITS = ("keep_macs", "keep_params")
BUDGETS = [round(0.05 + 0.01 * k, 2) for k in range(91)]
SMALL = ("conv_flatten", "residual_A_full", "densely_connected", "excited", "encoder")


def test_whole_units_are_those_of_exact_fractions():
    for digits in (1, 2, 3):
        for k in range(10**digits + 1):
            exact = Fraction(k, 10**digits)
            for units in (*range(1, 50), *range(90, 2001, 70)):
                assert whole_units(float(exact), units) == int(exact * units), (exact, units)


def model_of(name):
    return family(name)[2]


@cache
def roundings(dense, min_keep):
    """All widths that are one common share of the sites, each rounded down or up, at least ``min_keep``."""
    points = sorted({Fraction(k, units) for units in dense for k in range(units + 1)})
    points += [(low + high) / 2 for low, high in itertools.pairwise(points)]
    choices = set()
    for share in points:
        ends = [(share * units // 1, -(-share * units // 1)) for units in dense]
        choices |= set(
            itertools.product(*({max(int(end), min(min_keep, n)) for end in e} for e, n in zip(ends, dense)))
        )
    return np.array(sorted(choices))


def equal_widths(model, budget):
    none = {name: torch.zeros(int(n)) for name, n in zip(model.names, model.dense)}
    return model.array({name: int(mask.sum()) for name, mask in select(none, model, budget, "layer").items()})


def check(model, budget):
    """Within the budget, and within the tolerance of it or as near as any rounding of a common share."""
    costs = model.costs(budget, roundings(tuple(model.dense.tolist()), budget.min_keep))
    limit, cost = model.allowed(budget), model.cost(budget, equal_widths(model, budget))
    best = costs[costs <= limit].max()
    assert cost <= limit
    assert cost >= best or budget.keep - cost / model.cost(budget, model.dense) <= BUDGET_TOLERANCE
    return budget.keep - best / model.cost(budget, model.dense) <= BUDGET_TOLERANCE


@pytest.mark.parametrize(("limit", "min_keep"), [("keep_macs", 1), ("keep_params", 4)])
def test_lenet_reaches_every_budget_that_a_rounding_reaches(limit, min_keep):
    reached = sum(check(model_of("lenet"), Budget(**{limit: share}, min_keep=min_keep)) for share in BUDGETS)
    assert reached == {"keep_macs": 69, "keep_params": 91}[limit]


def test_lenet_at_common_budgets():
    """The share of 0.5 needs the best rounding, the others do not."""
    model = model_of("lenet")
    for share, widths in (
        *((0.1, [5, 15, 149]), (0.15, [7, 17, 180]), (0.5, [14, 34, 330])),
        *((0.6, [15, 38, 390]), (0.75, [17, 43, 437]), (0.9, [19, 47, 474])),
    ):
        assert equal_widths(model, Budget(keep_macs=share)).tolist() == widths, share
    half = equal_widths(model, Budget(keep_macs=0.5))
    assert model.macs(half) / model.macs(model.dense) == pytest.approx(0.4998, abs=5e-5)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from(SMALL), st.floats(0.05, 1), st.sampled_from(LIMITS), st.integers(1, 3))
@example("conv_flatten", 0.485, "keep_macs", 1)
def test_small_networks_come_as_near_as_any_rounding(name, share, limit, min_keep):
    model, budget = model_of(name), Budget(**{limit: share}, min_keep=min_keep)
    if model.cost(budget, np.minimum(model.dense, min_keep)) <= model.allowed(budget):
        check(model, budget)


def polynomial(sites, seed):
    """Units of each site, and a cost as convolutions in a chain with a skip have it."""
    rng = np.random.default_rng(seed)
    dense, pair = rng.integers(1, 9, sites), np.zeros((sites, sites), dtype=np.int64)
    for k in range(sites - 1):
        pair[k, k + 1] = rng.integers(0, 500)
    pair[0, -1] += rng.integers(0, 500)
    single = rng.integers(1, 800, sites)
    return dense, lambda widths: ((widths @ pair) * widths).sum(axis=-1) + widths @ single


@settings(derandomize=True, max_examples=75, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6), st.floats(0.1, 1), st.integers(0, 2))
def test_the_best_rounding_is_the_best_of_all(sites, seed, share, least):
    dense, cost = polynomial(sites, seed)
    limit = int(share * cost(dense))
    choices = roundings(tuple(dense.tolist()), least)
    costs = cost(choices)
    widths = best_rounding([np.arange(1, n + 1) / n for n in dense], np.minimum(dense, least), cost, limit, above=-1)
    if widths is None:
        assert not (costs <= limit).any()
    else:
        assert widths.tolist() in choices.tolist()
        assert cost(widths) == costs[costs <= limit].max()
        enters, floors = [np.arange(1, n + 1) / n for n in dense], np.minimum(dense, least)
        assert best_rounding(enters, floors, cost, limit, above=cost(widths)) is None
        assert cost(best_rounding(enters, floors, cost, cost(widths), above=-1)) == cost(widths)  # to the last MAC


def test_sixty_coarse_sites_are_rounded_within_the_budget():
    """More sites than can be tried one and all: the result is within a ten thousandth, and always the same."""
    for seed in range(2):
        dense, cost = polynomial(60, seed)
        enters = [np.arange(1, n + 1) / n for n in dense]
        limit = cost(dense) // 2
        widths, again = (best_rounding(enters, np.ones(60, dtype=np.int64), cost, limit, above=0) for _ in range(2))
        assert 0 <= limit - cost(widths) <= 1e-4 * cost(dense)
        assert max((widths - 1) / dense) < min((np.minimum(widths, dense) + 1) / dense)
        assert again.tolist() == widths.tolist()
