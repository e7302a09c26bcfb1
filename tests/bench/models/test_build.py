import math
from itertools import pairwise

import pytest
import torch
from support.networks import half_masks, images
from torch import nn

from bench.errors import RunFailed, UsageError
from bench.measure import flops
from bench.models.build import architecture, build
from bench.pruning.gates import TOLERANCE, gate_slice_difference
from bench.pruning.site_discovery import find_sites
from bench.spec.registry import ARCHS

SMALLEST = {"lenet": 16, "vgg16_bn": 32, "vgg19_bn": 32, "dropnet_resnet18": 16, "dropnet_vgg19": 32}
SMALLEST |= {name: 16 for name in ARCHS.entries() if name.startswith("dropnet_c_")}
CIFAR = (3, 32, 32)
ELSEWHERE = ("torchvision_variants.py", "densenet.py", "wide_resnet.py")  # see test_torchvision_variants.py
NAMES = sorted(name for name, e in ARCHS.entries().items() if e.origin.split(":")[0].split("/")[-1] not in ELSEWHERE)


def resnet_cost(depth, option, shape, classes):
    """MACs by operator and parameters, layer by layer: stem, three stages of (depth - 2) / 6 blocks, linear."""
    side = shape[1]
    cost = {"conv": 0, "batch_norm": 0, "params": 0}

    def conv_bn(inp, out, kernel):
        cost["conv"] += kernel**2 * inp * out * side**2
        cost["batch_norm"] += 2 * out * side**2
        cost["params"] += kernel**2 * inp * out + 2 * out

    conv_bn(shape[0], 16, 3)
    width = 16
    for stage, out in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            if stage and not block:
                side = math.ceil(side / 2)
            conv_bn(width, out, 3)
            conv_bn(out, out, 3)
            if width != out and option == "B":
                conv_bn(width, out, 1)
            width = out
    pool, linear = 64 * side**2, 64 * classes
    params = cost.pop("params") + 64 * classes + classes
    return cost | {"adaptive_avg_pool2d": pool, "linear": linear}, params


def vgg_cost(groups, shape, classes):
    side, width, conv, norm, params = shape[1], shape[0], 0, 0, 0
    for out, convs in zip((64, 128, 256, 512, 512), groups, strict=True):
        for _ in range(convs):
            conv, norm = conv + 9 * width * out * side**2, norm + 2 * out * side**2
            params += 9 * width * out + 2 * out
            width = out
        side //= 2
    ops = {"conv": conv, "batch_norm": norm, "adaptive_avg_pool2d": 512 * side**2, "linear": 512 * classes}
    return ops, params + 512 * classes + classes


def lenet_cost(shape, classes):
    first = shape[1] - 4
    second = first // 2 - 4
    flat = 50 * (second // 2) ** 2
    conv = 25 * shape[0] * 20 * first**2 + 25 * 20 * 50 * second**2
    params = (25 * shape[0] * 20 + 20) + (25 * 20 * 50 + 50) + (flat * 500 + 500) + (500 * classes + classes)
    return {"conv": conv, "linear": flat * 500 + 500 * classes}, params


def mlp_cost(hidden, shape, classes):
    widths = (math.prod(shape), *hidden, classes)
    weights = sum(a * b for a, b in pairwise(widths))
    return {"linear": weights}, weights + sum(widths[1:])


def dropnet_cost(groups, hidden, norm, shape, classes):
    """3x3 convolutions with biases in groups that end in pooling (and batch norm), then linear layers."""
    (width, side, _), cost, params = shape, {"conv": 0}, 0
    for group in groups:
        for out in group:
            cost["conv"] += 9 * width * out * side**2
            params += 9 * width * out + out
            width = out
        if norm:
            cost["batch_norm"] = cost.get("batch_norm", 0) + 2 * width * side**2
            params += 2 * width
        side //= 2
    ops, more = mlp_cost(hidden, (width, side, side), classes)
    return cost | ops, params + more


def dropnet_resnet_cost(shape, classes):
    side, conv, params = shape[1], 0, 0

    def add(inp, out):
        nonlocal conv, params
        conv, params = conv + 9 * inp * out * side**2, params + 9 * inp * out + out

    add(shape[0], 64)
    width = 64
    for out in (64, 128, 256, 512):
        side //= 2
        for inp in [width, *[out] * 3, *[width] * (width != out)]:
            add(inp, out)
        width = out
    ops = {"conv": conv, "adaptive_avg_pool2d": 512 * side**2, "linear": 512 * classes}
    return ops, params + 512 * classes + classes


def dropnet_closed_form(name, shape, classes):
    if name == "dropnet_resnet18":
        return dropnet_resnet_cost(shape, classes)
    if name == "dropnet_vgg19":
        groups = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
        return dropnet_cost(groups, (256,), True, shape, classes)
    model, *widths = name.split("_")[1:]
    widths = tuple(map(int, widths))
    if model == "a":
        return mlp_cost(widths, shape, classes)
    return dropnet_cost([(w,) for w in widths], (256,) if model == "c" else (), False, shape, classes)


def closed_form(name, shape, classes):
    if name.startswith("dropnet"):
        return dropnet_closed_form(name, shape, classes)
    if name.startswith("resnet"):
        return resnet_cost(int(name[6:].rstrip("b")), "B" if name.endswith("b") else "A", shape, classes)
    if name.startswith("vgg"):
        return vgg_cost({"vgg16_bn": (2, 2, 3, 3, 3), "vgg19_bn": (2, 2, 4, 4, 4)}[name], shape, classes)
    if name == "lenet":
        return lenet_cost(shape, classes)
    return mlp_cost(tuple(map(int, name.split("_")[1:])), shape, classes)


DEEP = {"resnet110", "resnet110b", "resnet56b", "vgg19_bn", "dropnet_vgg19"}
"""Each has a smaller relative; at the size of CIFAR they are counted in the full run."""


@pytest.mark.parametrize(
    ("name", "small"),
    [
        pytest.param(n, small, marks=[pytest.mark.slow] * (n in DEEP and not small))
        for n in NAMES
        for small in (True, False)
    ],
)
def test_cost_by_closed_form(name, small):
    side = SMALLEST.get(name, 8)
    shape, classes = ((1, side, side), 7) if small else (CIFAR, 10)
    network = build(name, shape, classes)
    ops, params = closed_form(name, shape, classes)
    counted = flops.count(network, shape)
    assert counted.by_op == ops
    assert counted.total == sum(ops.values())
    assert flops.parameters(network) == params


@pytest.mark.parametrize(
    ("name", "shape", "macs", "params"),
    [
        # 126,554,752 = 125,485,056 (conv) + 1,064,960 (batch norm) + 4,096 (pool) + 640 (linear)
        ("resnet56", CIFAR, 126_554_752, 853_018),
        # two projections more: conv 2 x 32*16*16*16 = 262,144, batch norm 2*32*256 + 2*64*64 = 24,576;
        # parameters 16*32 + 64 + 32*64 + 128 = 2,752
        ("resnet56b", CIFAR, 126_841_472, 855_770),
        ("vgg16_bn", CIFAR, 313_755_136, 14_724_042),
        # 20 filters on 24x24, 50 on 8x8, 800-500-10
        ("lenet", (1, 28, 28), 20 * 25 * 576 + 50 * 500 * 64 + 800 * 500 + 5_000, 431_080),
        ("mlp_40_40", (1, 28, 28), 784 * 40 + 1_600 + 400, 33_450),
        ("mlp_300_100", (1, 28, 28), 784 * 300 + 30_000 + 1_000, 266_610),
    ],
)
def test_golden_costs(name, shape, macs, params):
    network = build(name, shape, 10)
    assert (flops.count(network, shape).total, flops.parameters(network)) == (macs, params)


def test_golden_split_of_resnet56():
    counted = flops.count(build("resnet56", CIFAR, 10), CIFAR)
    expected = {"conv": 125_485_056, "batch_norm": 1_064_960, "adaptive_avg_pool2d": 4_096, "linear": 640}
    assert counted.by_op == expected


@pytest.mark.parametrize(
    ("depth", "params"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_published_parameter_counts(depth, params):
    """0.27, 0.46, 0.66, 0.85 and 1.7 million: He et al. 2016, table 6."""
    assert flops.parameters(build(f"resnet{depth}", CIFAR, 10)) == params


@pytest.mark.parametrize("name", NAMES)
def test_input_channels_and_classes_follow_the_data_set(name):
    side = SMALLEST.get(name, 8)
    network = build(name, (2, side, side), 7).eval()
    with torch.no_grad():
        logits = network(images(3, (2, side, side)))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet20", "resnet20b", "mlp_40_40", "lenet"])
def test_weights_depend_on_the_seed_and_on_nothing_else(name):
    shape = (1, 16, 16)
    first = build(name, shape, 10, seed=4).state_dict()
    torch.rand(5)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second, other = build(name, shape, 10, seed=4).state_dict(), build(name, shape, 10, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(second[n], t) for n, t in first.items())
    matrices = [n for n, t in first.items() if t.dim() > 1]
    assert matrices
    assert not any(torch.equal(other[n], first[n]) for n in matrices)


def test_convolutions_start_he_normal():
    """Deviation sqrt(2 / (k^2 out)); the layer's 36,864 weights give it to within a few tenths of a per cent."""
    weight = build("resnet56", (3, 8, 8), 10).get_submodule("blocks.20.conv1").weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert abs(weight.mean().item()) < 0.001


@pytest.mark.parametrize(("name", "size"), [("lenet", 15), ("vgg16_bn", 31), ("vgg19_bn", 28)])
def test_images_that_are_too_small(name, size):
    least = SMALLEST[name]
    for shape in ((1, size, size), (1, size, 64), (1, 64, size)):
        with pytest.raises(UsageError, match=f"'{name}' needs images of at least {least}x{least}"):
            build(name, shape, 10)


def test_unknown_name_is_answered_with_near_ones():
    with pytest.raises(UsageError, match=r"unknown architecture 'resnet65'.*resnet56"):
        build("resnet65", CIFAR, 10)


def test_definition_that_fails(forgets):
    @architecture("fails")
    def fails(shape, num_classes):
        return nn.Linear(-1, num_classes, device="nowhere")

    with pytest.raises(RunFailed, match="'fails' cannot be built: ") as caught:
        build("fails", CIFAR, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("depth", "option"), [(20, "A"), (20, "B")])
def test_strides_halve_the_map_twice(depth, option):
    network = build("resnet20" + ("b" if option == "B" else ""), CIFAR, 10).eval()
    sizes = []
    for block in network.blocks:
        block.register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape[1:])))
    with torch.no_grad():
        network(images(1, CIFAR))
    each = (depth - 2) // 6
    assert sizes == [(16, 32, 32)] * each + [(32, 16, 16)] * each + [(64, 8, 8)] * each


MNIST = (1, 28, 28)
DROPNET = [  # parameters and units that can be dropped: Tan & Motani 2020, figures of the models
    ("dropnet_a_40_40", MNIST, 33_450, 80),
    ("dropnet_a_20_20", MNIST, 16_330, 40),
    ("dropnet_b_64_64", MNIST, 68_938, 128),
    ("dropnet_c_64_64_128_128", CIFAR, 394_058, 384),
    ("dropnet_c_128_128_256_256", CIFAR, 1_301_386, 768),
    ("dropnet_resnet18", CIFAR, 12_545_418, 1_920),  # of 4,800: see its docstring
    ("dropnet_vgg19", CIFAR, 20_158_282 + 2_944, 5_504),  # without and of batch norm
]


@pytest.mark.parametrize(
    ("name", "shape", "params", "units"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[2] > 12_000_000)) for row in DROPNET],
)
def test_dropnets_networks(name, shape, params, units):
    network = build(name, shape, 10)
    assert flops.parameters(network) == params
    sites = find_sites(network, shape)
    assert sum(sites.widths.values()) == units
    masks = half_masks(sites)
    assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images(2, shape)) <= TOLERANCE


def test_layers_unpruned_by_dropnet_are_no_sites():
    for name in ("dropnet_c_64_64_128_128", "dropnet_vgg19"):
        network = build(name, CIFAR, 10)
        assert network.hidden[0].out_features == 256
        assert find_sites(network, CIFAR).rejected["hidden.0"] == "the architecture leaves it whole"


def test_summands_of_dropnets_residual_network_leave_together():
    network = build("dropnet_resnet18", CIFAR, 10)
    inner, full = find_sites(network, CIFAR), find_sites(network, CIFAR, "full")
    streams = [site for name, site in full.items() if name not in inner]
    assert [site.n_units for site in streams] == [64, 128, 256, 512]
    assert [len(site.producers) for site in streams] == [3, 3, 3, 3]
    summands = sum(site.n_units * len(site.producers) for site in streams)
    assert summands + sum(inner.widths.values()) == 4_800


@pytest.mark.parametrize("name", ["dropnet_a_40_40", "dropnet_c_64_64_128_128", "dropnet_resnet18", "dropnet_vgg19"])
def test_dropnets_weights_start_as_keras_draws_them(name):
    shape = MNIST if "_a_" in name else CIFAR
    network = build(name, shape, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, field = module.weight, module.weight[0, 0].numel()
            bound = math.sqrt(6 / (field * (weight.shape[0] + weight.shape[1])))
            assert 0.97 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert not module.bias.any()
    assert not torch.equal(next(build(name, shape, 10, seed=1).parameters()), next(network.parameters()))


def test_network_may_draw_its_own_weights_only_in_part(forgets):
    """Layers it leaves alone are reset all the same."""

    class Own(nn.Sequential):
        def draw_weights(self):
            nn.init.constant_(self[0].weight, 0.25)

    @architecture("own")
    def own(shape, num_classes):
        network = Own(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        nn.init.constant_(network[1].weight, 3.0)
        return network

    network = build("own", (1, 4, 4), 10)
    assert (network[0].weight == 0.25).all()
    assert (network[1].weight == 1).all()
