"""``bench measure``: latencies of a record's networks, with the run's files and without."""

import json
import statistics

import pytest
from support.command_tools import answer
from support.records import line, read, seal

from bench.measure import flops, latency
from bench.records import store
from bench.runs.artifacts import RunArtifacts


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))


@pytest.fixture
def bench(capsys, tmp_path):
    """Exit code, stdout and stderr of one command."""
    return lambda *words, out=tmp_path: answer(capsys, *words, "--threads", 1, "--out", out)


@pytest.fixture
def made(finished):
    """The record of a finished run and its path."""
    spec, done, options = finished("random", "two_layers", "tiny8", train__lr=0.05)
    return done, store.path_of(options.out, spec)


def test_measure_times_both_networks_next_to_recorded_values(bench, made, tmp_path):
    done, path = made
    code, out, _ = bench("measure", path, "--batch", "1,3")
    assert code == 0
    assert f"{done.cost.final.macs:,} MACs left" in out
    assert "weights stored" in out
    one, three = (line.split() for line in out.splitlines() if line.startswith("eager"))
    assert (one[1], three[1]) == ("1", "3")
    assert one[-1] == f"{done.latency[0].speedup:.2f}x"
    assert three[-1] == "3"  # rounds: this batch was not measured in the run


def test_all_samples_as_json(bench, made):
    done, path = made
    code, out, _ = bench("measure", path, path, "--json")
    first, second = json.loads(out)
    assert code == 0
    assert first["id"] == second["id"] == done.id
    assert [t["batch"] for t in first["latency"]] == [1, done.spec.recipe.latency_batch]
    for timing in first["latency"]:
        assert timing["threads"] == 1
        assert len(timing["dense_samples_ms"]) == timing["rounds"] == 3
        assert timing["sliced_ms"] == statistics.median(timing["sliced_samples_ms"])


def test_a_record_alone_is_enough(bench, made, tmp_path):
    """Somebody else's record, without the files that its run left."""
    done, path = made
    alone = tmp_path / "elsewhere"
    code, out, _ = bench("measure", path, out=alone)
    assert code == 0
    assert "weights drawn at random" in out
    stored = RunArtifacts(done, alone)
    for which in ("dense", "final"):
        network = stored.shaped(which)
        assert flops.count(network, stored.shape).total == getattr(done.cost, which).macs
        assert flops.parameters(network) == getattr(done.cost, which).params


def test_tampered_and_missing_networks_are_refused(bench, made, tmp_path):
    done, path = made
    failed = read(path) | {"status": "failed", "error": {"type": "E", "message": "m", "traceback": []}}
    other = tmp_path / "failed-s0.json"
    other.write_bytes(line(seal(failed)))
    code, out, err = bench("measure", path, other)
    assert (code, out) == (2, "")  # before anything is timed
    assert f"measure {failed['id']}: that run failed, it left no network" in err
    (tmp_path / "artifacts" / done.id / "network.safetensors").write_bytes(b"other")
    code, out, err = bench("measure", path)
    assert (code, out) == (1, "")
    assert "the file is not the recorded one" in err


def test_wrong_words(bench, made):
    for words, code, said in (
        (["--batch", "0"], 2, "a batch has at least 1 image"),
        (["--batch", "1,x"], 2, "'x' is not a whole number"),
        (["--runtimes", "egaer"], 2, "did you mean eager"),
        (["--device", "abacus"], 3, "not a device"),
    ):
        got, out, err = bench("measure", made[1], *words)
        assert (got, out, err.count("\n")) == (code, "", 1), words
        assert said in err
