import hashlib
import os
import shutil
from collections import namedtuple

import pytest
import torch
from safetensors import safe_open
from torch import nn

from bench.errors import RunFailed, SetupError
from bench.files import require_writable
from bench.training.checkpoint import load_state, load_tensors, save_state, save_tensors, weight_bytes

CPU = torch.device("cpu")


def test_state_comes_back_as_it_was(tmp_path):
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "curve": [{"loss": 0.1 + 0.2}],
        "phase": (1, 2),
        "nothing": None,
    }
    save_state(tmp_path / "x.pt", state)
    found = load_state(tmp_path / "x.pt", CPU)
    assert set(found) == set(state)
    assert all(torch.equal(found["network"][n], t) for n, t in network.state_dict().items())
    moment = optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], moment)
    assert torch.equal(found["rng"], state["rng"])
    assert (found["curve"], found["phase"], found["nothing"]) == (state["curve"], state["phase"], None)


def test_file_that_is_no_checkpoint_is_ignored(tmp_path):
    path = tmp_path / "x.pt"
    assert load_state(path, CPU) is None
    save_state(path, {"weights": torch.arange(1000.0)})
    content = path.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        assert load_state(path, CPU) is None, size
    path.write_text("not a checkpoint")
    assert load_state(path, CPU) is None
    torch.save({"network": nn.Linear(2, 2)}, path)  # a pickled object would run code on loading
    assert load_state(path, CPU) is None


def test_failed_save_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    save_state(path, {"epoch": 1})
    with pytest.raises(Exception, match=r"pickle|local"):
        save_state(path, {"epoch": 2, "hook": lambda: None})
    assert load_state(path, CPU) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


# --- artifacts -----------------------------------------------------------------------------------------------------


def test_tensors_come_back_with_their_hash(tmp_path):
    path = tmp_path / "x.safetensors"
    weight = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    tensors = {"a": weight, "b": torch.tensor([1, 0]).to(torch.uint8), "c": torch.ones(2, requires_grad=True)}
    facts = save_tensors(path, tensors)
    found = load_tensors(path)
    assert set(found) == {"a", "b", "c"}
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    content = path.read_bytes()
    expected = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert facts == expected
    assert save_tensors(tmp_path / "again", tensors)["sha256"] == facts["sha256"]


@pytest.mark.parametrize("size", [None, 0, 5, 200])
def test_damaged_or_missing_tensors_are_named(tmp_path, size):
    path = tmp_path / "x.safetensors"
    if size is not None:
        save_tensors(path, {"a": torch.ones(100)})
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunFailed, match=r"x\.safetensors cannot be read .*delete it") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)


class Shared(nn.Module):
    """One layer under two names, two layers with one weight, two views of one buffer that overlap, empty buffers."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again, self.other.weight = self.one, self.one.weight
        whole = torch.arange(10.0)
        self.register_buffer("front", whole[:6])
        self.register_buffer("back", whole[4:])
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("void", torch.zeros(0))


def test_shared_tensors_are_saved_once_and_load_under_every_name(tmp_path):
    network = Shared()
    network.back.add_(1)
    facts = save_tensors(tmp_path / "x.safetensors", network.state_dict())
    found = load_tensors(tmp_path / "x.safetensors")
    assert set(found) == set(network.state_dict())
    assert all(torch.equal(found[name], t) for name, t in network.state_dict().items())
    assert found["again.weight"] is found["other.weight"] is found["one.weight"]
    assert found["again.bias"] is found["one.bias"] is not found["other.bias"]
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        stored = set(file.keys())
    assert stored == {"one.weight", "one.bias", "other.bias", "front", "back", "empty", "void"}
    assert facts["bytes"] == (tmp_path / "x.safetensors").stat().st_size
    assert weight_bytes(network) == 4 * (16 + 4 + 4 + 6 + 6)
    again = Shared()
    again.load_state_dict(found)
    assert again.other.weight is again.one.weight
    save_tensors(tmp_path / "plain", nn.Linear(2, 2).state_dict())
    with safe_open(tmp_path / "plain", "pt") as file:
        assert file.metadata() is None


# --- the output folder -----------------------------------------------------------------------------------------------


def test_writable_folder_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "new" / "folder", 1)
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("in the way")
    for below in ("file", "file/folder"):
        with pytest.raises(SetupError, match=r"cannot write to .*file.*--out"):
            require_writable(tmp_path / below, 1)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match="Permission denied"):
        require_writable(tmp_path, 1)


def test_disk_that_is_almost_full_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10 * 2**20, 7 * 2**20, 3 * 2**20))
    require_writable(tmp_path, 3 * 2**20)
    with pytest.raises(SetupError, match="has 3 MiB free, this run may need 4"):
        require_writable(tmp_path, 4 * 2**20)
