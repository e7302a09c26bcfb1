"""Batches: a file that jobs, status and cancel read, and what of a task is still to be done."""

import json
import os
from dataclasses import replace

import pytest
from support.batches import batch_of, spec_of
from support.records import line, read, seal

from bench.errors import RunFailed, SetupError, UsageError
from bench.records import store
from bench.runs.execute import execute, train_base
from bench.spec.registry import METHODS
from slurm.batch import Batch, Task, base_key, batches, jobs_folder, new_token, trained_bases
from slurm.journal import Journal

# --- the file ------------------------------------------------------------------------------------------------


def test_batch_comes_back_from_its_file(tmp_path):
    run = Task(spec_of(3, "ddrop", {"p_min": "0.1"}), replaces="abc", method_sha256="def")
    base = Task(run.spec, base=True)
    batch = batch_of(tmp_path / "a", base, run, plugins=("/some/plugin.py",), minutes=None)
    batch.write()
    assert Batch.load(batch.file).jobs == ()
    batch = replace(batch, jobs=("7_0", "7_1"))  # the cluster has answered
    batch.write()
    assert os.listdir(batch.folder) == ["batch.json"]
    assert batch.file.parent == batch.folder == tmp_path / "a" / "jobs" / batch.token
    assert batch.name == f"some-{batch.token}"
    (tmp_path / "a").rename(tmp_path / "b")  # a moved folder takes its batches along
    (found,) = batches(tmp_path / "b")
    assert found == replace(batch, out=tmp_path / "b")
    assert (found.task(run.key), found.task(base.key)) == (run, base)


def test_damaged_or_foreign_batch_file_is_refused_in_one_line(tmp_path):
    batch = batch_of(tmp_path, Task(spec_of()))
    batch.write()
    whole = batch.file.read_bytes()
    table = json.loads(whole)
    unread = r"batch\.json cannot be read .*delete its folder"
    other = r"another version of the suite: let its jobs end, then delete .*jobs$"
    texts = [whole[:cut] for cut in (0, 1, len(whole) // 2, len(whole) - 1)] + [b"[]", b"3", b"null", b"\0" * 9]
    changes = [
        {"elements": 3},
        {"elements": [3]},
        {"plugins": None},
        {"tasks": None, "more": 1},
        {"token": None, "x": 1},
    ]
    cases = [(text, unread) for text in [*texts, *(json.dumps(table | change).encode() for change in changes)]]
    cases += [(json.dumps(table | {"form": form}).encode(), other) for form in (1, 99)]
    for text, message in [*cases, (b"{}", "cannot be read"), (b'{"form": 2}', "cannot be read")]:
        batch.file.write_bytes(text)
        with pytest.raises(SetupError, match=message) as caught:
            list(batches(tmp_path))
        assert "\n" not in str(caught.value), text
    (values,) = batch.tasks.values()
    values["spec"]["no_such_key"] = 1  # a specification of another version
    with pytest.raises(UsageError, match="no_such_key"):
        batch.task(spec_of().id)


def test_batch_file_has_each_recipe_once(tmp_path):
    tasks = [*(Task(spec_of(seed)) for seed in range(20)), Task(spec_of(train__epochs=3))]
    batch = batch_of(tmp_path, *tasks)
    batch.write()
    assert batch.file.read_text().count('"momentum"') == 2
    found = Batch.load(batch.file)
    assert [found.task(task.key) for task in tasks] == tasks
    assert found.task(tasks[0].key).spec.recipe is found.task(tasks[1].key).spec.recipe


def test_unwritable_batch_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SetupError, match=r"cannot write to .*out.*--out") as caught:
        batch_of(tmp_path / "out", Task(spec_of())).write()
    assert "\n" not in str(caught.value)


def test_batches_come_oldest_first(tmp_path):
    assert list(batches(tmp_path / "none")) == []
    assert len({new_token() for _ in range(200)}) == 200
    made = [batch_of(tmp_path, Task(spec_of())) for _ in range(8)]
    for batch in made:  # of one second
        batch.write()
    assert [batch.token for batch in batches(tmp_path)] == [batch.token for batch in made]
    times = ["2026-03-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"]
    for token, when in zip("abc", times, strict=True):
        batch_of(tmp_path / "dated", Task(spec_of()), token=token, submitted_at=when).write()
    (tmp_path / "dated" / "jobs" / "journal").mkdir()
    assert [batch.token for batch in batches(tmp_path / "dated")] == ["b", "c", "a"]


def test_jobs_of_a_task(tmp_path):
    one, two = Task(spec_of(1)), Task(spec_of(seed=2))
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
    tasks = [Task(spec_of(seed)) for seed in range(5)]
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


# --- tasks ---------------------------------------------------------------------------------------------------


def test_run_is_finished_by_its_record(make_run):
    spec, options = make_run()
    task = Task(spec)
    assert (task.result(options.out), task.finished(options.out)) == (None, False)
    old = execute(spec, options)
    assert (task.result(options.out), task.finished(options.out)) == (old, True)
    again = Task(spec, replaces=old.record_sha256)  # that record is no result, its successor is
    assert (again.result(options.out), again.finished(options.out)) == (None, False)
    new = execute(spec, replace(options, retry=True))
    assert new.record_sha256 != old.record_sha256
    assert (again.result(options.out), again.finished(options.out)) == (new, True)


def test_failed_run_is_finished_and_an_interrupted_one_is_not(make_run):
    spec, options = make_run("nan_scores")
    with pytest.raises(RunFailed):
        execute(spec, options)
    assert Task(spec).finished(options.out)
    path = store.path_of(options.out, spec)
    path.write_bytes(line(seal(read(path) | {"status": "interrupted"})))
    assert not Task(spec).finished(options.out)


def test_base_is_finished_when_a_job_trained_it_and_it_is_there(make_run):
    spec, options = make_run()
    task = Task(spec, base=True)
    other, _ = make_run("random")
    assert task.key == Task(other, base=True).key == base_key(spec) != base_key(make_run(seed=1)[0])
    assert spec.id == Task(spec).key != task.key
    folder = jobs_folder(options.out) / "b"
    folder.mkdir(parents=True)
    notes = Journal(folder, [task.key])
    for how in ("failed", "preempted", "timed out", None):
        assert not task.finished(options.out)
        notes.start(task.key, "1")
        if how:
            notes.end(task.key, how)
    name = train_base(spec, options)
    assert not task.finished(options.out)
    notes.end(task.key, "done", base=name)
    assert task.finished(options.out)
    assert trained_bases(options.out, [base_key(other)]) == {task.key}
    (options.out / "bases" / f"{name}.safetensors").unlink()
    assert not task.finished(options.out)


def test_key_of_a_run_needs_no_plugin(make_run, tmp_path):
    """Status is told also where the plugins are not given."""
    spec, _ = make_run("nan_scores")
    batch_of(tmp_path, Task(spec)).write()
    METHODS._plugins = {}
    (batch,) = batches(tmp_path)
    assert batch.task(spec.id).key == spec.id
