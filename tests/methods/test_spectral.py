"""Spectral dropout against its specification; numbers are those of the tests (g) and traps (h) of its section 4."""

import numpy as np
import pytest
import scipy.fft
import torch
from support.plans import carry_out
from torch import nn
from torch.nn import functional as F

from bench.api import Phase
from bench.runs.execute import execute
from methods.spectral import Spectral, SpectralEnergy
from methods.transforms import SpectralDropout, dct, dht, fold, matrix

KINDS = [(t, a) for t in ("dct", "dht", "dft") for a in ("channel", "spatial", "flat")]
every_kind = pytest.mark.parametrize(("transform", "axis"), KINDS)


def made(**options):
    """A layer in training mode."""
    return SpectralDropout(Spectral.Config(**options), torch.Generator().manual_seed(0))


def maps(*shape, seed=1):
    """Activations as after a ReLU: many zeros, a large mean."""
    return torch.randn(*(shape or (3, 9, 4, 5)), generator=torch.Generator().manual_seed(seed)).relu() + 0.01


def freeze(layer, a):
    """The mask that ``layer`` draws for ``a``, from now on its only one."""
    spectra = []
    keep = layer.keep
    layer.keep = lambda spectrum, hard: spectra.append(spectrum) or keep(spectrum, hard)
    layer(a)
    mask = layer.mask
    layer.keep = lambda spectrum, hard: mask
    return mask, spectra[0]


@pytest.mark.parametrize("n", [1, 2, 9, 16, 33])
def test_4g01_transforms_are_orthonormal_and_those_of_scipy(n):
    x = np.random.default_rng(0).normal(size=n)
    hartley = scipy.fft.fft(x, norm="ortho")
    assert np.allclose(dct(n).numpy() @ x, scipy.fft.dct(x, norm="ortho"), atol=1e-12)
    assert np.allclose(dht(n).numpy() @ x, hartley.real - hartley.imag, atol=1e-12)
    for basis in (dct, dht):
        assert (basis(n) @ basis(n).T - torch.eye(n)).abs().max() < 1e-6
    assert torch.allclose(dht(n) @ dht(n), torch.eye(n, dtype=torch.float64))
    for name in ("dct", "dht"):
        t = matrix(name, n * n, square=True)
        assert (t @ t.T - torch.eye(n * n)).abs().max() < 1e-5
    square = np.random.default_rng(1).normal(size=(n, n))
    found = matrix("dct", n * n, square=True).double().numpy() @ square.flatten()
    assert np.allclose(found, scipy.fft.dctn(square, norm="ortho").flatten(), atol=1e-5)
    assert torch.equal(matrix("dct", 12, square=True), dct(12).float())  # no square


@pytest.mark.parametrize(
    ("axis", "oracle"),
    [
        ("channel", lambda a: scipy.fft.dctn(a.reshape(3, 3, 3, 4, 5), axes=(1, 2), norm="ortho").reshape(a.shape)),
        ("spatial", lambda a: scipy.fft.dctn(a, axes=(2, 3), norm="ortho")),
        ("flat", lambda a: scipy.fft.dct(a.reshape(3, -1), norm="ortho").reshape(a.shape)),
    ],
)
def test_4g01_the_axis_that_is_transformed(axis, oracle):
    a = maps()
    _, spectrum = freeze(made(axis=axis), a)
    found = spectrum.movedim(-1, 1) if axis == "channel" else spectrum.reshape(a.shape)
    assert np.allclose(found.numpy(), oracle(a.double().numpy()), atol=1e-5)


@every_kind
def test_4g02_nothing_and_everything_dropped(transform, axis):
    a, kind = maps(), {"transform": transform, "axis": axis}
    for train in (True, False):
        for options in ({"tau": 0.0, "p_keep": 0.0}, {"p_keep": 1.0}, {"weak": 0.0, "p_keep": 0.0}):
            layer = made(**kind, **options).train(train)
            assert torch.allclose(layer(a), a, atol=1e-5)
        assert made(**kind, tau=torch.inf, p_keep=0.0).train(train)(a).abs().max() == 0
    for shape in ((2, 1), (2, 1, 1), (2, 1, 3, 3), (2, 6, 1, 1)):  # single units and positions
        a = maps(*shape)
        assert torch.allclose(made(**kind, tau=0.0)(a), a, atol=1e-5)


@every_kind
def test_4g03_energy_of_what_is_kept_and_twice_is_once(transform, axis):
    a, layer = maps(), made(transform=transform, axis=axis)
    mask, spectrum = freeze(layer, a)
    y = layer(a)
    energy = y.square().flatten(1).sum(dim=1)
    assert 0.4 < mask.mean() < 0.9
    assert (energy < a.square().flatten(1).sum(dim=1)).all()
    if transform != "dft":  # whose half spectrum stands for pairs
        assert torch.allclose(energy, (mask * spectrum.square()).flatten(1).sum(dim=1), rtol=1e-4)
    assert torch.allclose(layer(y), y, atol=1e-5)


@every_kind
@pytest.mark.parametrize("rule", ["or", "and"])
def test_4g04_the_mean_over_masks_is_the_expectation(transform, axis, rule):
    a = maps(1, 4, 3, 4).expand(3000, -1, -1, -1)
    layer = made(transform=transform, axis=axis, rule=rule, p_keep=0.3)
    drawn = layer(a)
    expected = layer.eval()(a).mean(dim=0)
    error = drawn.std(dim=0) / len(a) ** 0.5
    assert error.max() > 1e-3
    assert ((drawn.mean(dim=0) - expected).abs() <= 4.5 * error + 1e-6).all()


@every_kind
def test_4g05_4h08_outputs_are_odd_and_float32_under_autocast(transform, axis):
    a, one, two, three = maps(), *(made(transform=transform, axis=axis) for _ in range(3))
    plain = two(a)
    assert torch.equal(one(-a), -plain)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = three(a)
    assert torch.equal(mixed, plain)
    assert one(a.bfloat16()).dtype == torch.bfloat16


@every_kind
def test_4g06_backward_is_the_frozen_filter_itself(transform, axis):
    a = maps(2, 4, 3, 3).double().requires_grad_(True)
    layer = made(transform=transform, axis=axis)
    freeze(layer, a.detach())
    assert torch.autograd.gradcheck(layer, (a,), eps=1e-1, atol=1e-4)  # linear in a, but the layer is in float32
    back = torch.randn(a.shape)
    (gradient,) = torch.autograd.grad(layer(a), a, back.double())
    assert torch.allclose(gradient.float(), layer(back), atol=1e-5)  # T^T diag(m) T is symmetric


def test_4g06_transforms_are_not_trained(make_training):
    class Watched(Spectral):
        def on_epoch_end(self, ctx):
            network = {id(p) for p in ctx._model.network.parameters()}
            assert {id(p) for group in ctx._model.optimizer.param_groups for p in group["params"]} == network
            self.seen = len(ctx._model.inserted)

    training = make_training(Watched())
    carry_out(training, (Phase(1),))
    assert training.method.seen == 3
    assert list(training.method.parameters()) == []


@pytest.mark.parametrize("rule", ["or", "hard"])
@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        ("channel", (2, 5, 3, 3)),
        ("flat", (2, 12)),
        *(("spatial", shape) for shape in ((2, 3, 5, 4), (2, 3, 4, 7), (2, 6))),
    ],
)
def test_4g07_fourier_coefficients_go_in_conjugate_pairs(axis, shape, rule):
    """Against the whole spectrum, in which every pair has one mask value."""
    a, layer = maps(*shape), made(transform="dft", axis=axis, rule=rule)
    half, _ = freeze(layer, a)
    x = a.movedim(1, -1) if axis == "channel" else a
    axes = (-2, -1) if x.dim() == 4 and axis == "spatial" else (-1,)
    k = torch.arange(x.shape[-1])
    mask = half[..., torch.minimum(k, -k % len(k))]
    if len(axes) == 2:
        rows = torch.arange(x.shape[-2])
        mask = torch.where(k < half.shape[-1], mask, mask[..., -rows % len(rows), :])
    y = torch.fft.ifftn(mask * torch.fft.fftn(x, dim=axes, norm="ortho"), dim=axes, norm="ortho")
    assert 0 < mask.mean() < 1
    assert y.imag.abs().max() < 1e-6
    found = layer(a)
    assert found.dtype == torch.float32
    assert torch.allclose(found.movedim(1, -1) if axis == "channel" else found, y.real, atol=1e-6)


@pytest.mark.parametrize("width", [6, 7])
def test_4g07_rows_share_a_draw_only_where_both_of_a_pair_are_kept(width):
    layer = made(transform="dft", axis="spatial", rule="or", weak=1.0, warmup=0)
    layer.train()
    equal = []
    for _ in range(60):
        layer(maps(2, 3, 5, width))
        equal.append((layer.mask[..., 1, :] == layer.mask[..., 4, :]).float().mean(dim=(0, 1)))
    share = torch.stack(equal).mean(dim=0)
    pairs = [0] if width % 2 else [0, width // 2]
    assert (share[pairs] == 1).all()
    others = [k for k in range(width // 2 + 1) if k not in pairs]
    assert ((share[others] > 0.3) & (share[others] < 0.9)).all()


@pytest.mark.parametrize("name", ["dct", "dht"])
@pytest.mark.parametrize("consumer", [nn.Conv2d(9, 5, 3, padding=1, stride=2), nn.Linear(9, 4)])
def test_4g08_fixed_coefficients_fold_into_the_consumer(name, consumer):
    a = maps(2, 9, 6, 6) if isinstance(consumer, nn.Conv2d) else maps(2, 9)
    kept = matrix(name, 9, square=True)[[0, 1, 3, 7]]
    project = torch.einsum("kc,bc...->bk...", kept, a)
    weight = fold(consumer, kept)
    with torch.no_grad():
        unfolded = consumer(torch.einsum("kc,bk...->bc...", kept, project))
        if isinstance(consumer, nn.Conv2d):
            folded = F.conv2d(project, weight, consumer.bias, consumer.stride, consumer.padding)
        else:
            folded = F.linear(project, weight, consumer.bias)
    assert (folded - unfolded).abs().max() < 1e-4
    assert consumer.weight.numel() - weight.numel() == (9 - 4) * weight[:, 0].numel()


def test_4g09_shifts():
    for axis, equivariant in (("channel", True), ("spatial", False), ("flat", False)):
        a, layer = maps(), made(axis=axis, rule="hard")
        mended, shifted = layer(a), layer(a.roll((1, 2), (2, 3)))
        assert torch.allclose(shifted, mended.roll((1, 2), (2, 3)), atol=1e-6) is equivariant


@pytest.mark.parametrize("inference", ["expect", "identity", "hard"])
def test_4g10_evaluation_draws_nothing(inference):
    a, layer = maps(), made(inference=inference)
    layer(a)
    state = layer.generator.get_state()
    one, two = layer.eval()(a), layer(a)
    assert torch.equal(one, two)
    assert torch.equal(layer.generator.get_state(), state)
    assert torch.equal(one, layer(a, hard=True)) is (inference == "hard")


def test_4h01_a_large_negative_coefficient_is_strong():
    layer = made(tau=1.0, p_keep=0.0)
    a = -10 * dct(5).float()[1].reshape(1, 5, 1, 1)
    assert torch.allclose(layer(a), a, atol=1e-5)


def test_4h02_identity_at_inference_is_the_plain_network(make_training):
    training = make_training(Spectral(Spectral.Config(inference="identity", p_keep=0.0, warmup=0.0)))
    ctx = training.ctx
    with_layers = [ctx._model.network.train(mode)(ctx.x) for mode in (True, False)]
    ctx._model.remove_hooks()
    assert torch.allclose(ctx._model.network(ctx.x), with_layers[1], atol=1e-4)
    assert not torch.allclose(ctx._model.network.train()(ctx.x), with_layers[0], atol=1e-2)


def test_4h04_4h05_no_mean_is_taken_out_and_no_relu_is_added():
    layer = made(rule="hard", weak=0.5)
    constant = torch.full((1, 9, 4, 4), 3.0)
    assert torch.allclose(layer(constant), constant, atol=1e-5)
    assert made(rule="hard", weak=0.7)(maps()).min() < 0


@pytest.mark.parametrize(("rule", "rate"), [("or", 0.25), ("and", 0.75), ("hard", 0.5)])
def test_4h06_drop_rates_of_the_rules(make_training, rule, rate):
    """Of half weak coefficients and p_keep 0.5; the curve tells what was lost, of training rather than validation."""
    layer = made(rule=rule)
    layer(torch.randn(64, 16, 8, 8))
    assert (layer.mask == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    training = make_training(Spectral(Spectral.Config(rule=rule, warmup=0.0)))
    carry_out(training, (Phase(1),))
    told = {k: v for k, v in training.curve[-1].items() if k.startswith("zeroed")}
    assert list(told) == [f"zeroed blocks.{k}.conv1" for k in (2, 5, 8)]
    assert [round(v, 1) for v in told.values()] == pytest.approx([rate] * 3, abs=0.15)


def test_4h07_a_mask_saves_nothing_and_nothing_is_left_of_it(make_run):
    """MACs and parameters are those of the filters that went, with spectral dropout and without it."""
    records = [execute(*make_run(m, "two_layers", "tiny8")) for m in ("spectral", "spectral_energy")]
    assert records[0].structure.widths == records[1].structure.widths
    assert records[0].cost == records[1].cost
    assert any(name.startswith("zeroed") for name in records[0].curve.logged)


def test_the_relative_threshold_is_set_once_and_scales_with_each_example():
    layer, a = made(weak=0.3), torch.randn(4, 9, 6, 6)
    layer(a)
    alpha, mask = layer.alpha.clone(), layer.keep(layer.turned(a.movedim(1, -1)), hard=True)
    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.002)
    scale = torch.tensor([2**-7, 1.0, 8.0, 1024.0]).reshape(4, 1, 1, 1)
    assert torch.equal(layer(scale * a, hard=True), scale * layer(a, hard=True))
    assert torch.equal(layer.alpha, alpha)


def test_the_drop_of_weak_ones_warms_up(make_training):
    training = make_training(Spectral(Spectral.Config(warmup=0.5)), train__epochs=8)
    ctx, method = training.ctx, training.method
    strengths = []
    for ctx._now.progress in (0.0, 1.0, 2.0, 4.0, 7.9):
        method.on_batch_start(ctx)
        strengths.append([layer.warm.item() for layer in method.layers])
    assert strengths == [[s] * 3 for s in (0.0, 0.25, 0.5, 1.0, 1.0)]
    ctx._now.progress = 0.0
    method.on_batch_start(ctx)
    assert torch.allclose(method.layers[0](a := maps(2, 16, 4, 4)), a, atol=1e-5)
    resumed = make_training(Spectral()).method
    resumed.load_state_dict(method.state_dict())
    assert {(layer.warm.item(), layer.alpha.isnan().item()) for layer in resumed.layers} == {(0.0, True), (0.0, False)}


def test_where_layers_are_inserted(make_ctx):
    for where, sites in (("stages", [2, 5, 8]), ("all", list(range(9)))):
        ctx = make_ctx(method := Spectral(Spectral.Config(where=where)))
        assert list(ctx._model.inserted.values()) == list(method.layers)
        assert method.chosen == [list(ctx.sites)[k] for k in sites]


def mixed():
    """Pooling, a flattened map and linear units, for 8x8 grey images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 9, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


@every_kind
def test_every_kind_trains_and_ranks_convs_and_linear_layers(make_training, transform, axis):
    training = make_training(Spectral(Spectral.Config(transform=transform, axis=axis, where="all")), arch=mixed())
    carry_out(training, (Phase(1),))
    scores = training.method.scores(training.ctx)
    assert {n: len(s) for n, s in scores.items()} == {"0": 4, "4": 9, "7": 16}
    assert all(s.isfinite().all() and s.max() > s.min() for s in scores.values())


@pytest.mark.parametrize("axis", ["channel", "spatial", "flat"])
def test_scores_are_the_energy_after_the_hard_mask(make_ctx, axis):
    """Of the plain network's activations, before pooling; linear units are one vector, as while training."""
    network = mixed().eval()
    ctx = make_ctx(method := SpectralEnergy(SpectralEnergy.Config(axis=axis)), arch=network)
    scores = method.scores(ctx)
    for name, depth in (("0", 3), ("4", 6), ("7", 9)):
        layer, total = made(axis=axis), 0.0
        for x, _ in ctx.batches():
            with torch.no_grad():
                y = layer(network[:depth](x), hard=True)
            total += y.square().flatten(2).mean(dim=2).sum(dim=0) if y.dim() > 2 else y.square().sum(dim=0)
        assert torch.allclose(scores[name], total / 96, rtol=1e-4)


@pytest.mark.parametrize(("tau", "rtol"), [(0.25, 1e-4), (None, 5e-2)])
def test_the_control_is_spectral_without_its_layers(make_ctx, tau, rtol):
    """The same scores of the same weights where nothing is dropped, and nothing inserted.

    A relative threshold is the size of one coefficient, which rounding may put on either side of it.
    """
    control, method = SpectralEnergy(SpectralEnergy.Config(tau=tau)), Spectral(Spectral.Config(p_keep=1.0, tau=tau))
    plain, with_layers = make_ctx(control), make_ctx(method)
    with_layers._model.network.load_state_dict(plain._model.network.state_dict())
    assert (len(plain._model.inserted), len(with_layers._model.inserted)) == (0, 3)
    one, two = control.scores(plain), method.scores(with_layers)
    assert all(torch.allclose(one[n], two[n], rtol=rtol) for n in plain.sites)
    assert (control.starts_from, method.starts_from) == ("base", "init")
