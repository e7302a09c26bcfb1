"""Exported programs: read without unpickling."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from bench.deploy import program_file
from bench.errors import RunFailed, UsageError
from bench.measure import flops, products

SHAPE = (2, 8, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small network and its file."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},))
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(program, path)
    return network, path


def changed(path, folder, change):
    """A copy of the archive in which ``change`` maps name and content of each file to a new content."""
    copy = folder / "changed.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return copy


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_program_is_the_network(made):
    network, path = made
    found, x = program_file.load(path), torch.randn(3, *SHAPE)
    assert torch.equal(found(x), network(x))
    assert found.eval() is found
    assert flops.count(found, SHAPE).total == flops.count(network, SHAPE).total
    assert products.read(found, SHAPE).by_kind() == {"conv": 1944, "linear": 432}


def test_examples_are_not_unpickled(made, tmp_path):
    buffer = io.BytesIO()
    torch.save({"x": Bomb()}, buffer, pickle_module=pickle)
    _, path = made
    hostile = changed(path, tmp_path, lambda name, old: buffer.getvalue() if "sample_inputs" in name else old)
    assert program_file.load(hostile)(torch.zeros(1, *SHAPE)).shape == (1, 4)


def test_pickled_weights_are_refused(made, tmp_path):
    def change(name, old):
        return old.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else old

    with pytest.raises(UsageError, match=r"keeps 0\.weight as a pickle: such files run code"):
        program_file.load(changed(made[1], tmp_path, change))


@pytest.mark.parametrize("text", ["__import__('os')", "open(chr(47))", "s1.free_symbols", "'a' * 9"])
def test_sizes_that_are_no_arithmetic_are_refused(made, tmp_path, text):
    def change(name, old):
        if not name.endswith("models/model.json"):
            return old
        content = json.loads(old)
        content["hidden"] = [{"as_expr": {"expr_str": text}}]
        return json.dumps(content)

    with pytest.raises(UsageError, match="which is no arithmetic"):
        program_file.load(changed(made[1], tmp_path, change))


def test_other_files_are_refused(tmp_path, made):
    noise = tmp_path / "noise.pt2"
    noise.write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match=r"noise\.pt2 is no program"):
        program_file.load(noise)
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt2")
    with pytest.raises(UsageError, match=r"state\.pt2 is no program"):
        program_file.load(tmp_path / "state.pt2")
    short = changed(made[1], tmp_path, lambda name, old: b"{}" if name.endswith("model.json") else old)
    with pytest.raises(RunFailed, match=r"cannot read changed\.pt2"):
        program_file.load(short)
