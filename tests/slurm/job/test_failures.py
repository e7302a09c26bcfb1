"""Failures in a job: each leaves its record and costs the other runs nothing."""

from dataclasses import replace

import pytest
from support import image_folders
from support.job_tools import PLUGINS, attempts, batch_of, found

from bench.data.loading import resolve
from bench.errors import RunFailed
from bench.records import store
from bench.spec.registry import METHODS
from slurm.batch import Task
from slurm.job import Job
from slurm.journal import Journal


def test_each_failure_leaves_its_record_and_costs_no_other_run(make_run, tmp_path, capsys):
    failing = {
        "not finite": make_run("nan_scores")[0],
        "cannot be met": make_run(keep=0.0001)[0],
        "--download": make_run(arch="resnet20", dataset="mnist")[0],  # whose data are not there
        "unknown method 'raises'": make_run("raises")[0],
    }
    damaged, fine = make_run("l2_norm")[0], make_run("random")[0]
    METHODS._plugins.pop("raises")
    tasks = [Task(spec) for spec in failing.values()]
    batch = batch_of(tmp_path, *tasks, damaged, fine, plugins=(str(PLUGINS / "small.py"),))
    path = store.path_of(tmp_path, damaged)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    Job(batch.file, 0)()
    err = capsys.readouterr().err
    for message, spec in failing.items():
        failed = found(tmp_path, spec)
        assert (failed.status, failed.job.id) == ("failed", "77"), message
        assert message in failed.error.message
        assert attempts(tmp_path, spec)[-1].ended == "failed"
        assert f"bench: error: {spec.id}: " in err
    assert found(tmp_path, failing["not finite"]).error.traceback
    assert found(tmp_path, failing["--download"]).error.type == "SetupError"
    assert found(tmp_path, fine).status == "ok"
    assert attempts(tmp_path, fine)[-1].ended == "done"
    Job(batch.file, 0)()  # a failed run is not tried again by itself
    assert len(attempts(tmp_path, failing["not finite"])) == 1


def test_run_of_damaged_images_leaves_a_failed_record(make_run, tmp_path):
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


def test_failed_base_is_reported_by_every_run_on_it(make_run, tmp_path):
    specs = [make_run(m, "mlp_40_40", "tiny8", train__lr=1e9)[0] for m in ("l1_norm", "random")]
    fine, _ = make_run()
    base = Task(specs[0], base=True)
    Job(batch_of(tmp_path, base, *specs, fine).file, 0)()
    assert attempts(tmp_path, base.key)[0].ended == "failed"
    assert [found(tmp_path, spec).status for spec in specs] == ["diverged"] * 2
    assert found(tmp_path, fine).status == "ok"


def test_journal_that_takes_nothing_costs_no_run(make_run, tmp_path, monkeypatch):
    spec, _ = make_run()

    def full(*given, **facts):
        raise OSError(28, "No space left on device")

    for name in ("start", "saved", "end"):
        monkeypatch.setattr(Journal, name, full)
    Job(batch_of(tmp_path, spec).file, 0)()
    assert found(tmp_path, spec).status == "ok"


def test_debugged_job_raises_the_error(make_run, tmp_path, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "DEBUG_1")
    spec, _ = make_run("nan_scores")
    with pytest.raises(RunFailed, match="not finite"):
        Job(batch_of(tmp_path, spec, cluster="debug").file, 0)()
    assert found(tmp_path, spec).status == "failed"
