"""Known networks: what is counted now, what was counted when the table was written, what others say they cost."""

import math

import pytest
from support.golden_macs import NAMES, OWN, TORCHVISION, golden, markdown, measured, shape_of, weights
from support.paths import ROOT

PAGE = ROOT / "docs" / "measuring.md"
GOLDEN = golden()
LARGE = 60_000_000
PUBLISHED = [f"torchvision:{name}" for name in TORCHVISION]


def test_table_holds_these_networks():
    assert tuple(GOLDEN) == NAMES
    assert len(OWN) >= 12 and len(TORCHVISION) >= 30


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (GOLDEN[n]["total"] > LARGE)) for n in GOLDEN]
)
def test_counts_are_those_of_the_table(name):
    assert measured(name) == GOLDEN[name]


def test_two_counters_agree_on_products():
    assert {n: row["torch"] for n, row in GOLDEN.items()} == {n: row["products"] for n, row in GOLDEN.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_publishes_the_same(name):
    """Its number is products only, in 1e9 with three decimals, at the size it crops to."""
    row, meta = GOLDEN[name], weights(name).meta
    assert tuple(row["input"]) == shape_of(name)
    assert row["products"] / 1e9 == pytest.approx(meta["_ops"], abs=0.0005 + 1e-9)
    assert row["params"] == meta["num_params"]


def alexnet():
    convs = 64 * 3 * 11**2 * 55**2 + (192 * 64 * 5**2) * 27**2
    convs += 9 * (384 * 192 + 256 * 384 + 256 * 256) * 13**2
    return convs + 256 * 6**2 * 4096 + 4096 * 4096 + 4096 * 1000


def vgg(*convs):
    """Simonyan & Zisserman 2015, table 1: groups of 3x3 convolutions with pooling in between."""
    total, width, side = 0, 3, 224
    for out, n in zip((64, 128, 256, 512, 512), convs, strict=True):
        total += 9 * out * (width + (n - 1) * out) * side**2
        width, side = out, side // 2
    return total + 512 * 7**2 * 4096 + 4096 * 4096 + 4096 * 1000


def resnet(*blocks, bottleneck=True, width=64, groups=1):
    """He et al. 2016, table 1; the stride of a bottleneck is in its 3x3 convolution, as in torchvision."""
    total, inp, side = 64 * 3 * 7**2 * 112**2, 64, 56
    for stage, n in enumerate(blocks):
        out, inner = (4 if bottleneck else 1) * 64 * 2**stage, width * 2**stage
        for block in range(n):
            before, side = side, side // 2 if stage and not block else side
            if bottleneck:
                total += inp * inner * before**2 + 9 * inner**2 // groups * side**2 + inner * out * side**2
            else:
                total += 9 * (inp * out + out * out) * side**2
            total += inp * out * side**2 * (inp != out)
            inp = out
    return total + inp * 1000


def vit(patch, dim, blocks, hidden):
    """Dosovitskiy et al. 2021, table 1: patch embedding; blocks of q, k, v, QK^T, AV, projection, MLP; head."""
    patches = (224 // patch) ** 2
    tokens = patches + 1
    block = 3 * tokens * dim**2 + 2 * tokens**2 * dim + tokens * dim**2 + 2 * tokens * dim * hidden
    return patches * dim * 3 * patch**2 + blocks * block + dim * 1000


CLOSED = {
    "alexnet": alexnet(),
    "vgg11": vgg(1, 1, 2, 2, 2),
    "vgg16": vgg(2, 2, 3, 3, 3),
    "vgg16_bn": vgg(2, 2, 3, 3, 3),
    "vgg19_bn": vgg(2, 2, 4, 4, 4),
    "resnet18": resnet(2, 2, 2, 2, bottleneck=False),
    "resnet34": resnet(3, 4, 6, 3, bottleneck=False),
    "resnet50": resnet(3, 4, 6, 3),
    "resnet101": resnet(3, 4, 23, 3),
    "resnet152": resnet(3, 8, 36, 3),
    "wide_resnet50_2": resnet(3, 4, 6, 3, width=128),
    "resnext50_32x4d": resnet(3, 4, 6, 3, width=128, groups=32),
    "vit_b_16": vit(16, 768, 12, 3072),
    "vit_b_32": vit(32, 768, 12, 3072),
}


@pytest.mark.parametrize("name", CLOSED)
def test_products_by_closed_form(name):
    """The suite's own architectures have theirs in tests/bench/test_archs.py, operator by operator."""
    assert GOLDEN[f"torchvision:{name}"]["products"] == CLOSED[name]


@pytest.mark.parametrize("name", ["torchvision:vgg16", "torchvision:vgg16_bn"])
def test_counts_include_norms_and_pooling(name):
    """Two MACs for each output of the 13 normalised convolutions, and the 7x7 map that is pooled."""
    outputs = 2 * 64 * 224**2 + 2 * 128 * 112**2 + 3 * 256 * 56**2 + 3 * 512 * 28**2 + 3 * 512 * 14**2
    beside = GOLDEN[name]["total"] - GOLDEN[name]["products"]
    assert beside == 512 * 7**2 + 2 * outputs * name.endswith("_bn")


def test_page_shows_the_table():
    assert markdown(GOLDEN) in PAGE.read_text()


def test_rows_are_whole_numbers():
    for row in GOLDEN.values():
        assert all(type(row[key]) is int for key in ("total", "products", "torch", "params"))
        assert math.prod(row["input"]) > 0 < row["products"] <= row["total"]
