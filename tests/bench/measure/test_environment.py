"""What a run ran on."""

import json

import pytest
import torch
from torch import nn

from bench.errors import SetupError
from bench.measure import environment
from bench.models import memory_format


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert environment.pick_device("auto").type == expected
    assert environment.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "mps:0"])
def test_device_that_is_not_there(name):
    with pytest.raises(SetupError, match=f"--device {name}"):
        environment.pick_device(name)


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")])
def test_precision_follows_the_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(environment, "cpu", lambda: ("a CPU", frozenset(flags)))
    assert environment.pick_precision("auto", torch.device("cpu")) == expected
    assert environment.pick_precision("fp32", torch.device("cpu")) == "fp32"


def test_code_names_commit_and_local_changes(monkeypatch):
    answers = {"rev-parse": "c" * 40, "diff": "+ a line"}
    monkeypatch.setattr(environment, "_git", lambda command, *rest: answers[command])
    changed = environment.code()
    assert len(changed["diff_sha256"]) == 64
    answers["diff"] = ""
    assert environment.code() == changed | {"diff_sha256": None}


def test_machine_without_git_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.code()["commit"] is None


def test_versions_are_plain_data():
    found = environment.versions(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])


CPU = torch.device("cpu")


class OddRanks(nn.Module):
    """Parameters and buffers of one to five dimensions, two of them under two names."""

    def __init__(self):
        super().__init__()
        self.flat, self.planes, self.volume = nn.Conv1d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3)
        self.grey, self.point = nn.Conv2d(1, 3, 3), nn.Conv2d(2, 3, 1)
        self.experts = nn.Parameter(torch.randn(2, 3, 2, 3, 3))
        self.register_buffer("window", torch.randn(1, 2, 3, 4, 5))
        self.register_buffer("table", torch.randn(1, 2, 3, 4))
        self.tied = nn.Conv2d(2, 3, 3)
        self.tied.weight = self.planes.weight


def test_place_lays_out_only_tensors_of_four_dimensions():
    network = OddRanks()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    memory_format.place(network, CPU)
    for name, t in network.state_dict().items():
        assert torch.equal(t, before[name])
        if t.dim() == 4:
            assert t.is_contiguous(memory_format=torch.channels_last), name
        else:
            assert t.stride() == before[name].stride(), name
    assert network.tied.weight is network.planes.weight


def test_place_gives_the_strides_of_module_to():
    """Other strides of one-channel weights would choose other kernels and change results in the last bits."""
    network, expected = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)) for _ in range(2))
    memory_format.place(network, CPU)
    expected.to(memory_format=torch.channels_last)
    assert [p.stride() for p in network.parameters()] == [p.stride() for p in expected.parameters()]


def test_place_goes_back_to_channels_first():
    network = OddRanks()
    strides = [t.stride() for t in network.state_dict().values()]
    memory_format.place(memory_format.place(network, CPU), CPU, "channels_first")
    assert [t.stride() for t in network.state_dict().values()] == strides


@pytest.mark.parametrize("channels", [1, 3])
def test_laid_out_images_have_the_strides_of_their_layout(channels):
    images = torch.randn(2, channels, 4, 5)
    last = memory_format.laid_out(images, "channels_last")
    assert last.is_contiguous(memory_format=torch.channels_last)
    strided = images.to(memory_format=torch.channels_last)
    first = memory_format.laid_out(strided, "channels_first")
    assert first.stride() == (20 * channels, 20, 5, 1)
    assert torch.equal(first, images)
    assert torch.equal(last, images)
