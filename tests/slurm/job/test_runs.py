"""What a job carries out: the runs of its element, once, to the records that the run command leaves."""

import signal
from dataclasses import replace

import msgspec
import pytest
from support.job_tools import attempts, batch_of, found, has_record, stop_at

from bench.errors import RunFailed
from bench.measure import environment
from bench.records import store
from bench.runs.execute import execute
from bench.training.loop import PhaseTrainer
from slurm.batch import Task
from slurm.cluster import RUNNING
from slurm.job import Job
from slurm.local import Local
from slurm.worker import differences


def test_job_leaves_the_record_that_the_run_command_leaves(finished, make_run, tmp_path):
    spec, whole, _ = finished("ddrop")
    other, _ = make_run("random")
    batch = batch_of(tmp_path / "job", spec, other)
    batch = replace(batch, elements=((other.id,), (spec.id,)), count=2)
    batch.write()
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    Job(batch.file, 1)()
    assert [signal.getsignal(number) for number in numbers] == before
    assert not has_record(batch.out, other)  # of another element
    done = found(batch.out, spec)
    assert store.without_timing(done) == store.without_timing(whole)
    facts = {"cluster": "local", "id": "77", "attempts": 1, "differs": []}
    facts |= dict.fromkeys(("preemptions", "timeouts", "terminations", "kills"), 0)
    assert msgspec.to_builtins(done.job).items() >= facts.items()
    (attempt,) = attempts(batch.out, spec)
    assert (attempt.batch, attempt.job, attempt.ended) == (batch.token, "77", "done")
    assert (attempt.saves, attempt.first[1:], attempt.last[1:]) == (4, (1, 3), (3, 3))  # base, own, prune, fine-tuning
    Job(batch.file, 1)()  # finds nothing to do
    assert found(batch.out, spec) == done
    assert len(attempts(batch.out, spec)) == 1


def test_base_is_trained_once_for_all_runs(make_run, tmp_path):
    specs = [make_run(method)[0] for method in ("l1_norm", "random")]
    base = Task(specs[0], base=True)
    batch = batch_of(tmp_path, base, *specs)
    Job(batch.file, 0)()
    (attempt,) = attempts(tmp_path, base.key)
    (weights,) = (tmp_path / "bases").glob("*.safetensors")
    assert (attempt.ended, attempt.facts["base"]) == ("done", weights.stem)
    for spec in specs:
        assert found(tmp_path, spec).training.base.id == weights.stem
        assert attempts(tmp_path, spec)[0].last[1:] == (1, 1)  # the fine-tuning only
    Job(batch.file, 0)()
    assert len(attempts(tmp_path, base.key)) == 1


def test_job_is_alive_while_it_works_and_not_after(make_run, tmp_path, monkeypatch):
    batch = replace(batch_of(tmp_path, make_run()[0]), jobs=("77",))
    seen = []
    save = PhaseTrainer.save
    monkeypatch.setattr(PhaseTrainer, "save", lambda *given: (seen.append(Local().live([batch])), save(*given))[1])
    Job(batch.file, 0)()
    assert seen
    assert all(state == {"77": (RUNNING, "")} for state in seen)
    assert Local().live([batch]) == {}


def test_failed_run_is_tried_again_once(make_run, tmp_path):
    spec, options = make_run("nan_scores")
    with pytest.raises(RunFailed):
        execute(spec, options)
    old = found(tmp_path, spec).record_sha256
    batch = batch_of(tmp_path, Task(spec, replaces=old))
    Job(batch.file, 0)()
    new = found(tmp_path, spec)
    assert new.record_sha256 != old
    assert new.job.id == "77"
    Job(batch.file, 0)()
    assert found(tmp_path, spec) == new
    assert len(list(tmp_path.rglob("superseded/*.json"))) == 1


def test_finished_run_is_carried_out_again_in_two_attempts(finished, tmp_path, monkeypatch):
    spec, old, _ = finished("ddrop")
    batch = batch_of(tmp_path, Task(spec, replaces=old.record_sha256))
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 1)
        Job(batch.file, 0)()
    assert found(tmp_path, spec) == old
    Job(batch.file, 0)()
    new = found(tmp_path, spec)
    assert new.job.preemptions == 1
    assert store.without_timing(new) == store.without_timing(old)
    (aside,) = tmp_path.rglob("superseded/*.json")
    assert store.load(aside) == old


def test_differences_from_submission_are_printed_and_recorded(make_run, tmp_path, capsys):
    spec, _ = make_run()
    batch = batch_of(
        tmp_path,
        Task(spec, method_sha256="0" * 64),
        code=environment.code() | {"commit": "abc"},
        packages=environment.packages() | {"numpy": "0.1"},
    )
    Job(batch.file, 0)()
    told = found(tmp_path, spec).job.differs
    assert [text.partition(":")[0] for text in told] == ["commit", "method", "numpy"]
    assert any("was 0.1, is " in text for text in told)
    err = capsys.readouterr().err
    assert all(text in err for text in told)


def test_differences():
    assert differences({"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": 4}) == ["b: was 2, is 3", "d: was None, is 4"]
    assert differences({}, {}) == []
    known = {"version": "1", "commit": "abc", "diff_sha256": "def", "numpy": "1"}
    unknown = known | {"commit": None, "diff_sha256": None, "numpy": "2"}  # of a node without git
    assert differences(known, unknown) == ["numpy: was 1, is 2"]
    assert differences(unknown, known) == ["numpy: was 2, is 1"]
    assert differences(known, known | {"diff_sha256": None}) == ["diff_sha256: was def, is None"]
