"""Sweeps that are carried out in this process."""

import json

import pytest
from support.command_tools import answer
from support.paths import PLUGINS

from bench.records import store
from bench.spec.registry import ARCHS, DATASETS, METHODS


@pytest.fixture
def write(tmp_path):
    """A sweep's file with this text."""

    def put(text, name="some.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


@pytest.fixture
def sweep(plugins, tmp_path, monkeypatch, capsys):
    """``bench sweep`` on tiny data, in this process: exit code, stdout, stderr."""
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins.clear()
    places = [word for name in ("small", "broken") for word in ("--plugin", str(PLUGINS / f"{name}.py"))]

    def run(path, *words):
        command = ["sweep", str(path), "--cluster", "inline", *places, "-q", "--out", str(tmp_path / "out"), *words]
        return answer(capsys, *command)

    return run


TINY = """
[defaults]
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
epochs = 1
finetune_epochs = 1
settings = { batch_size = 32, latency_batch = 4 }
[[runs]]
"""


def test_a_sweep_in_this_process(sweep, write, tmp_path):
    path = write(TINY + 'method = ["l1_norm", "random"]')
    code, out, err = sweep(path)
    assert (code, err) == (0, "")
    files = sorted((tmp_path / "out" / "records").rglob("*.json"))
    assert len(files) == 2
    assert [line.split()[0] for line in out.splitlines()] == ["1/2", "2/2"]
    assert sorted(line.split()[-1] for line in out.splitlines()) == sorted(map(str, files))
    assert {store.load(file).job for file in files} == {None}
    before = [file.stat().st_mtime_ns for file in files]
    code, out, err = sweep(path, "--json")
    assert code == 0
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == sorted(file.stem for file in files)
    assert sweep(path, "--retry", "failed")[0] == 0  # none failed
    assert [file.stat().st_mtime_ns for file in files] == before


def test_sweep_lists_failures_and_runs_the_rest(sweep, write, tmp_path):
    path = write(TINY + 'method = ["nan_scores", "l1_norm", "raises"]')
    code, out, err = sweep(path)
    assert code == 1
    *told, last = err.splitlines()
    assert len(told) == 2
    assert "not finite" in err
    assert "on purpose" in err
    assert last.startswith("bench: error: 2 of 3 runs failed: ")
    assert len(out.splitlines()) == 1
    states = {f.parent.name: store.load(f).status for f in (tmp_path / "out" / "records").rglob("*.json")}
    assert states == {"nan_scores": "failed", "l1_norm": "ok", "raises": "failed"}
    code, _, err = sweep(path)
    assert (code, err.count("--retry runs it again")) == (1, 2)  # not carried out again unless asked for
    code, _, err = sweep(path, "--retry", "failed")
    assert code == 1
    assert "--retry" not in err
    assert len(list((tmp_path / "out").rglob("superseded/*.json"))) == 2


def test_a_budget_that_cannot_be_met_does_not_end_the_sweep(sweep, write, tmp_path):
    """It is known only once the network is there."""
    path = write(TINY + 'method = "l1_norm"\nkeep_macs = [0.0001, 0.5]\n')
    code, out, err = sweep(path)
    assert code != 0
    assert "cannot be met" in err
    assert len(out.splitlines()) == 1


def test_missing_and_wrong_words(capsys):
    for words, said in (
        (["x.toml"], "--cluster"),
        (["--cluster", "inline"], "FILE"),
        (["x.toml", "--cluster", "slrum"], "did you mean slurm"),
    ):
        code, _, err = answer(capsys, "sweep", *words)
        assert (code, said in err, len(err.splitlines())) == (2, True, 1), (words, err)
