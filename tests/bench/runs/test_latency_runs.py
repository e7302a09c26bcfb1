"""Runs within a budget of milliseconds of a fake runtime: recorded, verified, repeated, resumed, refused."""

import copy
import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from support.fake_runtime import timed_by_formula
from support.plugins import known
from support.quiet_machine import Simulated
from support.records import line, seal
from support.requested import request_of
from support.waiting import until

from bench.conformance import tiny_networks
from bench.errors import RunFailed, SetupError, UsageError, WordsError
from bench.files import Lock
from bench.measure.quiet import Busy
from bench.records import latency_table, store
from bench.runs import latency_tables, rerun
from bench.runs.execute import execute
from bench.runs.latency_tables import with_table
from bench.runs.resolve import resolve
from bench.runs.verify import verify_file
from bench.spec.request import RunRequest
from bench.spec.spec import Budget, Spec
from bench.training.checkpoint import load_tensors, save_tensors

EAGER = {"runtime": "eager", "batch": 1, "threads": 1}
CHECK = "widths from scores, table and rounds"


@pytest.fixture(autouse=True)
def timer(plugins, monkeypatch):
    """A fake timer on a machine that is quiet."""
    timer = timed_by_formula(monkeypatch)
    with known(tiny_networks.__file__):
        yield timer


@pytest.fixture
def planned(make_run):
    """Specification and options of a run on the network with blocks."""

    def make(method="random", share=0.8, file=None, **more):
        asked = Budget(**{"keep_latency": share, **EAGER, **more.pop("budget", {})})
        spec, options = make_run(method, "check_depth", "check_images", keep=asked, **more)
        return with_table(spec, file, options, writes=True), options

    return make


def checks(spec, options):
    return {
        c.name: (c.outcome, c.detail) for c in verify_file(store.path_of(options.out, spec), options.out, options.out)
    }


def table_in(options):
    (path,) = (options.out / "latency").glob("*.jsonl")
    return path


def test_l7_run_is_recorded_verified_and_run_again(planned, timer, tmp_path):
    spec, options = planned("l1_norm+block_l1", units="both")
    done = execute(spec, options)
    (took,) = done.latency.rounds[-1:]
    assert took.ms / took.dense_ms < 0.8 * 1.03 and done.latency.ranking == ["layer", "layer"]
    assert store.as_table(done)["spec"]["budget"]["table"] == latency_table.read(table_in(options))[0].sha256
    widths = [done.structure.widths[name][1] for name in latency_table.read(table_in(options))[0].grid]
    assert took.vector[: len(widths)] == widths
    found = checks(spec, options)
    assert {outcome for outcome, _ in found.values()} == {"ok"} and CHECK in found
    request, _ = rerun.request_of(done)
    assert resolve(request)[0] == [spec] and {"--keep-latency", "0.8"} < set(request.to_words())
    # a replay measures nothing: the table's file has what was measured
    measured = len(timer.measured)
    shutil.copytree(options.out / "latency", tmp_path / "again" / "latency")
    again = execute(spec, dataclasses.replace(options, out=tmp_path / "again"))
    assert rerun.parts_that_differ(done, again) == [] and again.latency == done.latency
    assert len(timer.measured) == measured and timer.tables == ["eager"]
    # L7: other scores and other rounds are found
    path = store.path_of(options.out, spec)
    file = options.out / "artifacts" / spec.id / "scores.safetensors"
    scores, kept = load_tensors(file), file.read_bytes()
    save_tensors(file, {name: -score for name, score in scores.items()})
    outcome, why = checks(spec, options)[CHECK]
    assert outcome == "FAILED" and why.startswith("the scores ")
    file.write_bytes(kept)
    table = copy.deepcopy(store.as_table(done))
    table["latency"]["rounds"][-1]["ms"] *= 0.9
    del table["record_sha256"]
    path.write_bytes(line(seal(table)))
    assert checks(spec, options)[CHECK][0] == "FAILED"
    table_in(options).unlink()
    assert checks(spec, options)[CHECK][0] == "not run"


@pytest.mark.slow
def test_equal_shares_are_measured_too(planned):
    spec, options = planned("uniform_thin")
    done = execute(spec, options)
    assert done.latency.ranking == ["equal"] and done.artifacts.scores is None
    assert len({after for _, after in done.structure.widths.values()}) == 1
    assert checks(spec, options)[CHECK][0] == "ok"


def test_l5_another_table_is_another_run(planned, timer):
    spec, options = planned()
    same, _ = planned()
    assert same == spec and timer.tables == ["eager"]
    plain = dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, table="0" * 64))
    assert spec.id != plain.id
    moved = options.out / "moved.jsonl"
    table_in(options).rename(moved)
    fresh = dataclasses.replace(options, out=options.out / "fresh")
    assert with_table(spec, str(moved), fresh, writes=False) == spec and not fresh.out.exists()
    from_file, _ = planned(file=str(moved))
    assert from_file == spec and table_in(options).read_bytes() == moved.read_bytes()
    with pytest.raises(SetupError, match=r"latency table 000000000000 is not in .*latency: give it with"):
        execute(plain, options)


def test_l5_killed_between_rounds_and_resumed(planned, timer, tmp_path):
    timer.slower = 1.4
    spec, options = planned("random", share=0.75)
    whole = execute(spec, options)
    assert len(whole.latency.rounds) > 1
    shutil.copytree(options.out / "latency", tmp_path / "b" / "latency")
    (path,) = (tmp_path / "b" / "latency").glob("*.jsonl")
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")
    options = dataclasses.replace(options, out=tmp_path / "b")
    timer.measured.clear()
    timer.interrupted = 2
    with pytest.raises(KeyboardInterrupt):
        execute(spec, options)
    assert len(timer.measured) == 1
    timer.interrupted = None
    resumed = execute(spec, options)
    assert resumed.structure == whole.structure and resumed.latency == whole.latency
    assert len(timer.measured) == len(whole.latency.rounds)


def test_l6_busy_machine_leaves_no_file(make_run, monkeypatch):
    monkeypatch.setattr(latency_tables, "MACHINE", Simulated(others=lambda at: 0.8).machine(wait_s=20.0))
    spec, options = make_run("random", "check_depth", "check_images", keep=Budget(keep_latency=0.8, **EAGER))
    with pytest.raises(Busy, match=r"busy: others use 0\.8 cores") as busy:
        with_table(spec, None, options, writes=True)
    assert busy.value.exit_code == 3
    assert not list(options.out.rglob("*.jsonl")) and not list(options.out.rglob("*.json"))


def test_method_that_asks_for_costs_or_chooses_by_itself_is_refused(planned):
    with pytest.raises(
        UsageError, match=r"the method calls ctx\.cycles, which asks what any widths cost; .*--keep-macs"
    ):
        execute(*planned("dropnet"))
    with pytest.raises(RunFailed, match=r"keeps other widths than ctx\.rank or ctx\.equal_widths gave it"):
        execute(*planned("odd_widths"))


def test_tables_of_something_else_are_refused(planned, make_run, tmp_path):
    spec, options = planned()
    file = str(table_in(options))
    other, _ = make_run("random", "check_depth", "check_images", keep=spec.budget, units="both")
    with pytest.raises(UsageError, match=f"^--latency-table {file}: it is of another units, width, not both; measure"):
        with_table(other, file, options, writes=True)
    text = table_in(options).read_text().replace('"device":"', '"device":"Another ')
    (elsewhere := tmp_path / "elsewhere.jsonl").write_text(text)
    with pytest.raises(UsageError, match="it is of another device, Another "):
        with_table(spec, str(elsewhere), options, writes=True)
    (tmp_path / "text.jsonl").write_text("text")
    with pytest.raises(UsageError, match=r"text\.jsonl is no latency table: "):
        with_table(spec, str(tmp_path / "text.jsonl"), options, writes=True)


def test_budgets_and_words_that_cannot_be(make_run):
    for words, why in (
        (("--keep-latency", "0.6", "--keep-macs", "0.5"), "--keep-macs and --keep-latency: give one of them"),
        (("--keep-latency", "0.6", "--latency-ms", "1"), "--keep-latency and --latency-ms: give one of them"),
        (("--batch", "2"), "--batch: with --keep-latency or --latency-ms only"),
        (("--keep-latency", "1.5"), r"--keep-latency 1\.5: give the share to keep, above 0 and at most 1"),
        (("--latency-ms", "0"), "--latency-ms 0: give milliseconds above 0"),
        (("--keep-latency", "0.6", "--runtime", "onnxruntim"), "unknown runtime 'onnxruntim'.*onnxruntime"),
    ):
        with pytest.raises((WordsError, UsageError), match=why):
            resolve(request_of("-m", "l1_norm", "-a", "resnet20", *words))
    plain, _ = make_run(keep=Budget(keep_macs=0.5))
    assert set(plain.as_dict()["budget"]) == {"keep_macs", "keep_params", "ranking", "min_keep", "widths"}
    asked = Budget(latency_ms=2, **EAGER, table="ab")
    assert asked == Budget(latency_ms=2.0, **EAGER, table="ab") and str(asked) == "2 ms in eager at batch 1"
    spec = dataclasses.replace(plain, budget=asked)
    assert Spec.from_dict(spec.as_dict()) == spec
    assert RunRequest.from_spec(spec).latency_table == "ab"


def test_of_two_processes_one_measures_the_table(make_run, timer, capsys):
    """The second one waits, and takes what the first has written."""
    spec, options = make_run("random", "check_depth", "check_images", keep=Budget(keep_latency=0.8, **EAGER))
    first = with_table(spec, None, options, writes=True)
    table, _ = latency_table.read(table_in(options))
    table_in(options).unlink()
    lock = Lock(options.out / latency_table.FOLDER, latency_table.key_sha256(table.key))
    with lock, ThreadPoolExecutor(1) as other:
        second = other.submit(with_table, spec, None, dataclasses.replace(options, quiet=False), True)
        until(lambda: "another process measures this table; waiting for it" in capsys.readouterr().err)
        latency_table.write(latency_table.path_of(options.out, table), table)
        lock.release()
        assert second.result() == first
    assert timer.tables == ["eager"]


def test_tables_that_time_something_else_are_refused(planned):
    spec, options = planned()
    table, _ = latency_table.read(table_in(options))
    thin = [one for one in table.timed if one[0] != table.timed[0][0]]
    for timed in ([], thin, [*table.timed, (table.timed[0][0][1:], 1.0)]):
        other = msgspec.structs.replace(table, timed=timed)
        latency_table.write(latency_table.path_of(options.out, other), other)
        with pytest.raises(UsageError, match="what was timed is not this network: measure it again"):
            execute(dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, table=other.sha256)), options)


def test_nothing_is_measured_with_another_version_of_the_runtime(planned):
    spec, options = planned()
    table, _ = latency_table.read(table_in(options))
    other = msgspec.structs.replace(table, key=msgspec.structs.replace(table.key, runtime_version="0.1"))
    latency_table.write(latency_table.path_of(options.out, other), other)
    spec = dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, table=other.sha256))
    with pytest.raises(SetupError, match=r"is of version of the runtime 0\.1, here is .*: what it chooses cannot be"):
        execute(spec, options)
