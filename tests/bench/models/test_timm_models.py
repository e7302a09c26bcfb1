"""Networks of timm by name: what is built, where weights come from, what a record says of it."""

import importlib.util
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.command_tools import answer

from bench.errors import SetupError, UsageError
from bench.measure import environment
from bench.models import timm_models
from bench.models.build import build
from bench.runs.identity import arch_sha256, arch_source
from bench.spec.registry import ARCHS

SHAPE = (3, 32, 32)
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
pytestmark = [needs_timm, pytest.mark.slow]  # its import alone takes 3 s
WEIGHTS = "test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch's folder of weights, empty; that of the hub is, too."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_classes_channels_and_the_size_of_a_network_that_has_one():
    with torch.no_grad():
        for name, shape in (("test_resnet", (1, 40, 40)), ("test_vit", (3, 32, 32)), ("test_vit", (1, 48, 48))):
            network = build(f"timm:{name}", shape, 7)
            assert network.eval()(torch.zeros(2, *shape)).shape == (2, 7)
    assert timm_models.image_size("halonet26t") == 256


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("resnet_18", UsageError, "unknown timm model 'resnet_18': did you mean resnet18"),
        ("zzqq", UsageError, "unknown timm model 'zzqq': list archs 'timm:*zzq*' lists names"),
        ("resnet18.a9_in1k", UsageError, "unknown weights of timm:resnet18 'a9_in1k': did you mean a3_in1k or"),
        ("starnet_s050.x", UsageError, "unknown weights of timm:starnet_s050 'x': timm publishes none"),
        (WEIGHTS, SetupError, f"are not here: use --download, or put model.safetensors of timm/{WEIGHTS} as {WEIGHTS}"),
    ],
)
def test_names_and_weights_that_are_not_there(hub, name, error, said):
    with pytest.raises(error) as caught:
        build(f"timm:{name}", SHAPE, 10)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert error is UsageError or str(hub) in str(caught.value)


def test_weights_are_read_from_a_file_in_torchs_folder(hub):
    published = build("timm:test_resnet", SHAPE, 1000, seed=5).state_dict()
    save_file(published, hub / f"{WEIGHTS}.safetensors")
    same = build(f"timm:{WEIGHTS}", SHAPE, 1000).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in published.items())
    other = build(f"timm:{WEIGHTS}", (1, 32, 32), 10).state_dict()
    assert {n for n in other if not torch.equal(other[n], published[n])} == {"conv1.0.weight", "fc.weight", "fc.bias"}
    assert torch.allclose(other["conv1.0.weight"], published["conv1.0.weight"].sum(1, keepdim=True))
    (hub / f"{WEIGHTS}.safetensors").write_bytes(b"cut")
    with pytest.raises(SetupError, match=rf"cannot be loaded from .*{WEIGHTS}.safetensors \("):
        build(f"timm:{WEIGHTS}", SHAPE, 10)


def test_version_is_part_of_the_identity(monkeypatch):
    name = "timm:test_resnet"
    assert "timm" in arch_source(name).packages
    network = build(name, SHAPE, 10)
    before = arch_sha256(name, network)
    assert arch_sha256(name, build(name, SHAPE, 10, seed=1)) == before
    version = environment._version
    monkeypatch.setattr(environment, "_version", lambda package: "0.0" if package == "timm" else version(package))
    assert environment.packages(arch_source(name).packages)["timm"] == "0.0"
    assert arch_sha256(name, network) != before


def test_list_prints_what_matches_and_never_all(capsys):
    code, out, err = answer(capsys, "list", "archs", "timm:test_res*")
    assert (code, out.split()) == (0, ["archs", "name", out.split()[2], "timm:test_resnet"])
    code, out, err = answer(capsys, "list", "archs", "timm:*")
    assert (code, len(out.split("\n")) < 110) == (0, True)
    assert "more: a longer pattern, or --json for all" in err
    code, out, err = answer(capsys, "list", "archs", "timm:nonesuch*")
    assert (code, out) == (2, "")
    assert "unknown architecture 'timm:nonesuch*': no name matches" in err


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r'timm is not installed here: pip install -e "\.\[timm\]"'):
        ARCHS.require("timm:resnet18")
