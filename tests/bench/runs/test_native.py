"""Runs without a share of MACs: methods that choose by themselves, and budgets that are another record's widths."""

import dataclasses
import json
from pathlib import Path

import pytest
from support.paths import PLUGINS
from support.records import line, seal

from bench.cli import main
from bench.errors import UsageError
from bench.pruning.cost_model import Budget
from bench.records import store
from bench.runs.execute import execute
from bench.runs.pipeline import RunPipeline
from bench.runs.resolve import make_spec
from bench.runs.verify import verify_file
from bench.spec.recipe import load_recipe
from bench.spec.registry import add_plugin
from bench.spec.request import RunOptions
from bench.spec.spec import Spec
from leaderboard.render.record_summary import details, summary

SMALL = ["--dataset", "tiny8", "--recipe", "synthetic", "--epochs", "1", "--finetune-epochs", "1", "-q"]
SMALL += ["--set", "batch_size=32", "--set", "latency_batch=4", "--set", "recalibrate=2"]


@pytest.fixture(autouse=True)
def _known(plugins):
    add_plugin(str(PLUGINS / "sparsity.py"))


@pytest.fixture
def bench(make_run, capsys, tmp_path):
    """Run a command in this process: exit code, stdout, stderr."""

    def run(method, *words, arch="mlp_40_40"):
        arguments = ["run", "-m", method, "--arch", arch, *SMALL, *map(str, words)]
        try:
            code = main([*arguments, "--out", str(tmp_path / "out")])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def the_record(out):
    path = Path(out.rpartition("record: ")[2].strip())
    return path, store.load(path)


def verified(path, tmp_path):
    return {check.outcome for check in verify_file(path, tmp_path / "out", tmp_path / "data")}


# --- native --------------------------------------------------------------------------------------------------------


def test_native_run_is_verified_and_repeated_alike(bench, tmp_path):
    code, out, err = bench("own_share", "--native")
    assert (code, err) == (0, "")
    assert "keeping" not in out.splitlines()[1]
    path, done = the_record(out)
    assert done.spec.budget is None
    assert set(map(tuple, done.structure.widths.values())) == {(40, 10)}
    assert store.seal(done) == done
    assert verified(path, tmp_path) == {"ok"}
    assert done.spec.id == done.id
    assert (done.curve.logged["fits"][-1], done.curve.logged["keep"][-1]) == (1, 1)
    assert "budget    none" in details(done)
    assert summary(done)
    code, again, _ = bench("own_share", "--native")
    assert (code, again) == (0, out)


def test_budget_modes_are_different_runs(bench, tmp_path):
    ids = {}
    for words in (("--native",), ("--keep-macs", 0.5), ("--keep-macs", 1), (), ("--native", "-p", "share=0.5")):
        code, out, _ = bench("own_share", *words, "--dry-run")
        assert code == 0
        ids[words] = json.loads(out)["id"]
    assert ids[()] == ids["--keep-macs", 0.5]
    assert len(set(ids.values())) == 4
    code, out, _ = bench("own_share", "--keep-macs", "0.5")
    _, done = the_record(out)
    assert code == 0
    assert done.cost.final.macs <= 0.5 * done.cost.dense.macs
    assert set(map(tuple, done.structure.widths.values())) != {(40, 10)}


def test_contradictory_words_are_refused(bench, tmp_path):
    for method, words, said in (
        ("l1_norm", ["--native"], "does not choose its own sparsity: give --keep-macs"),
        ("l1_norm", ["--native", "--keep-macs", "0.5"], "--keep-macs and --native: give one of them"),
        ("own_share", ["--native", "--like", "none.json"], "--like and --native: give one of them"),
        ("own_share", ["--native", "--min-keep", "3"], "without --ranking and --min-keep"),
        ("own_share", ["--native", "--ranking", "global"], "without --ranking and --min-keep"),
        ("l1_norm+pull", ["--native"], "does not choose its own sparsity"),
        ("l1_norm", ["--like", "none.json"], "--like: record none.json: No such file"),
        ("l1_norm", ["--like", "pyproject.toml"], "--like: record pyproject.toml: not JSON"),
    ):
        code, out, err = bench(method, *words)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_composition_is_native_if_a_part_is():
    recipe = load_recipe("synthetic")
    assert make_spec("pull+own_share", "mlp_40_40", "tiny8", recipe, None).budget is None
    with pytest.raises(UsageError, match="does not choose its own sparsity"):
        make_spec("pull+l1_norm", "mlp_40_40", "tiny8", recipe, None)
    assert make_spec("dense", "mlp_40_40", "tiny8", recipe, None).budget is None  # it is given none anyway


def test_list_options_reach_the_method_and_the_record(make_run):
    for text, value in (("3,4,5", (3, 4, 5)), ("", ())):
        spec, options = make_run("own_share", "mlp_40_40", "tiny8", options={"powers": text})
        assert RunPipeline(spec, options).method.config.powers == value
        again = Spec.from_dict(json.loads(json.dumps(spec.as_dict())))
        assert (again, again.id) == (spec, spec.id)
    assert spec.config["powers"] == ()


# --- widths of another record ----------------------------------------------------------------------------------------


@pytest.fixture
def like(make_run, tmp_path):
    """A record whose network kept 10 and 10 of 40 and 40 units."""
    spec, _ = make_run("own_share", "mlp_40_40", "tiny8")
    spec = dataclasses.replace(spec, budget=None)
    done = execute(spec, RunOptions(out=tmp_path / "out", quiet=True))
    return store.path_of(tmp_path / "out", spec), done


def test_run_takes_the_widths_of_another(bench, like, tmp_path):
    path, other = like
    code, out, err = bench("random", "--like", path)
    assert (code, err) == (0, "")
    assert "keeping widths 10-10" in out
    mine, done = the_record(out)
    assert done.structure.widths == other.structure.widths
    assert done.structure.masks != other.structure.masks
    assert done.cost.final == other.cost.final
    assert done.spec.budget.widths == (10, 10)
    assert done.spec.id == done.id
    assert verified(mine, tmp_path) == {"ok"}
    planned = json.loads(bench("random", "--keep-macs", "0.5", "--dry-run")[1])
    assert planned["id"] != done.id


def test_widths_of_another_network_are_refused(make_run, tmp_path):
    for arch, widths, min_keep, said in (
        ("two_layers", (4, 4), 1, "this network's sites have 8 units"),
        ("mlp_40_40", (4,), 1, "this network's sites have 40-40 units"),
        ("mlp_40_40", (4, 41), 1, "this network's sites have 40-40 units"),
        ("mlp_40_40", (0, 40), 1, "this network's sites have 40-40 units"),
        ("mlp_40_40", (10, 40), 11, "leaves a site less than 11 units"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            execute(*make_run("random", arch, "tiny8", keep=Budget(widths=widths, min_keep=min_keep)))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_like_record_of_other_network_or_failed_run_is_refused(bench, like, tmp_path):
    path, done = like
    code, out, err = bench("random", "--like", path, arch="two_layers")
    assert (code, out) == (2, "")
    assert err.strip() == "bench: error: budget widths 10-10: this network's sites have 8 units"
    error = {"type": "RunFailed", "message": "no", "traceback": [], "blame": "method"}
    failed = tmp_path / "failed-s0.json"
    failed.write_bytes(line(seal(store.as_table(done) | {"status": "failed", "error": error})))
    code, out, err = bench("random", "--like", failed)
    assert (code, out) == (2, "")
    assert err.strip() == f"bench: error: --like {failed}: that run failed"
    assert len(list((tmp_path / "out" / "records").rglob("*-s0.json"))) == 1


def test_widths_are_kept_by_every_ranking(make_run):
    for ranking in ("layer", "global"):
        done = execute(*make_run("l1_norm", "mlp_40_40", "tiny8", keep=Budget(widths=(7, 30), ranking=ranking)))
        assert [after for _, after in done.structure.widths.values()] == [7, 30]
    one, two = (make_run(keep=Budget(widths=widths))[0] for widths in ((7, 30), (30, 7)))
    assert one.id != two.id


def test_masks_over_the_widths_fail(make_run):
    spec, options = make_run("over_budget", "mlp_40_40", "tiny8", keep=Budget(widths=(7, 30)))
    with pytest.raises(Exception, match="the budget of widths 7-30 is"):
        execute(spec, RunOptions(out=options.out, quiet=True))
