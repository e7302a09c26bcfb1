"""Networks of the literature: published sizes, closed forms, seeds, images; attention that can be sliced."""

import pytest
import torch
from support.networks import Encoder, half_masks, images
from torch import nn

from bench.errors import UsageError
from bench.measure import flops
from bench.models.build import build
from bench.models.layers import Attention
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites
from bench.spec.registry import ARCHS

IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)


def densenet_params(depth, growth, classes):
    """Stem of 16, three blocks of (depth - 4) / 3 layers, each reading all before it; two transitions."""
    width, params = 16, 27 * 16
    for block in range(3):
        if block:
            params += 2 * width + width * width
        for _ in range((depth - 4) // 3):
            params += 2 * width + 9 * width * growth
            width += growth
    return params + 2 * width + width * classes + classes


def wide_resnet_params(depth, widen, classes):
    """Norms before convolutions; a 1x1 convolution where the width changes."""
    width, params = 16, 27 * 16
    for out in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 6):
            params += 2 * width + 9 * width * out + 2 * out + 9 * out * out + (width * out if width != out else 0)
            width = out
    return params + 2 * width + width * classes + classes


def vit_params(dim, patch, tokens, classes):
    """Twelve blocks of two norms, attention and a hidden width of four times ``dim``."""
    block = 4 * dim + (dim * 3 * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    return (3 * patch**2 * dim + dim) + dim + (tokens + 1) * dim + 12 * block + 2 * dim + dim * classes + classes


PARAMS = {  # torchvision's documentation of each model at 1000 classes; DeiT-S: Touvron et al. 2021, table 1 (22 M)
    ("resnet18", IMAGENET, 1000): 11_689_512,
    ("resnet34", IMAGENET, 1000): 21_797_672,
    ("resnet50", IMAGENET, 1000): 25_557_032,
    ("resnet101", IMAGENET, 1000): 44_549_160,
    ("alexnet", IMAGENET, 1000): 61_100_840,
    ("squeezenet1_1", IMAGENET, 1000): 1_235_496,
    ("mobilenet_v2", IMAGENET, 1000): 3_504_872,
    ("densenet121", IMAGENET, 1000): 7_978_856,
    ("googlenet", IMAGENET, 1000): 6_624_904,
    ("convnext_tiny", IMAGENET, 1000): 28_589_128,
    ("vit_small", IMAGENET, 1000): vit_params(384, 16, 196, 1000),
    # the same with ten classes and a 3x3 convolution of 1,728 weights in place of a 7x7 one of 9,408
    ("resnet18_cifar", CIFAR, 10): 11_689_512 - 990 * 513 - 9_408 + 1_728,
    ("resnet34_cifar", CIFAR, 10): 21_797_672 - 990 * 513 - 9_408 + 1_728,
    ("resnet50_cifar", CIFAR, 10): 25_557_032 - 990 * 2049 - 9_408 + 1_728,
    ("resnet101_cifar", CIFAR, 10): 44_549_160 - 990 * 2049 - 9_408 + 1_728,
    ("mobilenet_v2_cifar", CIFAR, 10): 3_504_872 - 990 * 1281,
    ("vit_small_cifar", CIFAR, 10): vit_params(384, 4, 64, 10),
    ("densenet40", CIFAR, 10): densenet_params(40, 12, 10),
    ("wrn28_10", CIFAR, 10): wide_resnet_params(28, 10, 10),
    ("wrn16_4", CIFAR, 10): wide_resnet_params(16, 4, 10),
}
NAMES = [name for name, _, _ in PARAMS]


@pytest.mark.parametrize(("name", "shape", "classes"), PARAMS)
def test_parameters_are_those_of_the_literature(name, shape, classes):
    with torch.device("meta"):
        assert flops.parameters(build(name, shape, classes)) == PARAMS[name, shape, classes]


@pytest.mark.parametrize(
    ("params", "millions"),
    [
        (densenet_params(40, 12, 10), 1.0),  # Huang et al. 2017, table 2
        (wide_resnet_params(28, 10, 10), 36.5),  # Zagoruyko & Komodakis 2016
        (vit_params(384, 16, 196, 1000), 22.1),  # Touvron et al. 2021, table 1: 22
    ],
)
def test_closed_forms_give_the_published_millions(params, millions):
    assert params / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_grey_images_of_the_smallest_size(name):
    side = max(ARCHS.get(name).min_size, 8)
    network = build(name, (1, side, side), 7).eval()
    with torch.no_grad():
        logits = network(images(2, (1, side, side)))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", [n for n in NAMES if ARCHS.get(n).min_size > 8])
def test_images_that_are_too_small(name):
    least = ARCHS.get(name).min_size
    with pytest.raises(UsageError, match=f"'{name}' needs images of at least {least}x{least} pixels") as caught:
        build(name, (3, least - 1, least), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("mobilenet_v2", (2, 32, 32), "images of 2 channels: this network takes grey or colour images"),
        ("vit_small", (3, 40, 40), "40x40 are not made of square rows of 16x16 patches"),
        ("vit_small_cifar", (3, 32, 64), "32x64"),
    ],
)
def test_images_that_do_not_fit(name, shape, why):
    with pytest.raises(UsageError, match=why):
        build(name, shape, 10)


@pytest.mark.parametrize("name", ["mobilenet_v2_cifar", "densenet40", "vit_small_cifar", "squeezenet1_1", "googlenet"])
def test_weights_depend_on_the_seed_and_on_nothing_else(name):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first, other = build(name, CIFAR, 10, seed=4).state_dict(), build(name, CIFAR, 10, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    second = build(name, CIFAR, 10, seed=4).state_dict()
    assert all(torch.equal(second[n], t) for n, t in first.items())
    drawn = [n for n, t in first.items() if t.is_floating_point() and t.dim() > 1 and t.numel() > 1 and t.std() > 0]
    assert drawn
    assert not any(torch.equal(other[n], first[n]) for n in drawn)


def test_small_stem_keeps_the_size_of_small_images():
    network, sizes = build("resnet18_cifar", CIFAR, 10).eval(), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape[1:])))
    with torch.no_grad():
        network(images(1, CIFAR))
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    mobile = build("mobilenet_v2_cifar", CIFAR, 10).eval()
    with torch.no_grad():
        assert mobile.features(images(1, CIFAR)).shape[2:] == (4, 4)  # 32 times 1/8, torchvision's own 1/32


def test_densenet_layers_read_all_before_them():
    network = build("densenet40", (1, 8, 8), 10)
    sites = find_sites(network, (1, 8, 8))
    assert sites.widths["features.1.conv"] == 12
    assert len(sites["features.1.conv"].consumers) == 12  # eleven layers of its block and the transition
    assert sum(sites.widths.values()) == 16 + 36 * 12 + 160 + 304


# --- attention -----------------------------------------------------------------------------------------------


def torchs_attention():
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        attention.in_proj_bias.uniform_(-1, 1)
        attention.out_proj.bias.uniform_(-1, 1)
    return attention


def test_attention_is_torchs():
    theirs, x = torchs_attention(), torch.randn(4, 5, 12)
    ours = Attention.like(theirs)
    expected, _ = theirs(x, x, x, need_weights=False)
    given, weights = ours(x, x, x, need_weights=False)
    assert weights is None
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)
    again = Attention(12, 3)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(x)[0], given)


@pytest.mark.parametrize(
    "options",
    [{"bias": False}, {"add_bias_kv": True}, {"kdim": 5, "vdim": 7}, {"dropout": 0.1}, {"add_zero_attn": True}],
)
def test_attention_of_another_kind_is_refused(options):
    with pytest.raises(ValueError, match="attention with other keys"):
        Attention.like(nn.MultiheadAttention(12, 3, batch_first=True, **options))


def test_other_keys_are_refused_and_not_ignored():
    attention, x = Attention(12, 3), torch.randn(1, 5, 12)
    assert torch.equal(attention(x)[0], attention(x, x, x)[0])
    with pytest.raises(ValueError, match="self-attention"):
        attention(x, x.clone(), x)


def test_one_head_is_that_head_alone():
    """Keeping one head leaves softmax(q k / sqrt(4)) v of that head, through its columns of the projection."""
    network = Encoder().eval()
    attention, sites = network.attention, find_sites(network, (3, 8, 8))
    assert sites["attention.qkv"].n_units == 3
    masks = sites.ones() | {"attention.qkv": torch.tensor([False, True, False])}
    sliced = sites.slice(network, masks)
    assert (sliced.attention.qkv.out_features, sliced.attention.proj.in_features) == (12, 4)
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        q, k, v = (part[..., 4:8] for part in attention.qkv(x).split(12, dim=-1))
        head = (q @ k.mT / 2).softmax(dim=-1) @ v
        by_hand = head @ attention.proj.weight[:, 4:8].T + attention.proj.bias
        torch.testing.assert_close(sliced.attention(x)[0], by_hand, atol=1e-6, rtol=0)
    fresh = sites.slice(Encoder(), masks)
    fresh.load_state_dict(sliced.state_dict())
    y = images(2, (3, 8, 8))
    assert torch.equal(fresh.eval()(y), sliced(y))


def test_what_makes_a_head_is_its_query_key_and_value():
    network = Encoder()
    site = find_sites(network, (3, 8, 8))["attention.qkv"]
    q, k, v = network.attention.qkv.weight.split(12)
    expected = torch.stack([torch.cat([part[at : at + 4].flatten() for part in (q, k, v)]) for at in (0, 4, 8)])
    assert torch.equal(site.rows(), expected)
    assert site.gamma() is None
    torch.testing.assert_close(site.effective_norm(), expected.norm(dim=1))


def test_torchs_own_attention_stays_whole():
    network = Encoder(attention=torchs_attention())
    sites = find_sites(network, (3, 8, 8))
    assert sites.widths == {"mlp.0": 7}
    masks = half_masks(sites)
    assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images()) <= 1e-4
