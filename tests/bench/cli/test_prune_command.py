"""``bench prune``: a trained network, smaller, in one command."""

import inspect
import json
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.command_tools import answer
from support.paths import ROOT
from support.timed_shapes import Clock, made, measured
from torch import nn

import bench
from bench.cli import parser
from bench.cli import prune as command
from bench.data.loading import find, load_training, resolve
from bench.deploy.preset import Seen, as_given, random_weights, save
from bench.errors import RunFailed
from bench.files import run_lock
from bench.measure import onnx_export
from bench.measure.quiet import Busy
from bench.records import bits, store
from bench.runs import latency_tables
from bench.runs.artifacts import RunArtifacts
from bench.runs.resolve import resolve as planned
from bench.spec.registry import import_file
from bench.training.checkpoint import save_tensors
from leaderboard.render.prune_page import SLOWER, page

NET = """
from pathlib import Path

import torch
from torch import nn
from safetensors.torch import load_file

def make_net(in_channels, num_classes):
    layers = [nn.Conv2d(in_channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

def trained():
    made = make_net(3, 3)
    made.load_state_dict(load_file(Path(__file__).parent / "weights.safetensors"))
    return made
"""


@pytest.fixture
def photos(tmp_path):
    """Noise around a brightness that the class says."""
    chance = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in range(3):
            folder = tmp_path / "photos" / part / f"class{label}"
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = 40 + 80 * label + chance.integers(-30, 31, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "photos"


@pytest.fixture
def net(tmp_path, photos):
    """A file of a network that was trained on the photos, by code that is not the suite's."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    name, folder = resolve(f"folder:{photos}", photos)
    data = load_training(find(name, folder), folder, False, 0, torch.device("cpu"))
    torch.manual_seed(1)
    network = import_file(path).make_net(3, 3)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(25):
        for x, y in data.train.batches(36):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    save_tensors(tmp_path / "weights.safetensors", network.state_dict())
    return path


@pytest.fixture
def prune(capsys, tmp_path):
    def run(network, *words, out="small"):
        return answer(capsys, "prune", network, *words, "--no-timing", "--out", tmp_path / out, "--device", "cpu")

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("onnx_extra")
def test_one_command(prune, net, photos, tmp_path, monkeypatch, capsys):
    words = f"file:{net}:trained", "--data", photos, "--round-to", "1", "--finetune-epochs", "1", "--keep-macs", "0.6"
    small = tmp_path / "small"

    def fails(*args, **named):
        raise RunFailed("no export today")

    with monkeypatch.context() as broken:
        broken.setattr(onnx_export, "to_onnx", fails)
        assert prune(*words)[0] == 1
    assert sorted(file.name for file in small.iterdir()) == ["record.json", "runs"]
    code, out, err = prune(*words)
    assert code == 0
    assert "100.0 % top-1 on 3 validation images (a tenth of train, on which it may have been trained)" in err
    assert "guessing 33.3 %: it is taken as it is" in err
    assert re.search(r"normalised with mean 0\.\d+, 0\.\d+, 0\.\d+ and std .* of pixels in 0\.\.1", out)
    dense = shlex.split(re.search("file: python -m bench (.*)", out)[1])
    assert answer(capsys, *dense)[0] == 0
    (small / "dense.onnx").unlink()
    assert "epoch" not in re.sub(r"\(--epochs.*", "", err)  # the run was done before the export failed
    names = {"network.onnx", "network.safetensors", "page.html", "page.md", "record.json", "runs"}
    assert {file.name for file in small.iterdir()} == names
    record = store.load(small / "record.json")
    assert (record.spec.method, record.spec.recipe.train.epochs) == (command.METHOD, 0)
    assert f"{record.cost.final.macs:,}" in out and f"{record.cost.final.macs:,}" in (small / "page.md").read_text()
    network, facts = bench.load(small / "network.safetensors", build=lambda: import_file(net).make_net(3, 3))
    assert facts["record"] == record.id
    x = torch.randn(4, 3, 8, 8)
    [logits] = onnx_export.load(small / "network.onnx")(x)()
    assert torch.allclose(torch.from_numpy(logits), network(x), atol=1e-5)
    pruned = bench.prune(import_file(net).trained(), x, keep_macs=0.6)
    order = sorted(pruned.masks)
    assert bits.pack(torch.cat([pruned.masks[name] for name in order]).numpy()) == record.structure.masks
    before = {file.name: file.read_bytes() for file in small.iterdir() if file.is_file()}
    assert prune(*words)[:2] == (code, out)
    assert {file.name: file.read_bytes() for file in small.iterdir() if file.is_file()} == before
    code, _, err = prune(*words[:-1], "0.5")
    assert code == 2
    assert f"holds what another command made, run {record.id}: choose another folder" in err


def test_a_network_that_knows_nothing_is_trained_first(photos, net, tmp_path):
    request = {"method": "l1_norm", "dataset": f"folder:{photos}"}
    for function, epochs in (("trained", 0), ("make_net", 4)):
        asked = command.RunRequest(arch=f"file:{net}:{function}", settings={"finetune.epochs": 1}, **request)
        options = command.RunOptions(out=tmp_path / "runs", quiet=True, device="cpu")
        recipe = command._planned(asked, options, True)[0].recipe
        assert bool(recipe.train.epochs) == bool(epochs)
        assert command._planned(asked, options, False)[0].recipe.train.epochs > 0


def test_milliseconds_are_a_budget_or_a_figure_of_the_page():
    def asked(*words):
        chosen = parser().parse_args(["prune", "resnet20", "--data", "digits", "--out", "small", *words])
        chosen.dataset = "digits"
        return command._request(chosen)

    of_latency = asked("--keep-latency", "0.6", "--runtime", "openvino", "--batch", "8")
    assert (of_latency.keep_latency, of_latency.runtime, of_latency.batch) == (0.6, "openvino", 8)
    assert asked("--keep-macs", "0.6", "--runtime", "openvino", "--batch", "8") == asked("--keep-macs", "0.6")
    for words, step in (([], 8), (["--keep-params", "0.5"], 8), (["--round-to", "1"], 1), (["--native"], 1)):
        assert asked(*words).round_to == step
    assert (of_latency.round_to, asked("--units", "depth").round_to) == (1, 1)


def test_accuracy_before_anything(photos, net, tmp_path):
    options = command.RunOptions(out=tmp_path / "runs", quiet=True, device="cpu")
    asked = command.RunRequest("l1_norm", f"file:{net}:trained", f"folder:{photos}")
    (spec,), options = planned(asked, options)
    seen = as_given(spec, options)
    assert (seen.top1, seen.guess, seen.images) == (1.0, pytest.approx(1 / 3), 3)
    assert re.fullmatch(
        r"images of 3x8x8 are normalised with mean 0\.\d{4}, .* and std .* of pixels in 0..1", seen.images_as
    )
    (spec,), options = planned(command.RunRequest("l1_norm", asked.arch, f"folder:{photos}~0.9~0.1"), options)
    seen = as_given(spec, options)
    assert seen.top1 < 1  # it was trained with other constants
    assert seen.images_as.endswith("mean 0.9000, 0.9000, 0.9000 and std 0.1000, 0.1000, 0.1000 of pixels in 0..1")


def test_normalisation_is_part_of_the_data_set(tmp_path):
    for words, name in (
        ([], "photos"),
        (["--size", "64", "--mean", "0.5", "--std", "0.25,0.2,0.5"], "photos@64~0.5~0.25,0.2,0.5"),
    ):
        chosen = parser().parse_args(["prune", "resnet20", "--data", f"{tmp_path}/photos", "--out", "small", *words])
        assert command._dataset(chosen.data, chosen.size, chosen.mean, chosen.std) == f"folder:{tmp_path}/{name}"


def test_who_knows_the_images():
    assert Seen(1.0, 1 / 3, 3).trained
    assert not Seen(2 / 3, 1 / 3, 3).trained  # of three images that is chance
    assert Seen(0.36, 1 / 3, 100_000).trained
    assert not Seen(0.35, 1 / 3, 100_000).trained
    for name, random in (
        ("resnet20", True),
        ("torchvision:resnet18", True),
        ("torchvision:resnet18:IMAGENET1K_V1", False),
        ("timm:resnet10t", True),
        ("timm:resnet10t.c3_in1k", False),
        ("file:net.py:make_net", False),
        ("nobody_knows_it", False),
    ):
        assert random_weights(name) == random


def test_saved_run_is_loaded_without_its_record(finished, tmp_path):
    _, done, _ = finished("random", "two_layers", "tiny8", train__lr=0.05)
    stored = RunArtifacts(done, tmp_path)
    save(stored, tmp_path / "small.safetensors")
    network, facts = bench.load(tmp_path / "small.safetensors", build=lambda: stored.dense())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(network(x), stored.final().eval()(x))
    assert facts["top1"] == done.metrics.final.top1


def test_the_method_is_the_default_of_bench_prune_and_tied_with_the_best_of_the_board():
    assert inspect.signature(bench.prune).parameters["method"].default == command.METHOD
    text = (ROOT / "leaderboard" / "tables" / "board.md").read_text()
    ranked = re.findall(r"^\| (?:no order|[\d-]+) \| (\w+) \| (\w+) \|", text, re.M)
    tables = []
    for letters, name in ranked:
        if name == "uniform_thin":  # the first of each table
            tables.append({})
        tables[-1][name] = set(letters)
    assert len(tables) == 4
    assert all(table[command.METHOD] & table["uniform_thin"] for table in tables)


@pytest.mark.usefixtures("onnx_extra")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--keep-macs", "0.5", "--keep-params", "0.5"], 2, "--keep-macs and --keep-params: give one of them"),
        (["--keep-macs", "1.5"], 2, "1.5"),
        (["--keep-macs", "60"], 2, "above 0 and at most 1"),
        (["--method", "l1_nrm"], 2, "did you mean l1_norm"),
        (["--seed", "0-2"], 2, "--seed 0-2: one network has one seed"),
        (["--size", "16", "--data", "digits"], 2, "--size 16: images of a folder are resized, 'digits' has its own"),
        (["--mean", "0.5"], 2, "--mean and --std: give both"),
        (["--mean", "127", "--std", "64"], 2, "--mean and --std: of pixels in 0..1, such as --mean 0.5 --std 0.5"),
        (["--mean", "0,0", "--std", "1"], 2, "mean and deviation (0.0,0.0~1.0) are one number or 3, separated by com"),
        (["--mean", "0", "--std", "1", "--data", "digits"], 2, "for images of a folder, 'digits' has its own"),
        (["--data", "nowhere"], 3, "nowhere: no such folder"),
        (
            ["--data", "flat"],
            3,
            "has neither a folder 'test' nor 'val', and no 'train': images lie in train/CL",
        ),
        (["--out", "full"], 2, "the folder is not empty, and not one of bench prune; choose another"),
        (["--out", "net.py"], 2, "there is a file of this name; choose another folder"),
    ],
)
def test_what_is_refused(capsys, photos, tmp_path, monkeypatch, words, code, said):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own files beside the user's
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "flat" / "cat").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    before = sorted(tmp_path.rglob("*"))
    given = ["prune", "file:net.py:make_net", "--data", "photos", "--out", "small", *words]
    got, out, err = answer(capsys, *given)
    assert (got, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_page_says_where_the_smaller_network_is_slower():
    for ms, slower in ((3.0, True), (1.0, False)):
        lines, _, _ = measured([made(4)], clock=Clock(lambda key, kept, ms=ms: key.batch * (2.0 if kept == 8 else ms)))
        shown = page(made(4), lines, "net")
        assert (SLOWER in shown.parts) == slower
        assert re.search(f"  {lines[0].times.final_ms:.3f} +{lines[0].times.speedup:.2f}x  ", shown.text())
        assert "| 0 | 8 | 4 | 50 |" in " ".join(shown.markdown().split())


def test_networks_that_are_no_network(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "require", lambda: None)
    for network, said in (
        (
            "net.pt",
            "unknown architecture 'net.pt': give file:PATH:FUNCTION, a function that builds the network",
        ),
        (
            "file:net.py:make:w.safetensors",
            "give a function that loads its weights itself, such as file:net.py:make w",
        ),
    ):
        code, _, err = answer(capsys, "prune", network, "--data", "digits", "--out", tmp_path / "small")
        assert (code, (tmp_path / "small").exists()) == (2, False)
        assert said in err


@pytest.mark.usefixtures("onnx_extra")
def test_a_busy_machine_costs_the_milliseconds_only(net, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.cli.export.write", lambda stored, networks, paths, *_: paths["final"].write_bytes(b""))
    monkeypatch.setattr(latency_tables, "MACHINE", latency_tables.MACHINE)
    lines, _, _ = measured([made(4)])
    machine = [Busy("busy: others use 9 cores"), lines]

    def timed(record, how):
        found = machine.pop(0)
        if isinstance(found, Busy):
            raise found
        return list(found)

    monkeypatch.setattr("bench.cli.latency.lines_of", timed)
    small = tmp_path / "small"
    words = "prune", f"file:{net}:trained", "--data", photos, "--finetune-epochs", "0", "--round-to", "1"
    words += "--wait", "7", "--out", small, "-q"
    code, out, err = answer(capsys, *words)
    assert code == 3
    assert f"{small} has all but milliseconds: busy: others use 9 cores; the same command measures them, --no-t" in err
    assert "Milliseconds are not measured: the machine was busy." in out
    assert {"network.onnx", "network.safetensors", "page.md"} <= {file.name for file in small.iterdir()}
    assert latency_tables.MACHINE.wait_s == 7
    code, out, _ = answer(capsys, *words)
    assert code == 0
    assert f"{lines[0].times.final_ms:.3f}" in out
    assert (small / "latency.json").exists()
    (small / "latency.json").write_text("[")
    assert "is not what bench prune wrote; delete it" in answer(capsys, *words)[2]


def test_json_names_what_was_made(prune, net, photos, tmp_path, monkeypatch):
    def write(stored, networks, paths, data_dir, replace):
        assert run_lock(tmp_path / "small" / "runs", "network.onnx").busy()  # another such command waits
        for path in paths.values():
            path.write_bytes(b"")

    monkeypatch.setattr("bench.cli.export.write", write)  # exporting takes seconds: the slow test does it
    monkeypatch.setattr(onnx_export, "require", lambda: None)
    words = "--data", photos, "--epochs", "0", "--finetune-epochs", "0", "--round-to", "1", "--json", "-q"
    code, out, _ = prune(f"file:{net}:trained", *words)
    assert code == 0
    said = json.loads(out)
    assert said["files"] == [
        str(tmp_path / "small" / n) for n in ("network.onnx", "network.safetensors", "record.json")
    ]
    assert (said["latency"], said["record"]["id"]) == ([], said["id"])
