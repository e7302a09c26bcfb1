"""What one counter misses fails the count, unless it is cheap."""

import pytest
import torch
from support.counted import SHAPE, Applied, products
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.measure import flops


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def deform(x, weight):
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, torch.zeros(1, 18, 6, 6), weight)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (lambda: Applied(lambda x: torch.fft.rfft2(x).real), r"aten\._fft_r2c counted as zero MACs, up to"),
        (lambda: Applied(deform, 4, 3, 3, 3), r"torchvision\.deform_conv2d counted as zero MACs, up to"),
        (
            lambda: Applied(lambda x: torch.cdist(x, x)),
            r"aten\._cdist_forward counted as zero MACs|disagree.*aten::cdist",
        ),
        (lambda: Applied(lambda x: torch.linalg.inv(x + torch.eye(8))), r"aten\.linalg_inv_ex counted as zero MACs"),
    ],
)
def test_operator_that_multiplies_and_counts_as_zero_fails(layer, match):
    with pytest.raises(RunFailed, match=match):
        flops.count(nn.Sequential(nn.Conv2d(3, 3, 1), layer()), SHAPE)


@torch.library.custom_op("bench_tests::gelu", mutates_args=())
def impostor(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def test_extension_is_not_cheap_by_its_name():
    with pytest.raises(RunFailed, match=r"bench_tests\.gelu counted as zero MACs|disagree.*bench_tests::gelu"):
        flops.count(nn.Sequential(nn.Conv2d(3, 3, 1), Applied(lambda x: impostor(x))), SHAPE)


@pytest.mark.parametrize(("columns", "fails"), [(32, False), (33, True)])
def test_thousandth_may_go_uncounted(columns, fails):
    """192,000 MACs; a product of a 2 x n matrix and a vector is bounded by its 2 outputs times its 3n inputs."""
    layers = nn.Flatten(), nn.Linear(192, 1000), Applied(lambda x, w: torch.mv(w, x[0, :columns]), 2, columns)
    if fails:
        with pytest.raises(RunFailed, match=r"aten\.mv counted as zero MACs, up to 198 in addition to 192,000"):
            flops.count(nn.Sequential(*layers), SHAPE)
    else:
        assert flops.count(nn.Sequential(*layers), SHAPE).total == 192_000


class Unused(nn.Module):
    """One layer's output is not used, so a trace drops it."""

    def __init__(self):
        super().__init__()
        self.used, self.aside = nn.Linear(192, 5), nn.Sequential(nn.ReLU(), nn.Linear(192, 7))

    def forward(self, x):
        x = x.flatten(1)
        self.aside(x)
        return self.used(x).sigmoid()


def test_difference_of_known_operators_names_the_module():
    with pytest.raises(RunFailed, match=r"they differ in aside\.1 \(Linear\): 0 and 1,344$"):
        flops.count(Unused(), SHAPE)


def test_difference_names_operators_that_can_explain_it_only(monkeypatch):
    monkeypatch.delitem(flops.HANDLES, "aten::tensordot")
    layer = Applied(lambda x, w: torch.tensordot(x.relu().softmax(1), w, dims=1).clamp(0, 6), 8, 5)
    with pytest.raises(RunFailed, match=r"fvcore has no rule for: aten::tensordot$"):
        flops.count(nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2, 1, padding=1), nn.Conv2d(4, 3, 2), layer), SHAPE)


CHEAP = [
    *(nn.PReLU(), nn.Hardswish(), nn.Hardswish(inplace=True), nn.GLU(-1), nn.LogSigmoid(), nn.Mish()),
    *(nn.SiLU(inplace=True), nn.GELU(), nn.ELU(), nn.RReLU(), nn.Softplus(), nn.Softmax(1), nn.LogSoftmax(1)),
    *(nn.Softmin(1), nn.Dropout2d(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2)),
    *(nn.AdaptiveAvgPool2d(2), nn.LPPool2d(2, 2), nn.FractionalMaxPool2d(2, 3), nn.ZeroPad2d(1)),
    *(nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
    *(nn.ChannelShuffle(2), nn.Unfold(2), nn.Upsample(scale_factor=2)),
    *(nn.Upsample(scale_factor=2, mode=mode) for mode in ("bilinear", "bicubic")),
    *(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(8), nn.RMSNorm(8)),
    nn.LocalResponseNorm(2),
    Applied(lambda x: F.normalize(x).mean((2, 3)).std(1, keepdim=True).expand(1, 4)),
    Applied(lambda x: torch.cat((x.roll(1, 2), x.flip(3)), 1).unflatten(1, (2, 4)).movedim(1, 2)),
    Applied(lambda x: x.masked_fill(x > 0, 0.0).clamp_(0, 6).sort()[0].cumsum(2)[:, [0, 1]].tril()),
    Applied(lambda x: x.topk(2, 1)[1].float() + x.amax(1, keepdim=True).repeat_interleave(2, 1)),
    Applied(
        lambda x: F.embedding(x.argmax(1), x[0, 0]).where(x[:, :1, :, :, None] > 0, torch.zeros_like(x)[..., None])
    ),
]


def test_elementwise_operators_cost_nothing_or_what_fvcore_says():
    for layer in CHEAP:
        products = flops.count(nn.Sequential(nn.Conv2d(3, 4, 1), layer), SHAPE).products
        assert products == 3 * 4 * 64, layer


class Swish(torch.autograd.Function):
    """A function of its own is one operator in a trace."""

    @staticmethod
    def forward(ctx, x):
        return x * x.sigmoid()


class Secret(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return F.conv2d(x, weight)


def test_second_pass_sees_into_functions():
    assert products(Swish.apply, before=lambda: nn.Conv2d(3, 4, 1)) == 3 * 4 * 64
    with pytest.raises(RunFailed, match=r"two counters disagree: fvcore 0 MACs.* 768; .*prim::PythonOp\.Secret"):
        products(Secret.apply, 4, 3, 1, 1)


@pytest.mark.parametrize("when", [True, False])
def test_network_that_differs_when_traced_fails(when):
    layer = nn.Conv2d(3, 4, 1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) if torch.jit.is_tracing() is when else x

    with pytest.raises(RunFailed, match="two counters disagree"):
        flops.count(Two(), SHAPE)


def test_disagreeing_counters_fail(monkeypatch):
    true = flops.untraced
    monkeypatch.setattr(flops, "untraced", lambda network, x: (true(network, x)[0] + 1, {}))
    with pytest.raises(RunFailed, match=r"two counters disagree: fvcore 8,192 MACs, torch.utils.flop_counter 8,193"):
        flops.count(network(), SHAPE)


def test_second_counter_counts_products_only():
    """4*27*64 + 256*5 multiply-adds; the batch norm's 512 are fvcore's alone."""
    assert flops.untraced(network().eval(), torch.zeros(1, *SHAPE)) == (6_912 + 1_280, {})
