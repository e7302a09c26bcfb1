"""Net-Trim by rows: section 8 of the specification of related methods, against scipy and optimality."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support.networks import three_sites
from support.plans import carry_out
from torch import nn

from bench.api import PRUNE
from bench.errors import UsageError
from bench.runs.method_factory import make_method
from bench.runs.prune import prune as real_prune
from methods.net_trim_row import row_admm


def net_trim(**options):
    return make_method("net_trim_row", {key: str(value) for key, value in options.items()})


def problem(units=6, each=1, outputs=3, rows=40, weak=2, seed=0):
    """Inputs as a ReLU leaves them, weights with some weak rows, and the unit of each."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((rows, units * each)), 0)
    weight, unit = rng.standard_normal((units * each, outputs)), np.repeat(np.arange(units), each)
    weight[unit < weak] *= 0.05
    return x, weight, unit


def solved(x, weight, unit, gain, iterations=2000, rho=1.0):
    return row_admm(*map(torch.from_numpy, (x, weight, unit)), gain, rho, iterations).numpy()


def norm_of(rows, weight, unit):
    """The program's objective."""
    return sum(np.linalg.norm(rows[unit == u]) / np.linalg.norm(weight[unit == u]) for u in np.unique(unit))


def error(x, weight, rows):
    return np.linalg.norm(x @ (rows - weight)) / np.linalg.norm(x @ weight)


@pytest.mark.parametrize("gain", [0.02, 0.1, 0.4])
def test_8b_solution_is_scipys(gain):
    """The program on a tiny layer, by a general solver on smoothed norms."""
    x, weight, unit = problem()
    response = np.linalg.norm(x @ weight)

    def smooth(flat):
        rows = flat.reshape(weight.shape)
        sizes = np.sqrt((rows**2).sum(axis=1) + 1e-14)
        costs = 1 / np.linalg.norm(weight, axis=1)
        return (sizes * costs).sum(), (rows * (costs / sizes)[:, None]).ravel()

    def slack(flat):
        return (gain * response) ** 2 - ((x @ (flat.reshape(weight.shape) - weight)) ** 2).sum()

    def slope(flat):
        return (-2 * x.T @ (x @ (flat.reshape(weight.shape) - weight))).ravel()

    best = minimize(
        smooth,
        weight.ravel(),
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": slack, "jac": slope},
        options={"maxiter": 2000, "ftol": 1e-13},
    )
    rows = solved(x, weight, unit, gain)
    assert norm_of(rows, weight, unit) == pytest.approx(best.fun, rel=1e-3)
    assert norm_of(rows, weight, unit) <= best.fun + 1e-4


@pytest.mark.parametrize("each", [1, 4])
def test_8b_conditions_of_optimality_hold(each):
    """``X_i^T X (U - W) = -l U_i / (||W_i|| ||U_i||)`` where a unit stays, at most ``l / ||W_i||`` else."""
    x, weight, unit = problem(units=8, each=each, rows=120, weak=3)
    rows = solved(x, weight, unit, 0.1)
    pull = x.T @ (x @ (rows - weight))
    stays = [u for u in range(8) if np.abs(rows[unit == u]).max() > 0]
    assert 0 < len(stays) < 8
    forces = [np.linalg.norm(pull[unit == u]) * np.linalg.norm(weight[unit == u]) for u in range(8)]
    multiplier = np.mean([forces[u] for u in stays])
    for u in range(8):
        if u in stays:
            own = rows[unit == u]
            expected = -multiplier * own / np.linalg.norm(own) / np.linalg.norm(weight[unit == u])
            assert np.allclose(pull[unit == u], expected, rtol=1e-4, atol=1e-6)
        else:
            assert forces[u] <= multiplier * (1 + 1e-6)


def test_8g1_sum_of_norms_is_at_most_that_of_the_weights():
    """MR 8(g)1: the weights themselves are feasible at eps = 0, so no solution is larger; monotone in eps."""
    x, weight, unit = problem(units=10, rows=80, weak=0)
    sums = [norm_of(solved(x, weight, unit, gain), weight, unit) for gain in (0.0, 0.02, 0.1, 0.3)]
    assert sums[0] == pytest.approx(10.0, rel=1e-6)
    assert all(after < before for before, after in itertools.pairwise(sums))
    assert np.allclose(solved(x, weight, unit, 0.0), weight, atol=1e-6)


@pytest.mark.parametrize("gain", [0.02, 0.1, 0.5])
def test_8g2_constraint_holds(gain):
    """MR 8(g)2: and is used up, as a smaller norm would be had with more error."""
    x, weight, unit = problem(units=10, rows=80, weak=0)
    assert error(x, weight, solved(x, weight, unit, gain)) == pytest.approx(gain, rel=1e-4)
    assert error(x, weight, solved(x, weight, unit, gain, iterations=100)) <= gain * 1.02


def test_8g3_iterates_settle():
    """MR 8(g)3: ``W2 - W3 -> 0``, further steps change nothing; rho changes the way, not the goal."""
    x, weight, unit = problem(units=10, rows=80, weak=3)
    last = solved(x, weight, unit, 0.1, 4000)
    distances = [np.abs(solved(x, weight, unit, 0.1, n) - last).max() for n in (10, 100, 1000)]
    assert distances[0] > distances[1] >= distances[2]
    assert distances[2] < 1e-6
    assert np.allclose(solved(x, weight, unit, 0.1, 4000, rho=5.0), last, atol=1e-5)


def test_8d_planted_rows_are_found_at_the_default_gain_and_iterations():
    """MR 8(d): 60 units, 25 of them weak: these go and no others, with an error of at most 0.05."""
    x, weight, unit = problem(units=60, outputs=20, rows=4000, weak=25)
    c = net_trim().config
    rows = solved(x, weight, unit, c.gain, c.iterations, c.rho)
    assert np.array_equal(np.flatnonzero(~rows.any(axis=1)), np.arange(25))
    assert error(x, weight, rows) <= 0.05 * 1.001


def test_8j_a_constant_costs_nothing():
    """What a unit that never varies adds goes into the free row of ones."""
    x, weight, unit = problem(units=6, rows=80, weak=0)
    x[:, 2] = 1.7
    rows = solved(np.hstack([x, np.ones((80, 1))]), weight, unit, 0.02)
    assert rows.shape == (7, 3)
    assert not rows[2].any()
    assert np.allclose(rows[6], 1.7 * weight[2], rtol=0.2)
    assert rows[[0, 1, 3, 4, 5]].any(axis=1).all()


def weak_units(network, *which):
    """What reads some units of the first convolution hardly does."""
    with torch.no_grad():
        network[4].weight[:, list(which)] *= 1e-3
    return network


def test_8g4_zero_rows_are_cut_exactly_in_the_native_track(make_training):
    """MR 8(g)4: gate == slice, and the responses are those of the program's constraint after the cut."""
    torch.manual_seed(0)
    training = make_training(net_trim(images=96), arch=weak_units(three_sites(), 1, 4, 5), keep=1.0)
    ctx = training.ctx
    ctx._budget = None
    masks = ctx.select()
    assert not masks["0"][[1, 4, 5]].any()
    assert all(mask.any() for mask in masks.values())
    x = ctx.x
    with torch.no_grad():
        before = training.model.network.eval()(x)
    carry_out(training, (PRUNE,), lambda trainer: real_prune(trainer, None, (1, 8, 8), trains=False))
    assert training.now.prune_result["gate_slice_difference"] <= 1e-4
    assert training.now.prune_result["calibration"]["parts"] == ["net_trim_row"]
    assert ctx.layers["4"].matrix().shape[1] == 9 * int(masks["0"].sum())
    with torch.no_grad():
        after = training.model.network.eval()(x)
    assert (after - before).norm() < 0.2 * before.norm()


def test_scores_are_those_of_what_the_reader_reads_and_a_constant(make_ctx):
    """Inputs by a plain forward, in the rows of all images, and a free column of ones."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    ctx, method = make_ctx(arch=network), net_trim(gain=0.3)
    with torch.no_grad():
        x = network[:3](torch.cat([x for x, _ in ctx.batches()])).double().numpy()
    weight = network[3].weight.detach().double().numpy().T
    rows = solved(np.hstack([x, np.ones((len(x), 1))]), weight, np.arange(8), 0.3, iterations=100)
    expected = np.linalg.norm(rows[:8], axis=1) / np.linalg.norm(weight, axis=1)
    (found,) = method.scores(ctx).values()
    assert np.allclose(found.numpy(), expected, atol=1e-4)
    assert 0 < (expected == 0).sum() < 8


def test_matched_budget_keeps_the_highest_scores(make_ctx):
    torch.manual_seed(0)
    ctx, method = make_ctx(arch=weak_units(three_sites(), 1, 4, 5), keep=0.4), net_trim(images=50)
    masks, scores = method.select(ctx, ctx.budget), method.scores(ctx)
    assert {n: int(m.sum()) for n, m in masks.items()} == ctx.equal_widths()
    for name, mask in masks.items():
        assert scores[name][mask].min() >= scores[name][~mask].max()
        assert (scores[name] >= 0).all()
    assert not scores["0"][[1, 4, 5]].any()


def test_units_with_several_readers_go_where_none_reads_them(make_ctx):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        network[3].weight[:, 6] = 0
    (scores,) = net_trim().scores(make_ctx(arch=network)).values()
    assert scores[6] == 0
    assert scores.isfinite().all()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gain", "1", "gain 1.0: at least 0 and below 1"),
        ("rho", "0", "rho 0.0: above 0"),
        ("iterations", "0", "iterations 0: 1 or more"),
        ("images", "0", "images 0: 1 or more"),
    ],
)
def test_wrong_options_are_answered_with_the_range(option, value, message):
    with pytest.raises(UsageError, match=message):
        make_method("net_trim_row", {option: value})
