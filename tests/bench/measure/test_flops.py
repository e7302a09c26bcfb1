import pytest
import torch
from support.counted import SHAPE, products
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.measure import flops


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def test_three_layers_by_hand():
    counted = flops.count(network(), SHAPE)
    conv, norm, linear = 4 * 3 * 9 * 64, 2 * 4 * 64, 256 * 5
    assert counted.by_op == {"conv": conv, "batch_norm": norm, "linear": linear}
    assert counted.total == conv + norm + linear
    assert counted.by_module["0"] == {"conv": conv}
    assert counted.by_module["1"] == {"batch_norm": norm}
    assert counted.by_module["4"] == {"linear": linear}
    assert counted.by_module[""] == counted.by_op
    assert counted.unsupported == {}


def test_parameters_by_hand():
    assert flops.parameters(network()) == (27 * 4 + 4) + (4 + 4) + (256 * 5 + 5)


def test_convolutions_by_hand():
    for convolution, macs in (
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), 4 * 27 * 16),
        (nn.Conv2d(3, 4, 1), 4 * 3 * 64),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 9 * 64),
        (nn.Conv2d(3, 4, 3, padding="valid"), 4 * 27 * 36),
        (nn.Conv2d(3, 4, (1, 3), padding="same", dilation=2), 4 * 9 * 64),
        (nn.Conv2d(3, 6, 3, padding="same", groups=3), 6 * 9 * 64),
        (nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), 4 * 27 * 64),
    ):
        assert flops.count(nn.Sequential(convolution), SHAPE).by_op == {"conv": macs}, convolution


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(8, 4, batch_first=True, **options)

    def forward(self, x):
        return self.cell(x.flatten(1, 2))[0]


@pytest.mark.parametrize(
    ("kind", "options", "a_step"),
    [
        (nn.LSTM, {}, 4 * 4 * (8 + 4)),
        (nn.LSTM, {"bidirectional": True, "bias": False}, 2 * 4 * 4 * (8 + 4)),
        (nn.GRU, {"num_layers": 2}, 3 * 4 * (8 + 4) + 3 * 4 * (4 + 4)),
        (nn.RNN, {}, 4 * (8 + 4)),
    ],
)
def test_recurrent_layers_by_hand(kind, options, a_step):
    """Twenty-four steps, in each of which every weight is used once."""
    layer = Recurrent(kind, **options)
    assert flops.count(layer, SHAPE).products == 24 * a_step
    assert next(layer.parameters()).dtype == torch.float32


class Token(nn.Module):
    """A layer is given a view of a parameter."""

    def __init__(self, shape, view, layer):
        super().__init__()
        self.token, self.view, self.layer = nn.Parameter(torch.ones(shape)), view, layer

    def forward(self, x):
        return self.layer(self.view(self.token, x))


@pytest.mark.parametrize(
    ("shape", "view", "layer", "macs"),
    [
        ((1, 1, 8), lambda t, x: t.expand(len(x), 3, -1), nn.Linear(8, 5), 3 * 8 * 5),
        ((1, 4, 8, 8), lambda t, x: t[:, 1:], nn.Conv2d(3, 5, 1), 3 * 5 * 64),
        ((8, 2), lambda t, x: t.T[None], nn.Linear(8, 5), 2 * 8 * 5),
        ((1, 2, 8), lambda t, x: t.repeat(1, 2, 1).transpose(0, 1), nn.Linear(8, 5), 4 * 8 * 5),
    ],
)
def test_layer_may_read_a_view_of_a_parameter(shape, view, layer, macs):
    network = Token(shape, view, layer)
    assert flops.count(network, SHAPE).products == macs
    assert all(p.requires_grad for p in network.parameters())


def test_count_depends_on_the_shapes_only():
    expected = flops.count(network(), SHAPE)
    for change in (
        lambda n: n.train(),
        lambda n: n.double(),
        lambda n: n.to(memory_format=torch.channels_last),
        lambda n: nn.init.zeros_(n[0].weight),
        lambda n: n.requires_grad_(False),
    ):
        changed = network()
        change(changed)
        assert flops.count(changed, SHAPE) == expected


def test_network_is_not_touched():
    counted = network().train().double()
    before = {n: t.clone() for n, t in counted.state_dict().items()}
    flops.count(counted, SHAPE)
    assert all(m.training for m in counted.modules())
    assert all(torch.equal(t, before[n]) and t.dtype == before[n].dtype for n, t in counted.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in counted.modules())


def test_one_forward_at_batch_one_in_eval_mode():
    calls = []

    class Spy(nn.Flatten):
        def forward(self, x):
            calls.append((tuple(map(int, x.shape)), self.training))
            return super().forward(x)

    flops.count(nn.Sequential(Spy(), nn.Linear(192, 5)), SHAPE)
    assert set(calls) == {((1, *SHAPE), False)}


def test_operators_without_a_rule_are_listed():
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten()
    counted = flops.count(nn.Sequential(*layers, nn.Linear(16, 5)), SHAPE)
    assert counted.unsupported == {"aten::max_pool2d": 2, "aten::sigmoid": 1}
    assert counted.total == 4 * 27 * 64 + 80


@pytest.mark.parametrize(
    ("function", "weight", "macs"),
    [
        (lambda x, w: torch.mm(x.flatten(1), w), (192, 5), 192 * 5),
        (lambda x, w: torch.bmm(x[0], w), (3, 8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: torch.baddbmm(x[0, :, :, :5], x[0], w), (3, 8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: x @ w, (8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: w @ x, (5, 8), 3 * 5 * 8 * 8),  # the right factor is the stack
        (lambda x, w: x[0, 0] @ w, (6, 8, 5), 6 * 8 * 8 * 5),
        (lambda x, w: torch.einsum("bcij,djk->bcdik", x, w), (2, 8, 5), 3 * 2 * 8 * 8 * 5),
        (lambda x, w: torch.einsum("...ij,jk->...ik", x, w), (8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: torch.einsum("...ij,...jk", x, w), (3, 8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: torch.einsum("bcij,jk->bk", x, w), (8, 5), 8 * 5),  # c and i are summed first
        (lambda x, w: torch.tensordot(x, w, dims=([1], [1])), (5, 3), 3 * 8 * 8 * 5),
        (lambda x, w: torch.tensordot(x, w, dims=2), (8, 8, 5), 3 * 8 * 8 * 5),
        (lambda x, w: torch.inner(x, w), (5, 8), 3 * 8 * 8 * 5),
        # 77 x 33 x 24 = 60,984, where numpy's report, which fvcore reads, says 1.220e+05 operations
        (lambda x, w: torch.einsum("n i, n j -> i j", x.reshape(-1, 24).repeat(10, 1)[:77], w), (77, 33), 60_984),
    ],
)
def test_products_of_matrices_by_hand(function, weight, macs):
    assert products(function, *weight) == macs


# --- attention -----------------------------------------------------------------------------------------------


def attend(heads, queries, keys, dim, value_dim, **options):
    """Attention on slices of ones: q [heads, queries, dim], k [keys], v [keys, value_dim]."""

    def function(x):
        def ones(*shape):
            return torch.ones(1, *shape) + x.sum()

        key_heads = heads // 2 if options.get("enable_gqa") else heads
        key, value = ones(key_heads, keys, dim), ones(key_heads, keys, value_dim)
        return F.scaled_dot_product_attention(ones(heads, queries, dim), key, value, **options)

    return function


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((4, 7, 7, 8, 8), {}),
        ((4, 5, 11, 8, 3), {}),
        ((4, 7, 7, 8, 8), {"is_causal": True}),  # counted in full, as the matrices are
        ((4, 7, 9, 8, 8), {"attn_mask": torch.ones(7, 9, dtype=torch.bool)}),
        ((4, 7, 9, 8, 6), {"enable_gqa": True}),
    ],
)
def test_attention_by_hand(sizes, options):
    heads, queries, keys, dim, value_dim = sizes
    assert products(attend(*sizes, **options)) == heads * queries * keys * (dim + value_dim)


T, E = 64, 24
ATTENTION = 3 * T * E * E + 2 * T * T * E + T * E * E


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("options", "layer", "macs"),
    [
        ({"need_weights": True}, lambda: nn.MultiheadAttention(E, 4, batch_first=True), ATTENTION),
        ({"need_weights": False}, lambda: nn.MultiheadAttention(E, 4, batch_first=True), ATTENTION),
        ({"attn_mask": torch.zeros(T, T)}, lambda: nn.MultiheadAttention(E, 4, batch_first=True), ATTENTION),
        ({}, lambda: nn.TransformerEncoderLayer(E, 4, 40, batch_first=True), ATTENTION + 2 * T * E * 40),
    ],
)
def test_fused_attention_hides_nothing(options, layer, macs, trained):
    """Without gradients torch takes a fused kernel of the whole layer, which neither counter sees into."""
    inner = layer().requires_grad_(trained)
    arguments = 1 if isinstance(inner, nn.TransformerEncoderLayer) else 3

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            tokens = x.reshape(1, E, T).transpose(1, 2)
            return self.inner(*[tokens] * arguments, **options)

    assert flops.count(Tokens(), (3, 8, 64)).products == macs
    assert torch.backends.mha.get_fastpath_enabled()


def vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=10
    )


def test_vision_transformer_by_closed_form():
    tokens, dim, mlp = 17, 48, 96
    counted = flops.count(vit(), (3, 32, 32))
    assert counted.by_op == {
        "conv": 16 * dim * 3 * 8 * 8,
        "layer_norm": 5 * tokens * dim * (2 * 2 + 1),
        "linear": 2 * (3 * tokens * dim**2 + tokens * dim**2 + 2 * tokens * dim * mlp) + dim * 10,
        "scaled_dot_product_attention": 2 * (2 * tokens**2 * dim),
    }
    assert counted.products == counted.total - counted.by_op["layer_norm"]


def test_count_fails_when_attention_has_no_rule(monkeypatch):
    monkeypatch.delitem(flops.HANDLES, "aten::scaled_dot_product_attention")
    with pytest.raises(RunFailed, match=r"two counters disagree.* no rule for: .*aten::scaled_dot_product_attention"):
        flops.count(vit(), (3, 32, 32))
