"""Submissions that are refused or cut off, what batches carry, dry runs, and the end of jobs."""

from dataclasses import replace

import pytest
from support.batches import pairs_of, spec_of
from support.submissions import hand_over, leave, nobody, request, shapes

from bench.errors import SetupError
from bench.spec.request import RunOptions
from slurm import launch
from slurm.batch import Batch, base_key, batches
from slurm.launch import Request, cancel, dry_run, plan, submit, to_submit
from slurm.profile import Profile
from slurm.states import query_states


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# --- refusals ------------------------------------------------------------------------------------------------


def test_jobs_accepted_before_refusal_stay_and_same_call_resumes(slurm, out):
    slurm.largest = 2
    specs = [spec_of(seed) for seed in range(5)]
    slurm.refuse_at = 1
    with pytest.raises(SetupError, match="Invalid qos; 2 of 5 runs were, the same command") as caught:
        hand_over(specs, out)
    assert "\n" not in str(caught.value)
    assert len(slurm.withdrawn) == 1  # whatever the refused one may have started
    (kept,) = batches(out)
    assert kept.jobs == slurm.submitted[0][0].jobs
    slurm.refuse_at = None
    done = hand_over(specs, out)
    assert [list(batch.tasks) for batch in done.batches] == [[s.id for s in specs[2:4]], [specs[4].id]]
    assert sorted(key for batch in batches(out) for key in batch.tasks) == sorted(spec.id for spec in specs)


def test_refusal_of_the_first_or_after_a_base(slurm, out):
    slurm.refuse_at = 0
    with pytest.raises(SetupError, match="Invalid qos; nothing was submitted"):
        hand_over([spec_of()], out)
    assert list(batches(out)) == []
    specs = pairs_of(1)
    slurm.refuse_at = 1
    with pytest.raises(SetupError, match="Invalid qos"):
        hand_over(specs, out)
    slurm.refuse_at = None
    hand_over(specs, out)
    base = slurm.submitted[0][0].jobs[0]
    assert shapes(slurm) == [([[base_key(specs[0])]], []), ([[spec.id] for spec in specs], [[base]] * 2)]


def test_job_is_withdrawn_if_the_disk_fills_up_after_acceptance(slurm, out, monkeypatch):
    write = Batch.write

    def full(batch):
        if batch.jobs:
            raise SetupError("cannot write: No space left on device; see --out")
        write(batch)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "write", full)
        with pytest.raises(SetupError, match="No space left"):
            hand_over([spec_of()], out)
    assert slurm.withdrawn == [slurm.submitted[0][0].token]
    slurm.alive.clear()
    assert hand_over([spec_of()], out).runs == 1


def test_submission_that_was_cut_off_is_withdrawn_by_the_next(slurm, out):
    specs = [spec_of(0), spec_of(1)]

    def die(batch):
        raise KeyboardInterrupt

    slurm.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        hand_over(specs, out)
    (left,) = batches(out)
    assert left.jobs == ()
    slurm.meanwhile = lambda batch: None
    said = []
    done = submit(request(specs, out), said.append)
    assert slurm.withdrawn == [left.token]
    (text,) = said
    assert left.name in text
    assert done.runs == 2
    assert not left.folder.exists()
    assert [batch.token for batch in batches(out)] == [done.batches[0].token]


def test_unfinished_file_of_a_killed_submission_is_removed(slurm, out):
    for name in ("killed", "killed_later"):
        (out / "jobs" / name).mkdir(parents=True)
        (out / "jobs" / name / ".batch.json.abc123.part").write_text("{")
    (out / "jobs" / "killed_later" / "batch.json.of.somebody").write_text("")
    hand_over([spec_of()], out)
    assert not list(out.rglob("*.part"))
    assert not (out / "jobs" / "killed").exists()
    assert (out / "jobs" / "killed_later").exists()


def test_silent_cluster_and_unwritable_folder_stop_a_submission(slurm, out):
    hand_over([spec_of(0)], out)
    slurm.silent = True
    with pytest.raises(SetupError, match="does not answer"):
        hand_over([spec_of(0), spec_of(1)], out)
    with pytest.raises(SetupError, match="does not answer"):
        cancel([spec_of(0)], out)
    slurm.silent = False
    (out.parent / "file").write_text("in the way")
    with pytest.raises(SetupError, match="--out"):
        hand_over([spec_of()], out.parent / "file")
    assert len(slurm.submitted) == 1
    assert hand_over([spec_of(0), spec_of(1)], out).runs == 1


# --- what jobs are given -------------------------------------------------------------------------------------


def test_batch_carries_what_its_jobs_need(slurm, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = RunOptions(out=out, threads=None, download=True, device="auto")
    profile = Profile(cpus=3, time="2:00:00")
    asked = Request([spec_of()], options, [tmp_path / "plugin.py"], "slurm", profile, "a title/of sorts" * 9)
    (batch,) = submit(asked, nobody).batches
    assert batch.out.is_absolute()
    assert batch.options["data_dir"] == str(tmp_path / "data")
    assert (batch.options["threads"], batch.options["download"], batch.options["device"]) == (3, True, "auto")
    assert batch.plugins == (str(tmp_path / "plugin.py"),)
    assert (batch.minutes, batch.signal_delay_s) == (120, 90)
    assert batch.code["version"]
    assert batch.packages["torch"]
    assert set(batch.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.+@")
    assert len(batch.name) < 50
    (task,) = batch.tasks.values()
    assert len(task["method_sha256"]) == 64
    asked = request([spec_of(1)], out, cpus=4, data_dir="/scratch/data", device="cuda")
    (batch,) = submit(replace(asked, options=replace(asked.options, threads=2)), nobody).batches
    given = {"data_dir": "/scratch/data", "device": "cuda", "threads": 2}  # threads: of the command line
    assert batch.options.items() >= given.items()


@pytest.mark.parametrize(("jobs", "processes"), [(1, 1), (2, 2), (9, 4)])
def test_processes_of_this_machine_share_all_runs(clusters, out, monkeypatch, jobs, processes):
    monkeypatch.setattr(launch, "_cores", lambda: 6)
    specs = pairs_of(2)
    (batch,) = hand_over(specs, out, "local", (), jobs).batches
    keys = (base_key(specs[0]), base_key(specs[2]), *(spec.id for spec in specs))
    assert (batch.elements, batch.count, batch.shared) == ((keys,), processes, processes > 1)
    assert batch.options["threads"] == max(1, 6 // processes)
    assert batch.minutes is None
    assert clusters["local"].submitted[0][1] == [[]] * processes
    (batch,) = hand_over(pairs_of(1), out.parent / "debug", "debug", (), 4).batches
    assert [len(keys) for keys in batch.elements] == [3]  # a debugged job is one


# --- without handing over, and ending ------------------------------------------------------------------------


def test_dry_run_prints_submission_and_leaves_nothing(monkeypatch, out):
    monkeypatch.setenv("PATH", "")
    specs = pairs_of(2)
    (bases, first), (runs, second) = dry_run(request(specs, out, partition="gpu"), nobody)
    for batch, script, count, base in ((bases, first, 2, True), (runs, second, 4, False)):
        assert (batch.count, {task["base"] for task in batch.tasks.values()}) == (count, {base})
        assert batch.name in script
        assert "--partition=gpu" in script
        assert ("dependency" in script) != base
    assert not out.exists()
    assert [script for _, script in dry_run(request(specs, out, "local", processes=2), nobody)] == [""]


def test_dry_run_leaves_out_what_is_done(slurm, out):
    leave(out, spec_of(0))
    for specs, wanted in (([spec_of(0)], []), ([spec_of(0), spec_of(1)], [[spec_of(1).id]])):
        before = query_states(specs, out)
        planned = plan(request(specs, out), before, to_submit(before, ()), 9, [])
        assert [list(batch.tasks) for batch, _ in planned] == wanted


def test_cancel_ends_jobs_of_runs_and_of_their_bases(slurm, out):
    specs = pairs_of(1)
    hand_over([*specs, spec_of(5)], out)
    expected = {job for batch, _ in slurm.submitted for key in specs for job in batch.jobs_of(key.id)}
    expected |= set(slurm.submitted[0][0].jobs)
    assert set(cancel(specs, out)) == set(slurm.cancelled) == expected
    assert len(expected) == 3


def test_cancel_spares_jobs_with_other_runs_and_ended_ones(slurm, out):
    specs = [spec_of(seed) for seed in range(4)]
    hand_over(specs, out, runs_per_job=2)
    first, second = slurm.submitted[0][0].jobs
    alive = dict(slurm.alive)
    assert cancel(specs[:1], out) == []
    assert cancel(specs[:3], out) == [first]
    slurm.alive |= alive
    assert cancel(specs, out) == [first, second]
    slurm.alive |= {second: alive[second]}
    assert cancel(specs, out) == [second]
    assert cancel([spec_of(7)], out) == []
