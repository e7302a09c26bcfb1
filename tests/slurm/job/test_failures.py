"""Failures in a job: each leaves its record and costs the other runs nothing."""

from dataclasses import replace

import pytest
from support import image_folders
from support.job_tools import PLUGINS, attempts, batch_of, found

from bench.data.loading import resolve
from bench.errors import RunFailed
from bench.records import store
from slurm.batch import Task
from slurm.job import Job
from slurm.journal import Journal


def test_a_method_that_fails_leaves_its_record_and_the_other_runs_are_carried_out(make_run, tmp_path, capsys):
    specs = [make_run("nan_scores")[0], make_run("l1_norm")[0], make_run("raises")[0], make_run("random")[0]]
    batch = batch_of(tmp_path, *specs)
    Job(batch.file, 0)()
    assert [found(tmp_path, spec).status for spec in specs] == ["failed", "ok", "failed", "ok"]
    assert [attempts(tmp_path, spec)[-1].ended for spec in specs] == ["failed", "done", "failed", "done"]
    assert found(tmp_path, specs[0]).job.id == "77"
    assert found(tmp_path, specs[0]).error.traceback
    err = capsys.readouterr().err
    assert f"bench: error: {specs[0].id}: " in err
    assert "not finite" in err
    Job(batch.file, 0)()  # a failed run is not tried again by itself
    assert len(attempts(tmp_path, specs[0])) == 1


def test_a_run_whose_data_are_not_there_leaves_a_failed_record(make_run, tmp_path):
    missing, fine = make_run(arch="resnet20", dataset="mnist")[0], make_run()[0]
    Job(batch_of(tmp_path, missing, fine).file, 0)()
    failed = found(tmp_path, missing)
    assert (failed.status, failed.error.type) == ("failed", "SetupError")
    assert "--download" in failed.error.message
    assert failed.job.id == "77"
    assert attempts(tmp_path, missing)[0].ended == "failed"
    assert found(tmp_path, fine).status == "ok"


def test_a_run_of_damaged_images_leaves_a_failed_record(make_run, tmp_path):
    """Though what is behind it is an OSError, as that of a full disk is."""
    place = image_folders.write_folder(tmp_path / "data" / "pets", train=20)
    (place / "train" / "cat" / "003.png").write_bytes(b"no image")
    name, folder = resolve(f"folder:{place}", place)
    spec = make_run(arch="resnet20", dataset=name)[0]
    batch = batch_of(tmp_path, spec)
    batch = replace(batch, options=batch.options | {"data_dir": str(folder)})
    batch.write()
    Job(batch.file, 0)()
    assert "003.png" in found(tmp_path, spec).error.message
    assert found(tmp_path, spec).status == "failed"


def test_a_budget_that_cannot_be_met_leaves_a_failed_record(make_run, tmp_path):
    spec, _ = make_run(keep=0.0001)
    Job(batch_of(tmp_path, spec).file, 0)()
    assert "cannot be met" in found(tmp_path, spec).error.message


def test_a_method_that_is_gone_leaves_a_failed_record(make_run, tmp_path):
    gone, fine = make_run("nan_scores")[0], make_run()[0]
    from bench.spec.registry import METHODS

    METHODS._plugins.pop("nan_scores")
    batch = batch_of(tmp_path, Task(gone), fine, plugins=(str(PLUGINS / "small.py"),))
    Job(batch.file, 0)()
    assert "unknown method 'nan_scores'" in found(tmp_path, gone).error.message
    assert found(tmp_path, fine).status == "ok"


def test_failed_base_is_reported_by_every_run_on_it(make_run, tmp_path):
    specs = [make_run(m, "mlp_40_40", "tiny8", train__lr=1e9)[0] for m in ("l1_norm", "random")]
    fine, _ = make_run()
    base = Task(specs[0], base=True)
    Job(batch_of(tmp_path, base, *specs, fine).file, 0)()
    assert attempts(tmp_path, base.key)[0].ended == "failed"
    assert [found(tmp_path, spec).status for spec in specs] == ["diverged"] * 2
    assert found(tmp_path, fine).status == "ok"


def test_a_damaged_record_costs_the_other_runs_nothing(make_run, tmp_path):
    damaged, fine = make_run("l1_norm")[0], make_run("random")[0]
    path = store.path_of(tmp_path, damaged)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    Job(batch_of(tmp_path, damaged, fine).file, 0)()
    assert found(tmp_path, fine).status == "ok"


def test_a_journal_that_takes_nothing_costs_no_run(make_run, tmp_path, monkeypatch):
    spec, _ = make_run()

    def full(*given, **facts):
        raise OSError(28, "No space left on device")

    for name in ("start", "saved", "end"):
        monkeypatch.setattr(Journal, name, full)
    Job(batch_of(tmp_path, spec).file, 0)()
    assert found(tmp_path, spec).status == "ok"


def test_a_debugged_job_raises_what_went_wrong(make_run, tmp_path, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "DEBUG_1")
    spec, _ = make_run("nan_scores")
    with pytest.raises(RunFailed, match="not finite"):
        Job(batch_of(tmp_path, spec, cluster="debug").file, 0)()
    assert found(tmp_path, spec).status == "failed"
