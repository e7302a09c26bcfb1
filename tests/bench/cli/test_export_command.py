"""``bench export`` of a run's networks."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.command_tools import answer
from support.image_folders import resolved, write_folder
from support.records import line, read, seal

from bench.errors import SetupError
from bench.measure import latency, onnx_export
from bench.records import store
from bench.runs.artifacts import RunArtifacts
from bench.runs.execute import execute


@pytest.fixture
def bench(capsys, tmp_path, monkeypatch):
    """Exit code, stdout and stderr of one command, which times in a few rounds."""
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))
    return lambda *words: answer(capsys, *words, "--out", tmp_path, "--data-dir", tmp_path / "data")


@pytest.fixture
def made(finished):
    """The record of a finished run and its path."""
    spec, done, options = finished("random", "two_layers", "tiny8", train__lr=0.05)
    return done, store.path_of(options.out, spec)


def props(path):
    import onnx

    return {p.key: p.value for p in onnx.load(path).metadata_props}


@pytest.mark.usefixtures("onnx_extra")
def test_the_file_is_the_run_s_network_and_says_what_it_needs(bench, made, tmp_path, monkeypatch):
    done, path = made
    file = tmp_path / "network.onnx"
    monkeypatch.setattr("os.getloadavg", lambda: (99.5, 0.0, 0.0))
    code, out, err = bench("export", path, "--onnx", file)
    assert code == 0
    assert "the machine was busy while timing (load 99.5 for " in err
    stored = RunArtifacts(done, tmp_path)
    test = stored.test_images(tmp_path / "data")
    x = test.normalised(test.pixels)
    [logits] = onnx_export.load(file)(x)()
    assert torch.allclose(torch.from_numpy(logits), stored.final().eval()(x).detach(), atol=1e-4)
    hits = (torch.from_numpy(logits).argmax(1) == test.labels).float().mean().item()
    assert hits == pytest.approx(done.metrics.final.top1)
    said = props(file)
    assert said["record"] == done.id
    assert said["masks"] == done.structure.masks
    assert (said["network"], said["classes"]) == ("final", "10")
    assert json.loads(said["mean"]) == pytest.approx(test.mean.flatten().tolist())
    assert json.loads(said["std"]) == pytest.approx(test.std.flatten().tolist())
    assert all(f"{key} " in out and value in out for key, value in said.items())
    assert f"{done.cost.final.macs:,}" in out
    assert str(tmp_path) not in "".join(said.values())


@pytest.mark.usefixtures("onnx_extra")
@pytest.mark.parametrize(
    ("size", "said"),
    [
        pytest.param(None, "8x8, as the files are", marks=pytest.mark.slow),
        (16, "16x16: shorter side resized to 16 (bilinear, antialiased), then the centre"),
    ],
)
def test_file_says_how_images_are_resized(bench, make_run, tmp_path, size, said):
    name, folder = resolved(write_folder(tmp_path / "data" / "animals", train=3, test=1), size)
    spec, options = make_run("random", "two_layers", name, finetune__epochs=0)
    options = dataclasses.replace(options, data_dir=folder)
    execute(spec, options)
    file = tmp_path / "network.onnx"
    code, out, _ = bench("export", store.path_of(options.out, spec), "--onnx", file)
    assert code == 0
    assert props(file)["size"].startswith(said)
    assert said in out


@pytest.mark.usefixtures("onnx_extra")
def test_both_networks_as_json(bench, made, tmp_path):
    done, _ = made
    code, out, _ = bench(
        "export", done.id[:8], "--onnx", tmp_path / "net.onnx", "--which", "both", "--batch", 3, "--json"
    )
    rows = json.loads(out)
    assert code == 0
    assert [Path(row["file"]).name for row in rows] == ["net.onnx", "net-dense.onnx"]
    for row, which in zip(rows, ("final", "dense")):
        assert (row["network"], row["macs"]) == (which, getattr(done.cost, which).macs)
        assert row["bytes"] == Path(row["file"]).stat().st_size
        assert 0 <= row["difference"] <= 1e-4
        assert [timing["batch"] for timing in row["ms"]] == [1, 3]
        assert all(timing["pytorch_ms"] > 0 and timing["onnxruntime_ms"] > 0 for timing in row["ms"])
        assert row["metadata"] == props(row["file"])
    assert rows[0]["bytes"] < rows[1]["bytes"]
    assert "masks" not in rows[1]["metadata"]
    test = RunArtifacts(done, tmp_path).test_images(tmp_path)
    [logits] = onnx_export.load(Path(rows[1]["file"]))(test.normalised(test.pixels))()
    hits = (torch.from_numpy(logits).argmax(1) == test.labels).float().mean().item()
    assert hits == pytest.approx(done.metrics.dense.top1)


def spoil(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_network_that_is_not_the_runs_is_not_exported(bench, made, tmp_path, onnx_extra):
    for files, change, which, code, said in (
        ("artifacts/*/network.safetensors", spoil, "final", 1, "not the recorded one"),
        (
            "artifacts/*/network.safetensors",
            Path.unlink,
            "final",
            3,
            "give the folder that the run wrote to with --out",
        ),
        ("artifacts/*/masks.safetensors", Path.unlink, "both", 3, "masks.safetensors is not here"),
        ("bases/*.safetensors", spoil, "both", 1, "not the recorded one"),
        ("bases/*.safetensors", Path.unlink, "dense", 3, "is not here"),
    ):
        [file] = tmp_path.glob(files)
        content = file.read_bytes()
        change(file)
        got, out, err = bench("export", made[1], "--onnx", tmp_path / "network.onnx", "--which", which)
        assert (got, out, said in err) == (code, "", True), (files, err)
        assert len(err.splitlines()) == 1
        assert not list(tmp_path.glob("*.onnx"))
        file.write_bytes(content)


@pytest.mark.usefixtures("onnx_extra")
def test_existing_file_stays_without_force(bench, made, tmp_path, monkeypatch):
    """And without its data a file has no mean."""
    taken = tmp_path / "network-dense.onnx"
    taken.write_text("mine")
    command = "export", made[1], "--onnx"
    code, _, err = bench(*command, tmp_path / "network.onnx", "--which", "both")
    assert code == 2
    assert "--force" in err
    assert taken.read_text() == "mine"
    assert list(tmp_path.glob("*.onnx")) == [taken]

    def gone(*args):
        raise SetupError("not here")

    monkeypatch.setattr("bench.runs.artifacts.load_training", gone)
    code, _, err = bench(*command, taken, "--which", "dense", "--force")
    assert code == 0
    assert "note: without mean and deviation of the training images: not here" in err
    assert props(taken)["network"] == "dense"
    assert "mean" not in props(taken)


def test_wrong_words(bench, made, tmp_path, monkeypatch):
    _, path = made
    monkeypatch.setattr(onnx_export, "PACKAGES", ())
    failed = read(path) | {
        "status": "failed",
        "error": {"type": "E", "message": "m", "traceback": [], "blame": "method"},
    }
    other = tmp_path / "failed-s0.json"
    other.write_bytes(line(seal(failed)))
    file = tmp_path / "network.onnx"
    for arguments, said in (
        (["none", "--onnx", file], "no record of that name"),
        ([other, "--onnx", file], "it left no network"),
        ([path, "--onnx", tmp_path], "is a folder"),
        ([path, "--onnx", file, "--batch", 0], "--batch 0"),
    ):
        code, out, err = bench("export", *arguments)
        assert (code, out) == (2, "")
        assert said in err
    monkeypatch.setattr(onnx_export, "PACKAGES", ("no_such_package",))
    code, _, err = bench("export", "any", "--onnx", file)
    assert code == 3
    assert err == 'bench: error: no_such_package not installed here: pip install -e ".[onnx]"\n'
