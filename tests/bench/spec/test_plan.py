"""The plan of a sweep file, and what becomes of it in records."""

import dataclasses
import hashlib

import pytest
from support.command_tools import answer
from support.paths import PLUGINS
from support.records import finished as finished_table
from support.records import record

from bench.errors import UsageError
from bench.measure import latency
from bench.records import store
from bench.spec.registry import ARCHS, DATASETS, METHODS
from bench.spec.request import RunOptions
from bench.spec.sweep import Plan, load_sweep

RUNS = """
[defaults]
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
epochs = 1
finetune_epochs = 1
settings = { batch_size = 32, latency_batch = 4 }
[[runs]]
method = ["l1_norm", "random"]
"""
PLAN = '[plan]\nreferences = ["random"]\n'


@pytest.fixture
def write(tmp_path):
    def put(text):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return path

    return put


def test_plan_is_read_and_the_file_has_a_hash(write):
    path = write('[plan]\nreferences = ["random"]\nmargins = [1, 0.5]\nendpoints = ["top1"]\n' + RUNS)
    sweep = load_sweep(path)
    assert sweep.plan == Plan(("random",), (0.5, 1.0), ("top1",))
    assert sweep.plan_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_keys_that_are_left_out_have_defaults(write):
    assert load_sweep(write(PLAN + RUNS)).plan == Plan(("random",))
    three = RUNS.replace('["l1_norm", "random"]', '["dense", "random", "uniform_thin"]')
    assert load_sweep(write("[plan]\n" + three)).plan == Plan()


def test_file_without_plan_has_none(write):
    sweep = load_sweep(write(RUNS))
    assert (sweep.plan, sweep.plan_sha256) == (None, None)
    assert len(sweep.sha256) == 64


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("plan = 3\n", "plan is not a table of values"),
        ('[plan]\nreference = ["random"]\n', "unknown key in plan 'reference': did you mean references"),
        ('[plan]\nreferences = "random"\n', "plan: references = 'random' is not"),
        (
            '[plan]\nreferences = ["random", "random"]\n',
            "plan: references = ['random', 'random']: give at least one, each",
        ),
        ("[plan]\nreferences = []\n", "plan: references = []: give at least one"),
        ('[plan]\nreferences = ["randon"]\n', "plan: no run of the file has the reference 'randon'"),
        (PLAN + "margins = [0.0]\n", "plan: a margin of 0 points: above 0 and at most 100"),
        (PLAN + "margins = [nan]\n", "plan: a margin of nan points"),
        (PLAN + "margins = [inf]\n", "plan: a margin of inf points"),
        (PLAN + "margins = [-1]\n", "plan: a margin of -1 points"),
        (PLAN + "margins = [1, 1.0]\n", "plan: margins = [1.0, 1.0]: give at least one, each once"),
        (PLAN + 'margins = ["1"]\n', "plan: margins = ['1'] is not"),
        (PLAN + "margins = [true]\n", "plan: margins = [True] is not"),
        (PLAN + 'endpoints = ["top5"]\n', "unknown endpoint in the plan 'top5': did you mean top1"),
        (PLAN + "endpoints = []\n", "plan: endpoints = []: give at least one"),
    ],
)
def test_plan_that_cannot_be_is_refused_in_one_line(write, plan, says):
    path = write(plan + RUNS)
    with pytest.raises(UsageError) as caught:
        load_sweep(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# --- records ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(plugins, tmp_path, monkeypatch, capsys):
    """``bench sweep`` on tiny data, in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins.clear()

    def run(path, *words):
        command = [
            "sweep",
            path,
            "--cluster",
            "inline",
            "--plugin",
            PLUGINS / "small.py",
            "-q",
            "--out",
            tmp_path / "out",
        ]
        return answer(capsys, *map(str, command), *words)

    return run


def records_below(folder):
    return [store.load(path) for path in store.find(folder / "records")]


def test_records_of_a_sweep_have_the_hash_of_its_plan(sweep, write, tmp_path):
    path = write(PLAN + RUNS)
    assert sweep(path)[0] == 0
    planned = load_sweep(path).plan_sha256
    before = records_below(tmp_path / "out")
    assert [found.plan_sha256 for found in before] == [planned] * 2
    # Another plan, or none, runs nothing again and changes no record.
    for text in (PLAN + "margins = [2]\n" + RUNS, RUNS):
        assert sweep(write(text))[0] == 0
        assert records_below(tmp_path / "out") == before


def test_records_of_a_sweep_without_plan_have_none(sweep, write, tmp_path):
    assert sweep(write(RUNS))[0] == 0
    assert [found.plan_sha256 for found in records_below(tmp_path / "out")] == [None] * 2


def test_precision_auto_is_refused_in_a_plan(sweep, write, tmp_path):
    auto = RUNS.replace("latency_batch = 4", 'latency_batch = 4, precision = "auto"')
    code, _, err = sweep(write(PLAN + auto))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "precision auto depends on the machine, which neither a job nor a plan may" in err
    assert not (tmp_path / "out" / "records").exists()


def test_budget_that_equal_shares_cannot_hit_is_refused_in_a_plan(sweep, write, tmp_path):
    missed = RUNS.replace("recipe =", "keep_macs = [0.5, 0.8]\nrecipe =")
    code, _, err = sweep(write(PLAN + missed))
    assert (code, len(err.splitlines())) == (2, 1)
    assert (
        "plan: two_layers on tiny cannot be cut to 0.8 of the MACs by equal shares: the nearest below is 0.7500" in err
    )
    assert not (tmp_path / "out" / "records").exists()
    assert sweep(write(missed), "--dry-run")[0] == 0  # without a plan a row is only not ranked
    assert sweep(write(PLAN + RUNS.replace("recipe =", "keep_macs = 0.5\nrecipe =")), "--dry-run")[0] == 0


def test_failed_and_interrupted_runs_have_the_plan_too(make_run, monkeypatch, tmp_path):
    from bench.errors import RunFailed
    from bench.runs import pipeline
    from bench.runs.execute import execute, leave_failure

    spec, options = make_run()
    options = dataclasses.replace(options, plan_sha256="1" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.RunPipeline, "_measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute(spec, options)
    path = store.path_of(options.out, spec)
    assert (store.load(path).status, store.load(path).plan_sha256) == ("interrupted", "1" * 64)
    done = execute(spec, options)  # resumed
    assert (done.plan_sha256, done.clock.resumes) == ("1" * 64, 1)
    other, _ = make_run(seed=1)
    leave_failure(other, options, RunFailed("no data"))
    assert store.load(store.path_of(options.out, other)).plan_sha256 == "1" * 64


def test_plan_is_no_part_of_what_two_equal_runs_share():
    one, other = record(finished_table() | {"plan_sha256": "1" * 64}), record(finished_table())
    assert store.without_timing(one) == store.without_timing(other)
    assert one.id == other.id


def test_plan_is_no_word_of_a_command():
    assert RunOptions(plan_sha256="1" * 64, replay_of="2" * 64).to_words() == []


# --- replays ----------------------------------------------------------------------------------------------------


def test_replay_names_its_original_and_keeps_the_plan(finished, tmp_path, capsys):
    spec, _, options = finished("l1_norm", "two_layers", "tiny8", out=tmp_path / "theirs")
    path = store.path_of(options.out, spec)
    planned = dataclasses.replace(options, retry=True, plan_sha256="1" * 64)
    from bench.runs.execute import execute

    given = execute(spec, planned)
    code, _, _ = answer(capsys, "reproduce", str(path), "--out", str(tmp_path / "mine"), "-q")
    again = store.load(store.path_of(tmp_path / "mine", spec))
    assert (code, again.replay_of, again.plan_sha256) == (0, given.record_sha256, "1" * 64)
    assert given.replay_of is None
    assert store.without_timing(again) == store.without_timing(given)
