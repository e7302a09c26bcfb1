"""What jobs need of a run: a full disk costs nothing, a base on its own, progress and job, a record of any failure."""

import errno
import resource
import signal
from dataclasses import replace

import pytest
import torch

from bench.errors import RunFailed, SetupError
from bench.files import run_lock
from bench.progress import Progress
from bench.records import store
from bench.records.schema import Job
from bench.runs import pipeline
from bench.runs.execute import execute, leave_failure, train_base
from bench.training import dense_baseline, run_checkpoint
from bench.training.checkpoint import save_state
from bench.training.loop import PhaseTrainer


class Heard(Progress):
    """Remembers what it is told."""

    def __init__(self):
        super().__init__("test", quiet=True)
        self.epochs, self.saves, self.totals, self.closed = [], [], [], 0

    def start(self, total):
        super().start(total)
        self.totals.append(total)

    def epoch(self, what, *facts):
        super().epoch(what, *facts)
        self.epochs.append(what)

    def saved(self):
        self.saves.append((self.done, self.total))

    def close(self):
        super().close()
        self.closed += 1


def refusing(number):
    """What cannot write, for this reason."""

    def refuse(*given):
        raise OSError(number, "no room")

    return refuse


# --- a full disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "number"), [(dense_baseline, errno.ENOSPC), (pipeline, errno.EDQUOT)], ids=["base", "artifacts"]
)
def test_run_resumes_after_a_full_disk(make_run, tmp_path, monkeypatch, where, number):
    spec, options = make_run("ddrop", train__epochs=2, out=tmp_path / "whole")
    whole = execute(spec, options)
    options = replace(options, out=tmp_path / "full")
    with monkeypatch.context() as patch:
        patch.setattr(where, "save_tensors", refusing(number))
        with pytest.raises(SetupError, match="no room: make room") as caught:
            execute(spec, options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    found = store.load(store.path_of(options.out, spec))
    assert (found.status, found.error.type) == ("interrupted", "OSError")
    assert len(list(options.out.rglob("*.pt"))) == 1
    heard = Heard()
    done = execute(spec, options, heard)  # without --retry
    assert store.without_timing(done) == store.without_timing(whole)
    assert "base train" not in heard.epochs  # all of it was in the checkpoint, or there
    if where is pipeline:
        assert done.clock.resumes == 1
        assert heard.epochs == []
    assert not list(options.out.rglob("*.pt"))
    assert not list(options.out.rglob("superseded"))


def test_other_file_error_is_a_failure(make_run, monkeypatch):
    monkeypatch.setattr(pipeline, "save_tensors", refusing(errno.EIO))
    spec, options = make_run()
    with pytest.raises(RunFailed, match="no room"):
        execute(spec, options)
    assert store.load(store.path_of(options.out, spec)).status == "failed"


def test_a_full_disk_is_an_oserror_to_whoever_writes_a_checkpoint(tmp_path):
    """As the training loop expects it: torch's own writer raises something else."""
    state = {"weights": torch.zeros(100_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(tmp_path / "x.pt", state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


# --- progress and job ----------------------------------------------------------------------------------------


def test_progress_reports_every_epoch_and_written_checkpoint(make_run):
    spec, options = make_run("ddrop", train__epochs=2, finetune__epochs=1)
    times = []

    class Looks(Heard):
        def saved(self):
            super().saved()
            times.append(max(file.stat().st_mtime_ns for file in options.out.rglob("*.pt")))

    heard = Looks()
    execute(spec, options, heard)
    assert heard.totals == [2 + 3]
    assert heard.epochs == ["base train"] * 2 + ["train"] * 2 + ["finetune"]
    assert [done for done, _ in heard.saves] == [1, 2, 3, 4, 4, 5]  # the prune has a checkpoint of its own
    assert {total for _, total in heard.saves} == {5}
    assert len(times) == len(set(times)) == 6
    assert heard.closed
    again = Heard()
    execute(*make_run("random", train__epochs=2, finetune__epochs=1), again)
    assert again.totals == [1]  # the base is there


def test_progress_hears_nothing_of_an_unwritten_checkpoint(make_run, monkeypatch):
    monkeypatch.setattr(run_checkpoint, "save_state", refusing(errno.ENOSPC))
    heard = Heard()
    execute(*make_run("ddrop"), heard)
    assert len(heard.epochs) == 3
    assert heard.saves == []


def test_record_of_a_run_names_its_job(make_run):
    spec, options = make_run()
    job = {"cluster": "slurm", "id": "12_3", "attempts": 2, "differs": ["numpy: was 1, is 2"]}
    done = execute(spec, options, job=job)
    assert done.job == store.load(store.path_of(options.out, spec)).job == Job(**job)
    outside = execute(*make_run(out=options.out / "other"))
    assert outside.job is None
    assert store.without_timing(done) == store.without_timing(outside)
    spec, options = make_run("nan_scores")
    with pytest.raises(RunFailed):
        execute(spec, options, job={"id": "7"})
    assert store.load(store.path_of(options.out, spec)).job == Job(id="7")


# --- the base on its own -------------------------------------------------------------------------------------


def test_a_base_is_trained_once_and_is_the_one_of_the_run(make_run, tmp_path):
    whole = execute(*make_run(out=tmp_path / "whole"))
    spec, options = make_run(out=tmp_path / "out")
    heard = Heard()
    name = train_base(spec, options, heard)
    assert heard.epochs == ["base train"]
    assert heard.closed
    assert {file.name for file in (options.out / "bases").glob("*.*")} >= {f"{name}.safetensors", f"{name}.json"}
    assert not (options.out / "records").exists()
    again = Heard()
    assert train_base(spec, options, again) == name
    assert again.epochs == []
    heard = Heard()
    done = execute(spec, options, heard)
    assert heard.epochs == ["finetune"]
    assert done.training.base.id == name
    assert store.without_timing(done) == store.without_timing(whole)


def test_interrupted_dense_baseline_resumes(make_run, tmp_path, monkeypatch):
    spec, options = make_run(train__epochs=3, out=tmp_path / "a")
    whole = execute(spec, options)
    options = replace(options, out=tmp_path / "b")
    save = PhaseTrainer.save

    def stop(self, position):
        save(self, position)
        if position == (0, 2):
            signal.raise_signal(signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_base(spec, options)
    assert signal.getsignal(signal.SIGTERM) is handler
    heard = Heard()
    train_base(spec, options, heard)
    assert heard.epochs == ["base train"]  # one of three was left
    assert store.without_timing(execute(spec, options)) == store.without_timing(whole)


def test_bases_of_unknown_data_and_places(make_run, tmp_path):
    spec, options = make_run(arch="resnet20", dataset="mnist")
    with pytest.raises(SetupError, match="--download"):
        train_base(spec, replace(options, data_dir=tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--out"):
        train_base(make_run()[0], replace(options, out=tmp_path / "file" / "out"))


# --- a record of what could not start ------------------------------------------------------------------------


def test_run_that_could_not_start_leaves_a_record(make_run):
    spec, options = make_run()
    error = SetupError("no data at /some/where/set.bin")
    leave_failure(spec, options, error, {"id": "7"})
    found = store.load(store.path_of(options.out, spec))
    assert (found.id, found.status, found.job) == (spec.id, "failed", Job(id="7"))
    assert (found.error.type, found.error.message) == ("SetupError", "no data at set.bin")
    assert found.spec == spec
    assert store.seal(found) == found
    with pytest.raises(RunFailed, match="this run failed before"):
        execute(spec, options)
    assert execute(spec, replace(options, retry=True)).status == "ok"
    assert len(list(options.out.rglob("superseded/*.json"))) == 1
    unknown = replace(spec, method="nobody_knows_it")
    leave_failure(unknown, options, ValueError("unknown method"))
    found = store.load(store.path_of(options.out, unknown))
    assert (found.error.type, found.code.method_sha256) == ("ValueError", None)


def test_what_could_not_start_spoils_no_finished_record(make_run):
    spec, options = make_run()
    done = execute(spec, options)
    with pytest.raises(RunFailed, match="already there"):
        leave_failure(spec, options, SetupError("no"))
    assert store.load(store.path_of(options.out, spec)) == done
    leave_failure(spec, replace(options, retry=True), SetupError("no"))
    assert store.load(store.path_of(options.out, spec)).status == "failed"
    (aside,) = options.out.rglob("superseded/*.json")
    assert store.load(aside) == done


def test_lock_of_a_run_is_where_others_look_for_it(make_run):
    spec, options = make_run()
    busy = []

    class Looks(Heard):
        def saved(self):
            busy.append(run_lock(options.out, spec.id).busy())

    execute(spec, options, Looks())
    assert set(busy) == {True}
    assert not run_lock(options.out, spec.id).busy()
