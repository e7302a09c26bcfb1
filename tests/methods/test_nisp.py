"""NISP: section 3 of the specification of related methods, against explicit matrices in numpy."""

import numpy as np
import pytest
import torch
from scipy import stats
from support.networks import GREY, conv, hooks_of, three_sites
from support.plans import same, state_of
from torch import nn
from torch.nn import functional as F

from bench.conformance.tiny_networks import residual
from bench.errors import Unsupported, UsageError
from bench.pruning.site_discovery import find_sites
from bench.runs.method_factory import make_method
from methods.inf_fs import inf_fs


def nisp(**options):
    return make_method("nisp", {key: str(value) for key, value in options.items()})


def randomised(network):
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.2, 3)
                module.weight.normal_()
                module.bias.normal_()
    return network


def chain():
    """Sites of 6, 5 and 7 units; a stride, padding, a pooling, a flattened map."""
    torch.manual_seed(3)
    return randomised(
        nn.Sequential(
            *(conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 10)),
        )
    )


# --- the oracle: each layer as an explicit matrix --------------------------------------------------------------------


def matrix_of(weight, side, stride, padding):
    """A convolution without bias as a matrix ``[outputs * positions, inputs * positions]``, tap by tap."""
    outputs, inputs, size, _ = weight.shape
    out = (side + 2 * padding - size) // stride + 1
    matrix = np.zeros((outputs, out, out, inputs, side, side))
    for row in range(out):
        for column in range(out):
            for i in range(size):
                for j in range(size):
                    y, x = row * stride + i - padding, column * stride + j - padding
                    if 0 <= y < side and 0 <= x < side:
                        matrix[:, row, column, :, y, x] += weight[:, :, i, j]
    return matrix.reshape(outputs * out * out, inputs * side * side)


def propagated(network, worth, effective=True):
    """Scores of the three sites of :func:`chain` by products of absolute matrices."""
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def scales(norm, positions):
        gain = np.abs(state[f"{norm}.weight"]) / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        return np.repeat(gain if effective else np.full(len(gain), 1 / np.sqrt(1 + 1e-5)), positions)

    hidden = worth
    flat = np.abs(state["8.weight"]).T @ hidden
    second = np.abs(matrix_of(state["4.weight"], 4, 2, 1)).T @ (scales("5", 4) * flat)
    return {"0": second.reshape(6, 16).sum(axis=1), "4": flat.reshape(5, 4).sum(axis=1), "8": hidden}


@pytest.mark.parametrize("norm", ["effective", "identity"])
def test_3g1_scores_are_the_closed_form(make_ctx, norm):
    """MR 3(g)1: not negative, linear in the final worth, equal to explicit propagation; both readings of a norm."""
    network, worth = chain(), np.random.default_rng(0).uniform(0, 2, 7)
    ctx, method = make_ctx(arch=network), nisp(norm=norm)
    found = ctx.to_units(method.propagate(ctx, torch.from_numpy(worth)))
    expected = propagated(network, worth, norm == "effective")
    for site, value in expected.items():
        assert np.allclose(found[site].numpy(), value, rtol=1e-9)
        assert found[site].min() >= 0
    other = np.random.default_rng(1).uniform(0, 2, 7)
    twice = ctx.to_units(method.propagate(ctx, torch.from_numpy(2 * worth + other)))
    alone = ctx.to_units(method.propagate(ctx, torch.from_numpy(other)))
    for site in found:
        assert torch.allclose(twice[site], 2 * found[site] + alone[site], rtol=1e-9)


def test_3g1_branches_of_a_residual_stream_add(make_ctx):
    """Through a block of ``relu(body(x) + x)`` a stream is worth what its last reader and the body are given."""
    torch.manual_seed(0)
    network = randomised(residual("B", shape=GREY, num_classes=10))
    ctx, method = make_ctx(arch=network, coupling="full"), nisp()
    worth = torch.rand(8).double()
    found = ctx.to_units(method.propagate(ctx, worth))
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def layer(name, norm, side, stride, size):
        gain = np.abs(state[f"{norm}.weight"]) / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        matrix = np.abs(matrix_of(state[f"{name}.weight"], side, stride, size // 2))
        return np.repeat(gain, len(matrix) // len(gain))[:, None] * matrix

    last = np.repeat(worth.numpy() / 16, 16)  # the mean over 4x4 positions, spread over them
    inner = layer("2.body.3", "2.body.4", 4, 1, 3).T @ last
    into_block = layer("2.body.0", "2.body.1", 8, 2, 3).T @ inner
    into_shortcut = layer("2.shortcut.0", "2.shortcut.1", 8, 2, 1).T @ last
    stream = into_block + into_shortcut
    middle = layer("1.body.3", "1.body.4", 8, 1, 3).T @ stream
    into_first = layer("1.body.0", "1.body.1", 8, 1, 3).T @ middle
    expected = {"2.body.0": inner, "1.body.0": middle, "2.body.3": worth.numpy()}
    expected["0.0"] = into_first + into_block + into_shortcut
    for site, value in expected.items():
        by_unit = value.reshape(ctx.sites[site].n_units, -1).sum(axis=1)
        assert np.allclose(found[site].numpy(), by_unit, rtol=1e-9), site


def test_3g2_scaling_a_layer_scales_all_earlier_scores(make_ctx):
    """MR 3(g)2: and no later one, so scores of different sites do not compare."""
    network, worth = chain(), torch.rand(7).double()
    ctx, method = make_ctx(arch=network), nisp()
    before = ctx.to_units(method.propagate(ctx, worth))
    with torch.no_grad():
        network[4].weight *= -3
    after = ctx.to_units(method.propagate(ctx, worth))
    assert torch.allclose(after["0"], 3 * before["0"], rtol=1e-6)
    assert torch.equal(after["4"], before["4"])
    assert method.ranking == "layer"


def test_3g3_a_unit_that_nothing_reads_scores_nothing_and_order_does_not_matter(make_ctx):
    """MR 3(g)3."""
    network = chain()
    with torch.no_grad():
        network[4].weight[:, 2] = 0
        network[8].weight[:, 4:8] = 0  # unit 1 at its four positions
    ctx, method, worth = make_ctx(arch=network), nisp(), torch.rand(7).double()
    before = ctx.to_units(method.propagate(ctx, worth))
    assert before["0"][2] == before["4"][1] == 0
    assert (before["0"] > 0).sum() == 5
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias, *state_of_norm(network[1])):
            tensor.copy_(tensor[order].clone())
        network[4].weight.copy_(network[4].weight[:, order].clone())
    after = ctx.to_units(method.propagate(ctx, worth))
    assert torch.allclose(after["0"], before["0"][order])
    assert torch.allclose(after["4"], before["4"])


def state_of_norm(norm):
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


class Smooth(nn.Module):
    """Two convolutions and what ``between`` makes of the first."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.fc, self.between = conv(1, 6), conv(6, 5), nn.Linear(5, 10), between
        self.offset = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.fc(self.second(self.between(self, self.first(x))).relu().mean(dim=(2, 3)))


BETWEEN = {
    "gelu": lambda net, x: F.gelu(x),
    "sigmoid": lambda net, x: x.sigmoid(),
    "relu6": lambda net, x: F.relu6(x),
    "norm": lambda net, x: x / x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt(),
    "constant": lambda net, x: x + net.offset,
}


@pytest.mark.parametrize("between", BETWEEN)
def test_3g4_what_is_not_homogeneous_is_found_and_nothing_is_left(make_ctx, between):
    """MR 3(g)4: ``f(t x) = t f(x)`` finds every activation that is no identity; all bits are as before."""
    network = Smooth(BETWEEN[between])
    ctx = make_ctx(arch=network)
    before, versions = state_of(network), [p._version for p in network.parameters()]
    with pytest.raises(ValueError, match="an activation, a norm or a constant that scores do not pass"):
        nisp().scores(ctx)
    assert same(state_of(network), before)
    assert versions == [p._version for p in network.parameters()]
    ctx._model.gates.remove()
    assert not hooks_of(network)
    assert all(p.grad is None for p in network.parameters())


def test_3g4_a_network_that_is_homogeneous_is_left_as_it_was(make_ctx):
    network = chain().train()
    ctx = make_ctx(arch=network)
    before, versions = state_of(network), [p._version for p in network.parameters()]
    assert all(score.isfinite().all() for score in nisp().scores(ctx).values())
    assert same(state_of(network), before)
    assert versions == [p._version for p in network.parameters()]
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.GELU(), "GELU"), (nn.ReLU6(), "ReLU6"), (nn.GroupNorm(2, 6), "GroupNorm")]
)
def test_3h_modules_that_are_no_identity_are_refused_before_training(layer, name):
    network = nn.Sequential(
        conv(1, 6), layer, conv(6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)
    )
    with pytest.raises(
        Unsupported, match=rf"^nisp does not work on site .: the network has {name} \(1\), which does not leave"
    ):
        nisp().require(find_sites(network, GREY))


def test_3b_depth_does_not_overflow(make_ctx):
    """Sums of absolute weights of ResNet-56 are beyond float32."""
    ctx = make_ctx(arch="resnet56", shape=(3, 8, 8))
    found = nisp(frl="classifier").scores(ctx)
    assert all(score.isfinite().all() and (score > 0).all() for score in found.values())
    assert max(float(score.max()) for score in found.values()) > 3.4e38


# --- ranking of the final responses ----------------------------------------------------------------------------------


def test_3b_inf_fs_is_the_sum_over_paths_of_the_graph():
    """By scipy's Spearman and a power series; a constant feature, and ties as a ReLU makes them."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)), 0)
    x[:, 2] = 1.5
    correlation = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            if 2 not in (i, j):
                correlation[i, j] = stats.spearmanr(x[:, i], x[:, j]).statistic
    std = x.std(axis=0, ddof=1)
    graph = 0.3 * np.maximum.outer(std, std) + 0.7 * (1 - np.abs(correlation))
    graph *= 0.9 / np.abs(np.linalg.eigvals(graph)).max()
    power, total = np.eye(6), np.zeros((6, 6))
    for _ in range(500):
        power = power @ graph
        total += power
    assert np.allclose(inf_fs(torch.from_numpy(x).float(), 0.3).numpy(), total.sum(axis=1), rtol=1e-5)


def test_3b_final_responses_are_what_the_last_layer_reads(make_ctx):
    network = chain()
    ctx = make_ctx(arch=network)
    x = torch.cat([x for x, _ in ctx.batches("train", 2)])
    with torch.no_grad():
        expected = inf_fs(network.eval()[:-1](x), 0.5)
    assert torch.allclose(nisp(batches=2).final(ctx), expected, rtol=1e-5)


def test_3j_trap_features_that_never_vary_are_finite():
    """MR 3(j): Spearman of a constant is set to 0; all of them, and a single image."""
    assert inf_fs(torch.ones(9, 4), 0.5).isfinite().all()
    assert inf_fs(torch.rand(2, 4), 1.0).isfinite().all()
    assert inf_fs(torch.zeros(9, 1), 1.0).isfinite().all()


def test_3b_cheap_ranking_is_the_column_sums_of_the_classifier(make_ctx):
    ctx = make_ctx(arch=chain())
    weight = ctx._model.network[10].weight.detach()
    assert torch.allclose(nisp(frl="classifier").final(ctx), weight.abs().sum(dim=0).double())


def test_3e_options_are_used(make_ctx):
    ctx = make_ctx(arch=three_sites())
    default = nisp().final(ctx)
    assert default.shape == (12,)
    for options in ({"alpha": 0.9}, {"batches": 1}):
        assert not torch.allclose(nisp(**options).final(ctx), default)
    ledger = ctx._model.ledger
    before = ledger.forward
    nisp(batches=2).final(ctx)
    assert ledger.forward - before == 2 * 32


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("alpha", "1.5", "alpha 1.5: from 0 to 1"),
        ("batches", "0", "batches 0: 1 or more"),
        ("norm", "none", "not one of effective, identity"),
        ("frl", "last", "not one of inf_fs, classifier"),
    ],
)
def test_wrong_options_are_answered_with_the_range(option, value, message):
    with pytest.raises(UsageError, match=message):
        make_method("nisp", {option: value})
