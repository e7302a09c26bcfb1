"""VIP-PLS; the tests of the specification's section 12, with scikit-learn's PLSRegression as oracle."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import PLSRegression

from methods.vip_pls import VipPls, vip


def drawn(n=60, p=30, classes=4, seed=0):
    """Features of which the first depend on the class, and one-hot responses."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    X = generator.normal(size=(n, p)) * generator.uniform(0.1, 5, p) + generator.normal(size=p)
    X[:, :5] += generator.normal(size=(classes, 5))[labels]
    return X, np.eye(classes)[labels]


def by_sklearn(X, Y, components):
    """VIP as in the code of Jordao et al., from scikit-learn's scores, weights and loadings."""
    model = PLSRegression(components, tol=1e-14, max_iter=20000).fit(X, Y)
    t, w, q = model.x_scores_, model.x_weights_, model.y_loadings_
    S = np.array([(t[:, h] @ t[:, h]) * (q[:, h] @ q[:, h]) for h in range(components)])
    share = np.array([(w[:, h] / np.linalg.norm(w[:, h])) ** 2 for h in range(components)])
    return np.sqrt(X.shape[1] * (S @ share) / S.sum())


def ours(X, Y, components=2):
    return vip(torch.from_numpy(X), torch.from_numpy(Y), components).numpy()


@pytest.mark.parametrize("components", [1, 2, 3])
@pytest.mark.parametrize("shape", [(60, 30), (20, 50), (200, 8)])
def test_12_vip_is_that_of_scikit_learn(components, shape):
    X, Y = drawn(*shape)
    assert np.allclose(ours(X, Y, components), by_sklearn(X, Y, components), atol=1e-5)  # its iteration ends at 1e-7


def test_12_squares_add_up_to_the_number_of_features():
    """MR 12: 30.0 for p = 30."""
    for components in (1, 2, 5):
        assert (ours(*drawn(), components) ** 2).sum() == pytest.approx(30.0)


def test_12_permuted_features_have_permuted_importances():
    X, Y = drawn()
    order = np.random.default_rng(1).permutation(30)
    assert np.allclose(ours(X[:, order], Y), ours(X, Y)[order])


def test_12_a_planted_feature_ranks_first():
    X, Y = drawn(seed=3)
    X[:, 17] = 3 * Y[:, 2] + 0.01 * np.random.default_rng(0).normal(size=60)
    assert ours(X, Y).argmax() == 17


def test_scale_and_place_of_a_feature_do_not_matter_and_a_constant_one_is_nothing():
    X, Y = drawn()
    assert np.allclose(ours(7 * X - 3, Y), ours(X, Y))
    X[:, 4] = 2.5
    found = ours(X, Y)
    assert found[4] == 0
    assert (found**2).sum() == pytest.approx(30.0)


def test_what_explains_nothing_is_finite():
    """One class only, constant features, more components than there are dimensions."""
    X, Y = drawn()
    for features, responses, components in ((X, Y[:, :1] * 0 + 1, 2), (X * 0, Y, 2), (X[:, :2], Y, 5)):
        found = ours(features, responses, components)
        assert np.isfinite(found).all()
    assert (ours(X * 0, Y) == 0).all()


def test_scores_are_those_of_pooled_activations(make_ctx):
    """All sites together, images in the order of the batches; by scikit-learn from a plain forward."""
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()),
        *(torch.nn.Linear(54, 7), torch.nn.ReLU(), torch.nn.Linear(7, 10)),
    )
    ctx = make_ctx(arch=network)
    batches = list(ctx.batches(limit=2))
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    with torch.no_grad():
        maps, neurons = network.eval()[:2](x).double(), network[:6](x).double()
    Y = np.eye(10)[y.numpy()]
    for pool, pooled in (("max", maps.amax(dim=(2, 3))), ("mean", maps.mean(dim=(2, 3)))):
        found = VipPls(VipPls.Config(pool=pool, batches=2)).scores(ctx)
        X = torch.cat([pooled, neurons], dim=1).numpy()
        assert np.allclose(torch.cat([found["0"], found["4"]]).numpy(), by_sklearn(X, Y, 2), rtol=1e-4, atol=1e-6)
    masks = VipPls().select(ctx, ctx.budget)
    scores = VipPls().scores(ctx)
    assert scores["0"][masks["0"]].min() > scores["0"][~masks["0"]].max()  # one order over all sites


def test_bad_options_are_answered_with_their_range():
    for options in ({"components": 0}, {"batches": 0}):
        with pytest.raises(ValueError, match=r"(components|batches) 0: 1 or more"):
            VipPls.Config(**options)
