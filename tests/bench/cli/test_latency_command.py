"""``bench latency`` and ``bench measure``: what is measured and written; the networks are real, the clock is not."""

import dataclasses
import importlib.util
import json

import pytest
from support.command_tools import answer
from support.paths import PLUGINS
from support.quiet_machine import Simulated, always_quiet
from support.records import line, read, seal
from support.timed_shapes import Clock, made

from bench.errors import RunFailed
from bench.measure import flops, latency, onnx_export, quiet, runtimes
from bench.records import latency_files, store
from bench.records.latency import RESTARTS
from bench.runs import latency_pass, latency_restart
from bench.runs.artifacts import RunArtifacts
from bench.runs.execute import execute
from bench.runs.latency_restart import Task, Work, in_new_process, windows
from bench.spec.registry import add_plugin


@pytest.fixture
def bench(capsys):
    """Exit code, stdout and stderr of one command."""
    return lambda *words: answer(capsys, *words)


@pytest.fixture
def machine(monkeypatch):
    """The machine that commands see; nobody uses it."""
    simulated = Simulated()
    monkeypatch.setattr(quiet, "Machine", lambda wait_s: simulated.machine(wait_s))
    return simulated


@pytest.fixture
def clock(monkeypatch, machine):
    """In place of processes that time networks."""
    found = Clock()
    monkeypatch.setattr(latency_pass, "in_new_process", found)
    return found


@pytest.fixture
def records(tmp_path):
    """A folder of 20 records of two shapes."""
    folder = tmp_path / "records"
    for seed in range(10):
        for kept in (4, 5):
            file = folder / str(kept) / f"{made(kept, seed).id}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(store.encode(made(kept, seed)))
    return folder


def test_each_shape_is_measured_once_and_written(bench, clock, records, tmp_path):
    out = tmp_path / "latency"
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", out)
    assert code == 0
    assert "20 records of 2 shapes: 4 keys, 0 of them known" in err
    rows = [row.split() for row in text.splitlines()[2:]]
    assert sorted((row[1], row[6]) for row in rows) == sorted((kept, batch) for kept in "45" for batch in ("1", "64"))
    [file] = out.glob("*.jsonl")
    lines, problems = latency_files.read(file)
    assert (len(lines), problems) == (4, [])
    before, works = file.read_bytes(), len(clock.works)
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", out)
    assert (code, text) == (0, "")
    assert "4 of them known" in err
    assert (file.read_bytes(), len(clock.works)) == (before, works)


def test_json_are_the_lines(bench, clock, records, tmp_path):
    _, text, _ = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "latency", "--json")
    [file] = (tmp_path / "latency").glob("*.jsonl")
    written = [json.loads(row) for row in file.read_bytes().splitlines()]
    assert sorted(json.loads(text), key=str) == sorted(written, key=str)


def test_verify_computes_the_numbers_again(bench, clock, records, tmp_path):
    out = tmp_path / "latency"
    bench("latency", records, "--runtimes", "eager", "--out", out)
    [file] = out.glob("*.jsonl")
    code, text, err = bench("verify", out)
    assert (code, text.count("ok ")) == (0, 2)
    assert "0 records and 1 files of latencies, 0 do not hold" in err
    assert bench("verify", file)[0] == 0
    file.write_bytes(file.read_bytes().replace(b'"batch":64', b'"batch":32', 1))
    code, text, _ = bench("verify", file)
    assert code == 1
    assert "its content is not what line_sha256 was made of" in text
    next(out.glob("*.samples.gz")).write_bytes(b"")
    code, text, _ = bench("verify", out, "--json")
    assert code == 1
    assert [check["outcome"] for check in json.loads(text)[str(file)]] == ["FAILED", "FAILED"]


def test_interrupted_it_says_what_the_same_command_does(bench, monkeypatch, machine, records, tmp_path):
    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_pass, "in_new_process", interrupted)
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "latency")
    assert (code, text) == (130, "")
    assert err.splitlines()[-1] == "bench: interrupted; the same command measures what is missing"


def test_a_folder_that_cannot_be_written_is_named_first(bench, clock, records, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "file" / "latency")
    assert code == 3
    assert "cannot write to " in err
    assert clock.works == []


def test_on_a_busy_machine_nothing_is_written(bench, clock, machine, records, tmp_path):
    machine.others = lambda at: 0.8
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "latency", "--wait", 60)
    assert (code, text) == (3, "")
    assert "bench: error: busy: others use 0.8 cores" in err
    assert len(machine.said) == 2
    assert not (tmp_path / "latency").exists()
    assert clock.works == []


def test_a_refused_pass_writes_nothing(bench, clock, records, tmp_path):
    clock.noise = 0.2
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "latency")
    assert (code, text) == (1, "")
    assert "bench: error: refused, nothing is kept" in err
    assert not (tmp_path / "latency").exists()


def test_what_cannot_be_read_is_named_and_the_rest_is_measured(bench, clock, records, tmp_path):
    (records / "damaged-s0.json").write_text("{}")
    code, text, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path / "latency")
    assert code == 1
    assert "note: left out: record " in err
    assert len(text.splitlines()) == 2 + 4


def test_a_damaged_file_is_not_added_to(bench, clock, records, tmp_path):
    bench("latency", records / "4", "--runtimes", "eager", "--out", tmp_path)
    [file] = tmp_path.glob("*.jsonl")
    file.write_bytes(b"{}\n" + file.read_bytes())
    works = len(clock.works)
    code, _, err = bench("latency", records, "--runtimes", "eager", "--out", tmp_path)
    assert code == 1
    assert "line 1: not one line of JSON" in err
    assert len(clock.works) == works


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--batch", "0"], 2, "a batch has at least 1 image"),
        (["--batch", "1,x"], 2, "'x' is not a whole number"),
        (["--runtimes", "egaer"], 2, "did you mean eager"),
        (["--device", "abacus", "--runtimes", "eager"], 3, "not a device"),
        (["--wait", "long"], 2, "'long' is not a whole number"),
    ],
)
@pytest.mark.parametrize("command", ["latency", "measure"])
def test_wrong_words(bench, records, command, words, code, said):
    found = bench(command, next(records.rglob("*-s0.json")), *words)
    assert found[:2] == (code, "")
    assert said in found[2]
    assert len(found[2].splitlines()) == 1


def test_a_runtime_that_is_not_installed(bench, records, monkeypatch):
    monkeypatch.setattr(onnx_export, "PACKAGES", ("no_such_package",))
    code, out, err = bench("latency", records)
    assert (code, out) == (3, "")
    assert err == 'bench: error: no_such_package not installed here: pip install -e ".[onnx]"\n'


def test_a_runtime_that_is_not_installed_stops_a_run_before_training(bench, monkeypatch, tmp_path):
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else there(name))
    words = ("-a", "resnet20", "-d", "digits", "--keep-latency", "0.7", "--runtime", "openvino", "--out", tmp_path)
    code, out, err = bench("run", "-m", "l1_norm", *words)
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == 'bench: error: openvino not installed here: pip install -e ".[onnx,openvino]"'
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_latency_of_nothing(bench, tmp_path):
    code, _, err = bench("latency", tmp_path / "none")
    assert (code, "no such file or folder" in err) == (2, True)


# --- measure ---------------------------------------------------------------------------------------------------------


def test_measure_is_a_pass_of_one_record_that_writes_nothing(bench, clock, records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    file = next((records / "4").glob("*-s0.json"))
    code, text, _ = bench("measure", file, "--batch", "1,3")
    assert code == 0
    assert f"l1_norm on two_layers, digits, seed 0: {store.load(file).cost.final.macs:,} MACs left (49.0 %)" in text
    one, three = (row.split() for row in text.splitlines() if row.startswith("eager"))
    assert (one[1], three[1]) == ("1", "3")
    assert float(one[2]) == pytest.approx(2.0, rel=0.05)
    assert one[-1] == "yes"
    assert "1 thread, float32" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_measure_gives_records_of_one_shape_the_same_number(bench, clock, records):
    first, second = sorted((records / "4").glob("*.json"))[:2]
    found = json.loads(bench("measure", first, second, "--json")[1])
    assert [one["id"] for one in found] == [store.load(first).id, store.load(second).id]
    assert found[0]["latency"] == found[1]["latency"]
    assert len(found[0]["latency"]) == 2
    assert len(clock.works) == 2 * RESTARTS


def test_a_run_that_left_no_network(bench, clock, records):
    path = next(records.rglob("*-s0.json"))
    failed = read(path) | {
        "status": "failed",
        "error": {"type": "E", "message": "m", "traceback": [], "blame": "method"},
    }
    other = path.parent / "failed-s0.json"
    other.write_bytes(line(seal(failed)))
    code, out, err = bench("measure", path, other)
    assert (code, out) == (2, "")  # told before anything is timed
    assert f"measure {failed['id']}: that run failed, it left no network" in err
    assert clock.works == []


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_rounds(monkeypatch):
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (20, 20))


def work_of(record, folder, runtimes=("eager",), plugins=()):
    keys = tuple(latency_pass.wanted([record], latency_pass.How(runtimes, (1, 3), 1, "cpu")))
    return Work((Task(keys, record, ("dense", "final")),), "cpu", 1, always_quiet(), folder, plugins)


@pytest.fixture
def finished_record(finished):
    return finished("random", "two_layers", "tiny8", train__lr=0.05)[1]


def test_networks_are_rebuilt_from_the_record_alone(finished_record, few_rounds, tmp_path, monkeypatch):
    """Of the record's widths, without any file of its run, and timed in turns in eval mode."""
    seen = []
    bind = runtimes.RUNTIMES["eager"].load
    watched = dataclasses.replace(
        runtimes.RUNTIMES["eager"], load=lambda network, *how: seen.append(network) or bind(network, *how)
    )
    monkeypatch.setitem(runtimes.RUNTIMES, "eager", watched)
    found = list(windows(work_of(finished_record, tmp_path)))
    assert [window.key.batch for window in found] == [1, 3]
    assert all(len(w.samples.dense_ns) == len(w.samples.final_ns) == 20 for w in found)
    assert all(min(w.samples.dense_ns) > 0 for w in found)
    shape = RunArtifacts(finished_record, tmp_path).shape
    for network, cost in zip(seen, (finished_record.cost.dense, finished_record.cost.final), strict=True):
        assert flops.count(network, shape).total == cost.macs
        assert flops.parameters(network) == cost.params
        assert not network.training


@pytest.mark.usefixtures("onnx_extra")
def test_a_network_is_exported_once(finished_record, few_rounds, tmp_path, monkeypatch):
    exports = []
    convert = onnx_export.convert
    monkeypatch.setattr(onnx_export, "convert", lambda *given, **how: exports.append(given) or convert(*given, **how))
    for _ in range(2):
        found = list(windows(work_of(finished_record, tmp_path, ("onnxruntime",))))
        assert [window.failure for window in found] == ["", ""]
    assert len(exports) == 2  # dense and final
    assert len(list(tmp_path.glob("*.onnx"))) == 2


def test_what_a_runtime_cannot_take_is_a_failure_of_its_keys(finished_record, few_rounds, tmp_path, monkeypatch):
    def refuse(*given):
        raise RunFailed("it cannot be exported")

    monkeypatch.setitem(runtimes.RUNTIMES, "other", dataclasses.replace(runtimes.RUNTIMES["eager"], load=refuse))
    found = list(windows(work_of(finished_record, tmp_path, ("other", "eager"))))
    assert [window.failure for window in found] == ["it cannot be exported"] * 2 + [""] * 2


@pytest.mark.usefixtures("onnx_extra")
def test_a_network_that_cannot_be_exported_costs_no_more_than_its_keys(make_run, few_rounds, tmp_path):
    add_plugin(str(PLUGINS / "unexportable.py"))
    done = execute(*make_run("l1_norm", "bessel", "tiny8"))
    first, *_, last = windows(work_of(done, tmp_path, ("onnxruntime", "eager")))
    assert "Bessel cannot be exported to ONNX" in first.failure
    assert (last.failure, last.key.runtime) == ("", "eager")


@pytest.mark.slow
def test_a_process_of_its_own_answers_and_ends(finished_record, tmp_path, plugins):
    """Real networks, timed for as long as ever, on a machine that says that it is quiet."""
    work = work_of(finished_record, tmp_path, plugins=tuple(map(str, latency_restart.PLUGINS)))
    found = list(in_new_process(work))
    assert [window.key for window in found] == list(work.tasks[0].keys)
    assert all(20 <= len(window.samples.dense_ns) <= 300 for window in found)


@pytest.mark.slow
def test_errors_of_a_process_are_raised_here(finished_record, tmp_path):
    with pytest.raises(RunFailed, match="ended with code 1"):
        list(in_new_process(dataclasses.replace(work_of(finished_record, tmp_path), tasks=(None,))))
