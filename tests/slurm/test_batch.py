"""Batches: a file that jobs, status and cancel read, and what of a task is still to be done."""

import json
import os
from dataclasses import replace

import pytest
from support.records import line, read, seal

from bench.errors import RunFailed, SetupError, UsageError
from bench.records import store
from bench.runs.execute import execute, train_base
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.registry import METHODS
from bench.spec.spec import Budget
from slurm.batch import Batch, Task, base_key, batches, jobs_folder, new_token, trained_bases
from slurm.journal import Journal


def spec_of(method="l1_norm", seed=0, **options):
    recipe = load_recipe("digits", {"train.epochs": "3"})
    return make_spec(method, "resnet20", "digits", recipe, Budget(keep_macs=0.5), seed, options=options)


def batch_of(out, *tasks, **changes):
    values = {
        "token": new_token(),
        "cluster": "slurm",
        "title": "some",
        "tasks": {task.key: task.as_dict() for task in tasks},
        "elements": tuple((task.key,) for task in tasks),
        "count": len(tasks),
        "options": {"data_dir": "/data", "runtimes": ["eager"], "threads": 1},
        "plugins": ("/some/plugin.py",),
        "minutes": 60,
        "signal_delay_s": 90,
        "code": {"version": "1", "commit": None},
        "packages": {"torch": "2"},
    }
    return Batch(out, **values | changes)


# --- the file ------------------------------------------------------------------------------------------------


def test_a_batch_comes_back_from_its_file(tmp_path):
    run = Task(spec_of("ddrop", 3, p_min="0.1"), replaces="abc", method_sha256="def")
    base = Task(run.spec, base=True)
    batch = batch_of(tmp_path, base, run, jobs=("7_0", "7_1"), minutes=None)
    batch.write()
    found = Batch.load(batch.file)
    assert found == batch
    assert found.task(run.key) == run
    assert found.task(base.key) == base
    assert batch.file.parent == batch.folder == tmp_path / "jobs" / batch.token
    assert batch.name == f"some-{batch.token}"


def test_it_is_written_again_when_the_cluster_has_answered(tmp_path):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    assert Batch.load(batch.file).jobs == ()
    replace(batch, jobs=("7",)).write()
    assert Batch.load(batch.file).jobs == ("7",)
    assert sorted(os.listdir(batch.folder)) == ["batch.json"]


def test_a_moved_output_folder_takes_its_batches_along(tmp_path):
    batch = batch_of(tmp_path / "a", Task(spec_of()))
    batch.write()
    (tmp_path / "a").rename(tmp_path / "b")
    (found,) = batches(tmp_path / "b")
    assert found == replace(batch, out=tmp_path / "b")


def test_tokens_differ():
    assert len({new_token() for _ in range(200)}) == 200


def test_truncated_batch_file_is_refused_in_one_line(tmp_path):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    whole = batch.file.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        batch.file.write_bytes(whole[:cut])
        with pytest.raises(SetupError, match=r"batch\.json cannot be read .*delete its folder") as caught:
            Batch.load(batch.file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"form": 2}', "\0" * 9])
def test_batch_of_other_version_is_refused(tmp_path, text):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    batch.file.write_text(text)
    with pytest.raises(SetupError, match="cannot be read"):
        list(batches(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"elements": 3}, {"elements": [3]}, {"plugins": None}, {"tasks": None, "more": 1}, {"token": None, "x": 1}],
)
def test_batch_with_wrong_values_is_refused_in_one_line(tmp_path, change):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    batch.file.write_text(json.dumps(json.loads(batch.file.read_text()) | change))
    with pytest.raises(SetupError, match="cannot be read"):
        Batch.load(batch.file)


@pytest.mark.parametrize("form", [1, 99])
def test_batch_file_of_another_version_is_refused_with_what_to_do(tmp_path, form):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    batch.file.write_text(json.dumps(json.loads(batch.file.read_text()) | {"form": form}))
    with pytest.raises(SetupError, match=r"another version of the suite: let its jobs end, then delete .*jobs$"):
        Batch.load(batch.file)


def test_batch_file_has_each_recipe_once(tmp_path):
    tasks = [Task(spec_of(seed=seed)) for seed in range(20)]
    other = Task(make_spec("l1_norm", "resnet20", "digits", load_recipe("digits"), Budget(keep_macs=0.5), 0))
    batch = batch_of(tmp_path, *tasks, other)
    batch.write()
    assert batch.file.read_text().count('"momentum"') == 2
    found = Batch.load(batch.file)
    assert [found.task(task.key) for task in (*tasks, other)] == [*tasks, other]
    assert found.task(tasks[0].key).spec.recipe is found.task(tasks[1].key).spec.recipe


def test_a_specification_of_another_version_is_a_usage_error(tmp_path):
    batch = batch_of(tmp_path, Task(spec_of()))
    (values,) = batch.tasks.values()
    values["spec"]["no_such_key"] = 1
    with pytest.raises(UsageError, match="no_such_key"):
        batch.task(spec_of().id)


def test_unwritable_batch_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SetupError, match=r"cannot write to .*out.*--out") as caught:
        batch_of(tmp_path / "out", Task(spec_of())).write()
    assert "\n" not in str(caught.value)


def test_batches_come_oldest_first(tmp_path):
    assert list(batches(tmp_path / "none")) == []
    times = ["2026-03-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"]
    for token, when in zip("abc", times, strict=True):
        batch_of(tmp_path, Task(spec_of()), token=token, submitted_at=when).write()
    (tmp_path / "jobs" / "journal").mkdir()
    (tmp_path / "jobs" / "other").mkdir()
    assert [batch.token for batch in batches(tmp_path)] == ["b", "c", "a"]


def test_batches_of_one_second_come_in_their_order_too(tmp_path):
    made = [batch_of(tmp_path, Task(spec_of())) for _ in range(8)]
    for batch in made:
        batch.write()
    assert [batch.token for batch in batches(tmp_path)] == [batch.token for batch in made]


def test_jobs_of_a_task(tmp_path):
    one, two = Task(spec_of(seed=1)), Task(spec_of(seed=2))
    elements = ((one.key,), (one.key, two.key), (two.key,))
    batch = batch_of(tmp_path, one, two, elements=elements, count=3, jobs=("5_0", "5_1", "5_2"))
    assert batch.jobs_of(one.key) == ["5_0", "5_1"]
    assert batch.jobs_of(two.key) == ["5_1", "5_2"]
    assert batch.jobs_of("nobody") == []
    assert replace(batch, jobs=()).jobs_of(one.key) == []
    shared = replace(batch, elements=((one.key, two.key),), jobs=("5_0", "5_1"), count=2)
    assert shared.jobs_of(two.key) == ["5_0", "5_1"]
    assert (batch.shared, shared.shared) == (False, True)
    assert batch.log("5_1").parent == batch.folder
    assert "5_1" in batch.log("5_1").name


def test_parts_of_a_batch_are_batches_of_their_own(tmp_path):
    tasks = [Task(spec_of(seed=seed)) for seed in range(5)]
    batch = batch_of(tmp_path, *tasks)
    assert batch.part(0, 5) is batch
    parts = [batch.part(k, k + 2) for k in (0, 2, 4)]
    assert [list(part.tasks) for part in parts] == [[t.key for t in tasks[k : k + 2]] for k in (0, 2, 4)]
    assert [(part.elements, part.count) for part in parts] == [
        (batch.elements[k : k + 2], len(batch.elements[k : k + 2])) for k in (0, 2, 4)
    ]
    assert len({part.token for part in (batch, *parts)}) == 4
    shared = replace(batch, elements=(tuple(batch.tasks),))
    assert (shared.part(0, 2).count, shared.part(0, 2).tasks) == (2, batch.tasks)


def notes_of(out, *keys):
    folder = jobs_folder(out) / "b"
    folder.mkdir(parents=True)
    return Journal(folder, keys)


# --- tasks ---------------------------------------------------------------------------------------------------


def test_keys():
    one, other = spec_of("l1_norm"), spec_of("random")
    assert Task(one).key == one.id
    assert Task(one, base=True).key == Task(other, base=True).key == base_key(one)
    assert base_key(spec_of(seed=1)) != base_key(one) != one.id


def test_a_run_is_finished_once_it_has_a_record(make_run):
    spec, options = make_run()
    task = Task(spec)
    assert task.result(options.out) is None
    assert not task.finished(options.out)
    done = execute(spec, options)
    assert task.result(options.out) == done
    assert task.finished(options.out)


def test_a_failed_run_is_finished_and_an_interrupted_one_is_not(make_run):
    spec, options = make_run("nan_scores")
    with pytest.raises(RunFailed):
        execute(spec, options)
    assert Task(spec).finished(options.out)
    path = store.path_of(options.out, spec)
    path.write_bytes(line(seal(read(path) | {"status": "interrupted"})))
    assert not Task(spec).finished(options.out)


def test_a_record_that_is_to_be_replaced_is_no_result_and_its_successor_is(make_run):
    spec, options = make_run()
    old = execute(spec, options)
    task = Task(spec, replaces=old.record_sha256)
    assert task.result(options.out) is None
    assert not task.finished(options.out)
    new = execute(spec, replace(options, retry=True))
    assert new.record_sha256 != old.record_sha256
    assert task.result(options.out) == new
    assert task.finished(options.out)


def test_a_base_is_finished_when_a_job_trained_it_and_it_is_still_there(make_run):
    spec, options = make_run()
    task = Task(spec, base=True)
    notes = notes_of(options.out, task.key)
    assert not task.finished(options.out)
    notes.start(task.key, "1")
    assert not task.finished(options.out)
    name = train_base(spec, options)
    assert not task.finished(options.out)
    notes.end(task.key, "done", base=name)
    assert task.finished(options.out)
    other, _ = make_run("random")
    assert trained_bases(options.out, [base_key(other)]) == {task.key}  # it has the same
    weights = options.out / "bases" / f"{name}.safetensors"
    weights.unlink()
    assert not task.finished(options.out)


@pytest.mark.parametrize("how", ["failed", "preempted", "timed out"])
def test_a_base_whose_last_attempt_was_cut_short_is_not_finished(make_run, how):
    spec, options = make_run()
    key = base_key(spec)
    notes = notes_of(options.out, key)
    notes.start(key, "1")
    notes.end(key, how)
    assert trained_bases(options.out, [key]) == set()


def test_the_key_of_a_run_needs_no_plugin(make_run, monkeypatch, tmp_path):
    """Status is told also where the plugins are not given."""
    spec, _ = make_run("nan_scores")
    batch_of(tmp_path, Task(spec)).write()
    monkeypatch.setattr(METHODS, "_plugins", {})
    (batch,) = batches(tmp_path)
    assert batch.task(spec.id).key == spec.id
