"""Compensations: their equations against numpy (F9), and what every other run does."""

import numpy as np
import pytest
import torch

from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from methods.refit import ridge


def problem(rows, columns, outputs=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) + 0.3
    return x, rng.standard_normal((rows, outputs)) + 1, rng.standard_normal((outputs, columns))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("strength", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize(("rows", "columns"), [(200, 30), (20, 45)])
def test_f9_ridge_is_the_least_squares_of_the_stacked_system(rows, columns, strength, constant):
    """F9: numpy's lstsq of ``[X; sqrt(D)] C = [R; 0]``: 1e-8; the column of ones is not pulled to zero."""
    x, missing, weight = problem(rows, columns)
    decay = np.full(columns, strength * (x**2).sum(axis=0).mean())
    if constant:
        x, decay = np.hstack([x, np.ones((rows, 1))]), np.append(decay, 0)
    stacked = np.vstack([x, np.diag(np.sqrt(decay))])
    expected = np.linalg.lstsq(stacked, np.vstack([missing, np.zeros((x.shape[1], 7))]), rcond=1e-9)[0]
    method = make_method("refit_ridge", {"ridge": str(strength)})
    found = method.solve(*map(torch.from_numpy, (x, missing, weight))).numpy()
    assert np.abs(found - expected.T).max() < 1e-8 * max(1, np.abs(expected).max())


def test_ridge_takes_inputs_of_zeros_and_one_row():
    x, missing = torch.zeros(5, 4, dtype=torch.double), torch.ones(5, 2, dtype=torch.double)
    assert not ridge(x, missing, 4, 1e-3).any()
    x[:, 3] = 1
    assert torch.allclose(ridge(x, missing, 3, 1e-3)[:, 3], torch.ones(2, dtype=torch.double))
    assert ridge(x[:1], missing[:1], 3, 1e-3).isfinite().all()


def test_mean_and_variance_are_their_equations():
    x, missing, weight = problem(50, 6)
    weight[3] = 0  # an output that no longer varies, and one that varies far too little
    weight[4] *= 1e-4
    given = [torch.from_numpy(a) for a in (np.hstack([x, np.ones((50, 1))]), missing, weight)]
    shift = make_method("refit_mean", {}).solve(*given).numpy()
    assert np.abs(shift[:, :-1]).max() == 0
    assert np.allclose(shift[:, -1], missing.mean(axis=0))
    change = make_method("refit_variance", {}).solve(*given).numpy()
    before, wanted = x @ weight.T, x @ weight.T + missing
    after = x @ (weight + change[:, :-1]).T + change[:, -1]
    free = [0, 1, 2, 5, 6]
    assert np.allclose(after.std(axis=0)[free], wanted.std(axis=0)[free])
    assert np.allclose(after.mean(axis=0), wanted.mean(axis=0))
    assert np.allclose(after.std(axis=0)[4], 10 * before.std(axis=0)[4])
    assert not change[3, :-1].any()


def test_estimating_again_is_what_every_other_run_does(make_run, tmp_path):
    """``l1_norm+refit_bn`` with as many batches as the recipe is ``l1_norm`` with fine-tuning, up to its cut."""
    asked = execute(*make_run("l1_norm+refit_bn", "check_residual", "tiny8", options={"refit_bn.batches": 2}))
    usual = execute(*make_run("l1_norm", "check_residual", "tiny8"))
    assert asked.metrics == usual.metrics
    assert asked.training.calibration.batches == 2
    assert asked.training.method_macs - usual.training.method_macs == 64 * usual.cost.final.macs
