"""Networks defined elsewhere: torchvision's by name, with fresh or published weights; functions in users' files."""

import copy
import json
from functools import partial

import pytest
import torch
from support.command_tools import answer
from support.networks import images
from torch import nn
from torchvision import models

from bench.errors import RunFailed, SetupError, UsageError
from bench.models.build import build
from bench.models.external import torchvision_names
from bench.models.layers import Attention
from bench.records import store as record
from bench.runs import artifacts
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.spec import registry
from bench.spec.registry import ARCHS, add_plugin, model_file, model_name
from bench.training.checkpoint import clone_state

SHAPE = (3, 64, 64)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- torchvision ---------------------------------------------------------------------------------------------


def test_every_classifier_of_torchvision_has_a_name():
    names = torchvision_names()
    assert {"resnet50", "vit_b_16", "convnext_tiny", "swin_t"} <= set(names)
    assert not any(word in name for name in names for word in ("fcn", "rcnn", "raft", "r3d", "quantized"))
    for name in names:
        ARCHS.require(f"torchvision:{name}")


def test_name_that_torchvision_does_not_have():
    for name, said in (
        ("torchvision:resnet_50", r"unknown torchvision model 'resnet_50': did you mean .*resnet50"),
        ("torchvision:fcn_resnet50", "unknown torchvision model"),
        ("torchvision:resnet18:IMAGENET1K_V2", r"weights of resnet18 'IMAGENET1K_V2': did you mean IMAGENET1K_V1"),
        ("torchvision:", "unknown architecture 'torchvision:'"),
        ("torchvision:resnet18:DEFAULT", "weights of resnet18 'DEFAULT': known: IMAGENET1K_V1"),
        ("torchhub:resnet18", "unknown architecture 'torchhub:resnet18'"),
    ):
        for ask in (ARCHS.require, ARCHS.get):
            with pytest.raises(UsageError, match=said) as caught:
                ask(name)
            one_line(caught)


def test_weights_are_torchvisions_under_the_seed():
    """Its own code draws them: the same as after torch.manual_seed, whatever was drawn before."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    network, other = (build("torchvision:mobilenet_v3_small", SHAPE, 7, seed=seed) for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    expected = models.mobilenet_v3_small(num_classes=7).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in network.state_dict().items())
    assert not torch.equal(other.classifier[3].weight, network.classifier[3].weight)
    assert network.training


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_go(name):
    shape = (3, 96, 96)
    network = build(f"torchvision:{name}", shape, 5).train()
    assert not any("aux" in child.lower() for child, _ in network.named_modules())
    assert network(images(2, shape)).shape == (2, 5)


def test_weights_reload_where_torchvision_checks_versions():
    network = build("torchvision:mnasnet0_5", SHAPE, 5)
    state, copied = clone_state(network), copy.deepcopy(network)
    with torch.no_grad():
        copied.classifier[1].bias.add_(1)
    copied.load_state_dict(state)
    assert torch.equal(copied.classifier[1].bias, network.classifier[1].bias)
    copied.load_state_dict({name: t + 1 for name, t in state.items()})
    assert torch.equal(network.classifier[1].bias, state["classifier.1.bias"])  # a copy loads into itself
    assert torch.equal(copied.classifier[1].bias, state["classifier.1.bias"] + 1)


def test_grey_image_counts_as_three_equal_channels():
    grey, colour = (build("torchvision:squeezenet1_1", (c, 64, 64), 5, seed=1).eval() for c in (1, 3))
    x = images(2, (1, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_attention_can_be_sliced_and_computes_the_same():
    torch.manual_seed(2)
    theirs = models.vit_b_32(num_classes=5, image_size=32).eval()
    ours = build("torchvision:vit_b_32", (3, 32, 32), 5, seed=2).eval()
    assert sum(isinstance(m, Attention) for m in ours.modules()) == 12
    assert not any(isinstance(m, nn.MultiheadAttention) for m in ours.modules())
    for network in (theirs, ours):  # torchvision starts the last layer at zero
        nn.init.constant_(network.heads.head.weight, 0.01)
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, (3, 32, 32))), theirs(images(2, (3, 32, 32))), atol=1e-5, rtol=0)


def test_images_that_do_not_fit():
    for name, shape, said in (
        ("torchvision:alexnet", (3, 8, 8), "does not take images of 3x8x8"),
        ("torchvision:resnet18", (4, 64, 64), "images of 4 channels"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            build(name, shape, 10)
        one_line(caught)


# --- published weights -----------------------------------------------------------------------------------------

PRETRAINED = "torchvision:squeezenet1_1:IMAGENET1K_V1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(hub):
    """What stands for the published weights of SqueezeNet, in the place where torch looks for them."""
    torch.manual_seed(11)
    state = models.squeezenet1_1().state_dict()
    torch.save(state, hub / models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    return state


def test_published_weights_for_other_classes_and_grey_images(published):
    same = build(PRETRAINED, SHAPE, 1000)
    assert all(torch.equal(t, published[n]) for n, t in same.state_dict().items())
    network, again, other = (build(PRETRAINED, (1, 64, 64), 7, seed=seed) for seed in (0, 0, 1))
    changed = ("features.0.weight", "classifier.1.weight", "classifier.1.bias")
    for name, tensor in network.state_dict().items():
        assert name in changed or torch.equal(tensor, published[name])
    first = network.features[0].weight
    assert torch.equal(first, published["features.0.weight"].sum(dim=1, keepdim=True))
    assert network.classifier[1].weight.shape == (7, 512, 1, 1)
    assert torch.equal(network.classifier[1].weight, again.classifier[1].weight)
    assert not torch.equal(network.classifier[1].weight, other.classifier[1].weight)


def test_weights_that_are_not_here_or_broken(hub, request):
    with pytest.raises(SetupError, match="--download") as caught:
        build(PRETRAINED, SHAPE, 10)
    assert str(hub) in one_line(caught)
    assert "squeezenet1_1-" in str(caught.value)
    request.getfixturevalue("published")
    (file,) = hub.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SetupError, match="cannot be loaded from") as caught:
        build(PRETRAINED, SHAPE, 10)
    assert file.name in one_line(caught)


def test_weights_for_another_size_of_images(hub):
    weights = models.ViT_B_32_Weights.IMAGENET1K_V1
    torch.save({}, hub / weights.url.rpartition("/")[2])
    with pytest.raises(UsageError, match=r"torchvision:vit_b_32:IMAGENET1K_V1: .*224.*64") as caught:
        build("torchvision:vit_b_32:IMAGENET1K_V1", SHAPE, 10)
    one_line(caught)


def test_run_without_its_weights_writes_nothing(hub, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", "-m", "l1_norm", "-a", "torchvision:mobilenet_v3_small:IMAGENET1K_V1", "-d", "synthetic"]
    code, _, err = answer(capsys, *command, "--out", out, "--data-dir", tmp_path / "data")
    assert code == 3
    said = err.strip().splitlines()[-1]
    assert "--download" in said
    assert "mobilenet_v3_small-" in said
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_run_from_published_weights_and_its_verification(published, hub, make_run):
    spec, options = make_run("l1_norm", "torchvision:squeezenet1_1:IMAGENET1K_V1", "tiny", keep=0.6)
    done = execute(spec, options)
    path = record.path_of(options.out, spec)
    assert done.status == "ok"
    assert {c.outcome for c in verify_file(path, options.out, options.data_dir)} == {"ok"}
    for file in hub.iterdir():
        file.unlink()
    for kept in (artifacts._built, artifacts._dense_cost):  # as in a process that begins
        kept.cache_clear()
    checks = {c.name: c for c in verify_file(path, options.out, options.data_dir)}
    assert checks["MACs and params from widths"].outcome == "not run"
    assert "are not here" in checks["MACs and params from widths"].detail
    assert "FAILED" not in {c.outcome for c in checks.values()}


# --- users' files ------------------------------------------------------------------------------------------------

TINY = """
from torch import nn

def tiny(shape, num_classes):
    return nn.Sequential(nn.Conv2d(shape[0], 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(6, num_classes))

def named(in_channels, num_classes=10, width=4):
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def needs(depth, num_classes): pass
def nothing(num_classes): return "a network"
def wrong(shape, num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))
def several(shape, num_classes): return nn.Sequential(nn.Flatten(), Pair())
class Pair(nn.Module):
    def forward(self, x): return x, x
def fails(num_classes): raise KeyError("no such\\nwidth")
def ends(num_classes): raise SystemExit(0)
number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "net.py"
    path.write_text(TINY)
    return path


def test_name_holds_the_files_content_and_not_its_folder(file, tmp_path, monkeypatch):
    name = model_name(f"file:{file}:tiny")
    assert name.startswith("file:net.py:tiny#")
    assert model_name(name) == name
    monkeypatch.chdir(tmp_path)
    assert model_name("file:models/net.py:tiny") == name
    (tmp_path / "else#where").mkdir()
    copy = tmp_path / "else#where" / "net.py"
    copy.write_text(TINY)
    assert model_name(f"file:{copy}:tiny") == name
    copy.write_text(TINY + "\n")
    assert model_name(f"file:{copy}:tiny") != name
    assert model_name("resnet56") == "resnet56"
    assert model_file(name.removeprefix("file:")) == (file, "tiny")


def test_function_gets_what_it_asks_for(file):
    for function in ("tiny", "named"):
        network, again = (build(model_name(f"file:{file}:{function}"), (2, 9, 9), 7, seed=4) for _ in range(2))
        assert network(images(3, (2, 9, 9))).shape == (3, 7)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_function_that_makes_no_classifier(file):
    for function, kind, said in (
        ("absent", UsageError, "net.py has no function 'absent'"),
        ("number", UsageError, "net.py has no function 'number'"),
        ("needs", UsageError, "'needs' needs depth; it is given shape, num_classes, in_channels only"),
        ("nothing", RunFailed, "'nothing' returned str, not a torch.nn.Module"),
        ("wrong", UsageError, r"gives \(2, 8\) for two images, not logits \(2, 7\)"),
        ("several", UsageError, r"gives tuple for two images, not logits \(2, 7\)"),
        ("fails", RunFailed, "cannot be built: KeyError"),
        ("ends", RunFailed, "cannot be built: SystemExit"),
    ):
        with pytest.raises(kind, match=said) as caught:
            build(model_name(f"file:{file}:{function}"), (1, 8, 8), 7)
        one_line(caught)


def test_invalid_name_is_refused():
    for text, said in (
        ("file:nowhere.py:f", "no file nowhere.py"),
        ("file:net.py", "give file:PATH:FUNCTION"),
        ("file::f", "give file:PATH:FUNCTION"),
        ("file:net.py:no function", "give file:PATH:FUNCTION"),
    ):
        with pytest.raises(UsageError, match=said):
            model_name(text)


def test_file_that_cannot_be_imported(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import no_such_library\n")
    with pytest.raises(UsageError, match=r"bad.py: ModuleNotFoundError: No module named 'no_such_library'"):
        build(model_name(f"file:{bad}:f"), (1, 8, 8), 7)
    bad.write_text("def (:\n")
    with pytest.raises(UsageError, match=r"bad.py:1: invalid syntax"):
        model_name(f"file:{bad}:f")


def test_recorded_name_wants_its_file(file):
    name = model_name(f"file:{file}:tiny")
    registry.PLUGINS.clear()
    with pytest.raises(UsageError, match=r"is not known here; give its file with --plugin"):
        ARCHS.require(name)
    file.write_text(TINY + "# changed\n")
    add_plugin(str(file))
    with pytest.raises(UsageError, match=r"a file of that name has another content"):
        ARCHS.require(name)
    file.write_text(TINY)
    ARCHS.require(name)


def test_users_network_through_the_command_line(file, tmp_path, capsys, monkeypatch):
    command = ["run", "-m", "l1_norm", "-d", "digits", "--epochs", "1", "--finetune-epochs", "1", "--out", tmp_path]

    run = partial(answer, capsys)
    _, planned, _ = run(*command, "-a", f"file:{file}:tiny", "--dry-run")
    monkeypatch.chdir(file.parent)
    _, same, _ = run(*command, "-a", "file:net.py:tiny", "--dry-run")
    assert planned == same
    assert str(file.parent) not in json.loads(planned)["spec"]["arch"]
    code, out, _ = run(*command, "-a", "file:net.py:tiny")
    assert code == 0
    (record,) = tmp_path.rglob("records/**/*.json")
    assert record.stem == json.loads(planned)["id"]
    assert str(file.parent) not in record.read_text()
    code, out, _ = run("verify", record, "--out", tmp_path, "--plugin", file)
    assert code == 0
    assert "not run" not in out
    registry.PLUGINS.clear()
    code, out, _ = run("verify", record, "--out", tmp_path)
    assert "not run" in out
    assert "give its file with --plugin" in out
    assert "FAILED" not in out
