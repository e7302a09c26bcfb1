"""No method reads test images: what looks for them fails the run, and is named; what does not is left alone."""

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from support.image_folders import write_folder
from support.paths import PLUGINS
from support.plugins import known, outcomes

from bench.cli import main
from bench.conformance import tiny_networks
from bench.data import loading
from bench.data.image_folder import resolve
from bench.errors import METHOD, RunFailed
from bench.records import store
from bench.runs.execute import execute
from bench.runs.pipeline import RunPipeline
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.request import RunOptions
from bench.spec.spec import Budget
from bench.training.loop import PhaseTrainer

FOUND = {
    "reads_digits_in_penalty": "opens digits.csv.gz, a file of a data set: images come from ctx.batches",
    "keeps_the_refusal_to_itself": "opens digits.csv.gz",
    "reads_its_data_folder": "opens test.bin, a file of a data set",
    "reads_through_numpy": "opens t10k-images-idx3-ubyte, a file of a data set",
    "reads_while_it_plans": "opens digits.csv.gz",
    "imports_late": "imports sklearn.datasets: images come from ctx.batches",
    "asks_somebody": "connects to ",
    "asks_for_an_address": "connects to localhost: no method needs a network",
    "reads_in_a_layer": "opens digits.csv.gz",
}
"""Methods of ``plugins/reading.py`` -> what is said of them; the rest of them is in the tests below."""


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    with known(PLUGINS / "reading.py", tiny_networks.__file__):
        yield


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a method in a folder with data, and returns the record."""
    import sys

    import sklearn.datasets  # noqa: F401  (so that a run imports it again)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    for file in (tmp_path / "data" / "mine" / "test.bin", tmp_path / "t10k-images-idx3-ubyte"):
        file.write_bytes(b"x")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "t10k-images-idx3-ubyte"))

    def go(name, dataset="check_images", arch=tiny_networks.STANDARD):
        if name == "imports_late":
            monkeypatch.delitem(sys.modules, "sklearn.datasets")
        settings = {"train.epochs": "1", "finetune.epochs": "0", "batch_size": "24", "latency_batch": "4"}
        spec = make_spec(name, arch, dataset, load_recipe("synthetic", settings), Budget(keep_macs=0.5))
        options = RunOptions(out=tmp_path / "results", device="cpu", quiet=True)
        with suppress(RunFailed):
            execute(spec, options)
        return store.load(store.path_of(options.out, spec))

    return go


@pytest.mark.parametrize("name", FOUND)
def test_run_of_a_method_that_looks_for_test_images_fails_and_names_it(run, name):
    record = run(name)
    assert (record.status, record.error.blame) == ("failed", METHOD)
    assert record.error.message.startswith(f"the method {name} {FOUND[name]}")
    assert "\n" not in record.error.message


def test_every_method_that_reads_is_in_a_test():
    names = {line.split('"')[1] for line in (PLUGINS / "reading.py").read_text().splitlines() if "@method(" in line}
    assert names == {*FOUND, "reads_digits_when_it_is_late", "opens_what_it_may"}


def test_method_that_opens_what_is_no_data_is_left_alone(run):
    assert run("opens_what_it_may").status == "ok"


@pytest.mark.slow
def test_only_the_check_of_a_full_recipe_finds_what_waits_for_one():
    found = outcomes("reads_digits_when_it_is_late", "runs", "hooks_ran", "imports", "files", "full_recipe")
    late = found.pop("full_recipe")
    assert late[0] == "FAILED"
    assert "the method reads_digits_when_it_is_late opens digits.csv.gz" in late[1]
    assert {outcome for outcome, _ in found.values()} == {"ok", "FAILED"}


def test_images_that_are_decoded_while_it_trains_are_read_by_the_harness(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.registration.IN_MEMORY_BYTES", 0)
    write_folder(tmp_path / "data" / "animals", train=12)
    name, _ = resolve("folder:data/animals", Path("data"))
    record = run("opens_what_it_may", name)
    assert (record.status, record.error) == ("ok", None)


def test_replay_refuses_what_the_run_that_is_replayed_was_allowed(run, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunPipeline, "_off_limits", lambda self: nullcontext())  # as somebody's own harness may be
        given = run("reads_digits_in_penalty")
    assert given.status == "ok"
    path, moments = store.path_of(tmp_path / "results", given.spec), []
    load_test, go = loading.load_test, PhaseTrainer.finalize
    monkeypatch.setattr(loading, "load_test", lambda *a: (moments.append("test"), load_test(*a))[1])
    assert main(["reproduce", str(path), "--out", str(tmp_path / "mine"), "-q"]) == 1
    assert "error: the method reads_digits_in_penalty opens digits.csv.gz, a file of a" in capsys.readouterr().err
    assert moments == []
    path = store.path_of(tmp_path / "results", run("opens_what_it_may").spec)
    monkeypatch.setattr(PhaseTrainer, "finalize", lambda *a, **n: (moments.append("finalized"), go(*a, **n))[1])
    moments.clear()
    assert main(["reproduce", str(path), "--out", str(tmp_path / "mine"), "-q"]) == 0
    assert moments[-2:] == ["finalized", "test"]
    assert moments.count("test") == 1
