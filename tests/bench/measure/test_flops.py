import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.measure import flops

SHAPE = (3, 8, 8)


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


@pytest.mark.parametrize(
    ("convolution", "macs"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), 4 * 27 * 16),
        (nn.Conv2d(3, 4, 1), 4 * 3 * 64),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 9 * 64),
    ],
)
def test_convolutions_by_hand(convolution, macs):
    assert flops.count(nn.Sequential(convolution), SHAPE).total == macs


def test_matrix_products_are_counted():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(192, 5))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    assert flops.count(Product(), SHAPE).total == 192 * 5


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.train(),
        lambda n: n.eval(),
        lambda n: n.double(),
        lambda n: n.to(memory_format=torch.channels_last),
        lambda n: nn.init.zeros_(n[0].weight),
        lambda n: n.requires_grad_(False),
    ],
)
def test_the_count_depends_on_the_shapes_only(change):
    plain, changed = network(), network()
    change(changed)
    assert flops.count(changed, SHAPE) == flops.count(plain, SHAPE)


def test_the_network_is_not_touched():
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


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).real


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x.flatten(1, 2))[0]


@pytest.mark.parametrize(("layer", "name"), [(Attention, "attention"), (Fourier, "fft"), (Recurrent, "lstm")])
def test_a_multiplying_operator_counted_as_zero_fails(layer, name):
    with pytest.raises(RunFailed, match=rf"aten::\w*{name}.* as zero MACs"):
        flops.count(nn.Sequential(nn.Conv2d(3, 3, 1), layer()), SHAPE)


def test_disagreeing_counters_fail(monkeypatch):
    true = flops.torch_macs
    monkeypatch.setattr(flops, "torch_macs", lambda network, x: true(network, x) + 1)
    with pytest.raises(RunFailed, match=r"two counters disagree: fvcore 8,192 MACs, torch.utils.flop_counter 8,193"):
        flops.count(network(), SHAPE)


def test_the_second_counter_counts_products_only():
    """4*27*64 + 256*5 multiply-adds; the batch norm's 512 are fvcore's alone."""
    assert flops.torch_macs(network().eval(), torch.zeros(1, *SHAPE)) == 6_912 + 1_280
