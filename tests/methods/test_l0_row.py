"""l0-constrained rows: section 11 of the specification of related methods, against numpy and all supports."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from support.networks import three_sites
from torch import nn

from bench.errors import UsageError
from bench.runs.method_factory import make_method
from methods.l0_row import iht_row
from methods.refit import ridge


def l0_row(**options):
    return make_method("l0_row", {key: str(value) for key, value in options.items()})


def problem(units=8, each=2, outputs=5, rows=60, seed=0):
    """Correlated inputs ``[rows, units * each]``, weights, and the unit of each column."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, units * each)) @ rng.standard_normal((units * each, units * each))
    weight = rng.standard_normal((units * each, outputs)) * rng.uniform(0.2, 2, (units * each, 1))
    return x, weight, np.repeat(np.arange(units), each)


def solved(x, weight, unit, kept, iterations=50):
    x, weight = torch.from_numpy(x), torch.from_numpy(weight)
    mask, (rows,) = iht_row([(x.T @ x, weight, torch.from_numpy(unit))], kept, iterations)
    return mask.numpy(), rows.numpy()


def objective(x, weight, rows):
    return 0.5 * float(((x @ (rows - weight)) ** 2).sum())


def refitted(x, weight, columns):
    """Error of numpy's least squares on some columns."""
    found = np.linalg.lstsq(x[:, columns], x @ weight, rcond=None)[0]
    return 0.5 * float(((x[:, columns] @ found - x @ weight) ** 2).sum())


@pytest.mark.parametrize("kept", [1, 3, 6])
def test_11g1_objective_never_rises_and_the_support_is_exact(kept):
    """MR 11(g)1: at step 1/L."""
    x, weight, unit = problem()
    errors = []
    for iterations in range(30):
        mask, rows = solved(x, weight, unit, kept, iterations)
        assert mask.sum() == kept
        assert set(unit[np.abs(rows).sum(axis=1) > 0]) <= set(np.flatnonzero(mask))
        errors.append(objective(x, weight, rows))
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors))
    assert errors[-1] < errors[0]


def test_11g2_all_units_are_the_weights():
    """MR 11(g)2: k = N returns W."""
    x, weight, unit = problem()
    mask, rows = solved(x, weight, unit, 8)
    assert mask.all()
    assert np.array_equal(rows, weight)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kept", [2, 4, 6])
def test_11g3_never_worse_than_the_start_nor_better_than_the_best_support(kept, seed):
    """MR 11(g)3: the start is the k largest rows with their original weights; the oracle tries all supports."""
    x, weight, unit = problem(seed=seed)
    norms = np.array([np.linalg.norm(weight[unit == u]) for u in range(8)])
    largest = np.isin(unit, np.argsort(-norms)[:kept])
    start = objective(x, weight, np.where(largest[:, None], weight, 0))
    mask, rows = solved(x, weight, unit, kept)
    columns = np.flatnonzero(mask[unit])
    best = min(refitted(x, weight, np.flatnonzero(np.isin(unit, some))) for some in combinations(range(8), kept))
    last = refitted(x, weight, columns)
    assert best - 1e-9 <= last <= objective(x, weight, rows) <= start
    kept_x, missing = torch.from_numpy(x[:, columns]), torch.from_numpy(x @ weight - x[:, columns] @ weight[columns])
    change = ridge(kept_x, missing, len(columns), 1e-6).T.numpy()
    assert objective_of(missing.numpy(), kept_x.numpy(), change) == pytest.approx(last, rel=1e-3)


def objective_of(missing, x, change):
    return 0.5 * float(((missing - x @ change) ** 2).sum())


def test_11g3_most_of_the_best_supports_are_found():
    """Of 20 problems whose inputs are hardly correlated; a single wrong swap costs little."""
    worse = []
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        x, (_, weight, unit) = rng.standard_normal((80, 16)), problem(seed=seed)
        mask, _ = solved(x, weight, unit, 4)
        best = min(refitted(x, weight, np.flatnonzero(np.isin(unit, some))) for some in combinations(range(8), 4))
        worse.append(refitted(x, weight, np.flatnonzero(mask[unit])) / best)
    assert np.median(worse) == pytest.approx(1.0)
    assert max(worse) < 1.5


def test_orthonormal_inputs_keep_the_largest_rows():
    """There the program is solved by sorting, and rows keep their weights."""
    _, weight, unit = problem()
    x = np.linalg.qr(np.random.default_rng(1).standard_normal((60, 16)))[0]
    mask, rows = solved(x, weight, unit, 3)
    norms = np.array([np.linalg.norm(weight[unit == u]) for u in range(8)])
    assert set(np.flatnonzero(mask)) == set(np.argsort(-norms)[:3])
    assert np.allclose(rows, np.where(mask[unit][:, None], weight, 0))


def test_units_of_several_readers_are_chosen_together():
    """What one reader hardly needs another may: the sum decides."""
    x, weight, unit = problem()
    wanted = int(np.flatnonzero(solved(x, weight, unit, 4)[0])[0])
    quiet = np.where((unit == wanted)[:, None], 1e-3, 1.0) * weight
    gram = torch.from_numpy(x.T @ x)
    readers = [(gram, torch.from_numpy(w), torch.from_numpy(unit)) for w in (quiet, 20 * weight)]
    (alone, _), (together, rows) = iht_row(readers[:1], 4, 50), iht_row(readers, 4, 50)
    assert torch.equal(together, iht_row(readers[1:], 4, 50)[0])
    assert not torch.equal(alone, together)
    for row in rows:
        assert not row[~together[torch.from_numpy(unit)]].any()


def test_masks_have_the_widths_of_equal_shares_and_readers_are_refitted(make_ctx):
    """k from ``equal_widths``; then least squares on the rows that stay."""
    torch.manual_seed(0)
    ctx, method = make_ctx(arch=three_sites(), keep=0.4), l0_row(images=96, patches=500)
    masks = method.select(ctx, ctx.budget)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == ctx.equal_widths()
    assert ctx._model.ledger.forward == 96
    with torch.no_grad():
        dense = ctx._model.network.eval()(ctx.x)

    def error():
        with ctx.masked(masks), torch.no_grad():
            return float((ctx._model.network(ctx.x) - dense).square().mean())

    before = error()
    with ctx._now.during("compensate"):
        method.compensate(ctx, masks)
    assert error() < 0.5 * before


def test_response_of_a_flattened_map_is_that_of_its_units(make_ctx):
    """A unit that another one repeats goes before those that none replaces."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 10)),
    )
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias):
            tensor[3] = tensor[0]
        network[4].weight.normal_()
    ctx = make_ctx(arch=network, keep=0.9)
    (reading,) = ctx.readings()["0"]
    mask, _ = iht_row([(reading.x.T @ reading.x, reading.weight, reading.unit)], 5, 500)
    assert int(mask[[0, 3]].sum()) == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("iterations", "0", "iterations 0: 1 or more"),
        ("ridge", "-1", "ridge -1.0: 0 or more"),
        ("images", "0", "images 0: 1 or more"),
    ],
)
def test_wrong_options_are_answered_with_the_range(option, value, message):
    with pytest.raises(UsageError, match=message):
        make_method("l0_row", {option: value})


def test_with_another_compensation_it_is_refused():
    with pytest.raises(UsageError, match="l0_row and refit_ridge cannot be composed: one of them compensates"):
        make_method("l0_row+refit_ridge", {})
