"""Sliced networks of every kind: saved, loaded again and exported, they compute the same."""

import logging
from functools import cache

import pytest
import torch
from support.networks import CASES, SHAPE, conv, half_masks, head, images, made, randomised
from torch import nn

from bench.errors import RunFailed, SetupError, UsageError
from bench.measure import onnx_export
from bench.models.build import build
from bench.pruning.site_discovery import find_sites
from bench.training.checkpoint import load_tensors, save_tensors

needs_onnx = pytest.mark.usefixtures("onnx_extra")


class SqueezeExcitation(nn.Module):
    """Scales each channel by what two small layers make of all channels."""

    def __init__(self, width):
        super().__init__()
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(torch.relu(self.down(self.pool(x)))))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels, two linear layers with GELU, a shortcut."""

    def __init__(self, width, hidden):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(self.act(self.up(y))).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Images as sequences of positions: self-attention, then two linear layers, each around a shortcut."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=2))
        seen = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1) @ v
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return (x + self.mlp(x)).mean(1)


def squeeze_excitation():
    layers = conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), SqueezeExcitation(6), conv(6, 5), nn.ReLU()
    return randomised(nn.Sequential(*layers, *head(5)))


def convnext():
    return randomised(nn.Sequential(nn.Conv2d(3, 6, 2, 2), ConvNeXtBlock(6, 10), ConvNeXtBlock(6, 9), *head(6)))


def transformer():
    return randomised(nn.Sequential(nn.Conv2d(3, 8, 2, 2), Attention(8, 12), nn.Linear(8, 4)))


def own(name, shape):
    return lambda: randomised(build(name, shape, 10))


GREY, COLOUR = (1, 8, 8), (3, 32, 32)
NETWORKS = [
    pytest.param(own("resnet20", GREY), GREY, "full", id="resnet20 full", marks=pytest.mark.slow),
    pytest.param(own("resnet20b", GREY), GREY, "full", id="resnet20b full", marks=pytest.mark.slow),
    pytest.param(own("vgg16_bn", COLOUR), COLOUR, "inner", id="vgg16_bn", marks=pytest.mark.slow),
    pytest.param(own("lenet", (1, 28, 28)), (1, 28, 28), "inner", id="lenet", marks=pytest.mark.slow),
    pytest.param(own("mlp_300_100", GREY), GREY, "inner", id="mlp"),
    pytest.param(own("dropnet_resnet18", (3, 16, 16)), (3, 16, 16), "full", id="resnet18", marks=pytest.mark.slow),
    pytest.param(squeeze_excitation, SHAPE, "full", id="squeeze-excitation"),
    pytest.param(convnext, SHAPE, "inner", id="ConvNeXt"),
    pytest.param(transformer, SHAPE, "inner", id="transformer"),
    pytest.param(lambda: made("depthwise"), SHAPE, CASES["depthwise"][1], id="depthwise"),
    *(
        pytest.param(lambda case=case: made(case), SHAPE, CASES[case][1], id=case, marks=pytest.mark.slow)
        for case in ("bottleneck_full", "densely_connected", "residual_A_full", "prelu_per_channel")
    ),
]


@needs_onnx
@pytest.mark.parametrize(("make", "shape", "coupling"), NETWORKS)
def test_sliced_saved_loaded_and_exported_it_is_the_same(make, shape, coupling, tmp_path):
    dense = make()
    sites = find_sites(dense, shape, coupling)
    masks = half_masks(sites)
    sliced = sites.slice(dense, masks)
    save_tensors(tmp_path / "network.safetensors", sliced.state_dict())

    whole = make()
    for parameter in whole.parameters():  # all that counts has to come from the file
        parameter.data.zero_()
    again = find_sites(make(), shape, coupling).bind(whole).slice(whole, masks)
    again.load_state_dict(load_tensors(tmp_path / "network.safetensors"))
    x = images(3, shape)
    with torch.no_grad():
        expected = sliced(x)
        assert torch.equal(again.eval()(x), expected)
        assert not torch.allclose(dense(x), expected, atol=1e-2)

    done = onnx_export.to_onnx(again, shape, tmp_path / "network.onnx")
    assert done.difference <= 1e-4
    assert done.bytes == done.path.stat().st_size
    [found] = onnx_export.load(done.path)(x)()
    assert torch.allclose(torch.from_numpy(found), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def chain():
    return randomised(nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), *head(6)))


@cache
def content():
    """The content of an exported file."""
    return onnx_export.convert(chain(), SHAPE, {"mean": "[1.5]"})


@pytest.fixture
def model(onnx_extra):
    """It, parsed."""
    import onnx

    return onnx.load_from_string(content())


def test_exported_file_has_named_ports_free_batch_and_opset(model):
    for values, name, fixed in ((model.graph.input, "images", [3, 8, 8]), (model.graph.output, "logits", [4])):
        [value] = values
        batch, *others = value.type.tensor_type.shape.dim
        assert value.name == name
        assert batch.dim_param
        assert [side.dim_value for side in others] == fixed
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", onnx_export.OPSET)]
    assert {p.key: p.value for p in model.metadata_props} == {"mean": "[1.5]"}


def test_exported_file_names_nothing_of_the_machine(model):
    content = model.SerializeToString()
    assert b"networks.py" not in content
    assert b"site-packages" not in content
    assert b"stack_trace" not in content


@needs_onnx
def test_same_network_gives_the_same_bytes():
    assert onnx_export.convert(chain(), SHAPE, {"mean": "[1.5]"}) == content()


@needs_onnx
def test_another_network_than_the_file_s_is_refused():
    model, other = content(), chain()
    assert onnx_export.check_onnx(model, chain(), SHAPE) <= 1e-4
    with torch.no_grad():
        other[-1].bias[2] += 0.01
    with pytest.raises(RunFailed, match=r"differ by \S+ of the largest output at batch 1, above 0.0001"):
        onnx_export.check_onnx(model, other, SHAPE)


@needs_onnx
def test_tiny_outputs_are_compared_strictly():
    small, other = nn.Conv2d(3, 4, 8), nn.Conv2d(3, 4, 8)
    for network in (small, other):
        nn.init.normal_(network.weight, std=1e-9)
        nn.init.zeros_(network.bias)
    model = onnx_export.convert(small, SHAPE)
    assert onnx_export.check_onnx(model, small, SHAPE) <= 1e-4
    with pytest.raises(RunFailed, match="of the largest output"):
        onnx_export.check_onnx(model, other, SHAPE)


@needs_onnx
def test_given_images_are_compared_too():
    """Two networks that differ for large inputs only."""
    low, high = (nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Hardtanh(-limit, limit)) for limit in (50, 60))
    high.load_state_dict(low.state_dict())
    model = onnx_export.convert(low, SHAPE)
    assert onnx_export.check_onnx(model, high, SHAPE) <= 1e-4
    with pytest.raises(RunFailed, match="at batch 7"):
        onnx_export.check_onnx(model, high, SHAPE, 1e4 * images(7))


class OneIsSpecial(nn.Module):
    """Computes something else for a single image."""

    def forward(self, x):
        return x.flatten(1) * (2 if x.shape[0] == 1 else 1)


@needs_onnx
def test_file_that_is_wrong_is_not_written(tmp_path):
    with pytest.raises(RunFailed, match="at batch 1"):
        onnx_export.to_onnx(OneIsSpecial(), SHAPE, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


class NotANumber(nn.Module):
    """Its output is no number."""

    def forward(self, x):
        return x.flatten(1) * float("nan")


@needs_onnx
def test_no_number_is_no_agreement():
    with pytest.raises(RunFailed, match="differ by nan"):
        onnx_export.check_onnx(onnx_export.convert(NotANumber(), SHAPE), NotANumber(), SHAPE)


class Looks(nn.Module):
    """Its way depends on the pixels."""

    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Raises(nn.Module):
    """Its own code fails."""

    def forward(self, x):
        raise ValueError("no such luck\nand more")


@needs_onnx
@pytest.mark.parametrize(
    ("network", "said"), [(Looks(), "Looks cannot be exported to ONNX"), (Raises(), "ValueError: no such luck$")]
)
def test_unexportable_network_is_one_line(network, said, tmp_path, capfd):
    with pytest.raises(RunFailed, match=said):
        onnx_export.to_onnx(network, SHAPE, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@needs_onnx
def test_nothing_but_the_file_is_changed_which_is_replaced_only_when_asked(tmp_path, capfd):
    """Neither the network nor torch's generator nor logging, and nothing is said."""
    path, network = tmp_path / "network.onnx", chain().train().to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    path.write_text("mine")
    with pytest.raises(UsageError, match="already there"):
        onnx_export.to_onnx(network, SHAPE, path)
    assert path.read_text() == "mine"
    onnx_export.to_onnx(network, SHAPE, path, replace=True)
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    assert torch.equal(state, torch.get_rng_state())
    assert logging.root.manager.disable == logging.NOTSET
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert onnx_export.check_onnx(path, chain(), SHAPE) <= 1e-4


@needs_onnx
def test_unwritable_place_is_a_setup_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot write"):
        onnx_export.to_onnx(chain(), SHAPE, tmp_path / "file" / "network.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        onnx_export.to_onnx(chain(), SHAPE, tmp_path)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(SetupError, match=r'^no_such_package not installed here: pip install -e "\.\[onnx\]"$'):
        onnx_export.to_onnx(chain(), SHAPE, tmp_path / "network.onnx")
