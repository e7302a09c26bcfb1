"""Handing runs over: each once, whoever submits and whenever, and whatever the cluster says to it."""

import threading
from dataclasses import replace

import pytest
from support.cluster_in_memory import Cluster
from support.records import ended, finished, record

from bench.errors import SetupError
from bench.records import store
from bench.runs.execute import leave_failure
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.request import RunOptions
from bench.spec.spec import Budget
from slurm import launch, states
from slurm.batch import Batch, Task, base_key, batches, jobs_folder
from slurm.cluster import RUNNING, WAITING, TooMany
from slurm.journal import Journal
from slurm.launch import Request, cancel, dry_run, plan, submit, to_submit
from slurm.packing import estimates
from slurm.profile import Profile
from slurm.states import FAILED, LOST, MISSING, query_states


@pytest.fixture
def clusters(monkeypatch):
    """The clusters there are, by name."""
    known = {"slurm": Cluster(100), "local": Cluster(40_000), "debug": Cluster(900)}
    for module in (launch, states):
        monkeypatch.setattr(module, "cluster_of", lambda name: known[name])
    monkeypatch.setattr(launch, "Slurm", Cluster)  # the one that has arrays of a largest size
    return known


@pytest.fixture
def slurm(clusters):
    return clusters["slurm"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def spec_of(seed=0, method="l1_norm", **changes):
    recipe = load_recipe("digits", {key.replace("__", "."): str(value) for key, value in changes.items()})
    return make_spec(method, "resnet20", "digits", recipe, Budget(keep_macs=0.5), seed)


def request(specs, out, cluster="slurm", retry=(), processes=1, **profile):
    made = Request(specs, RunOptions(out=out), [], cluster, Profile(**profile), "some", frozenset(retry), processes)
    return made


def leave(out, spec, status="ok"):
    """Write a record; returns its hash."""
    if status == "failed":
        leave_failure(spec, RunOptions(out=out), SetupError("no data"), None)
    else:
        made = finished(spec, 60.0) if status == "ok" else ended(status, spec, "stopped")
        store.write(store.path_of(out, spec), record(made))
    return store.load(store.path_of(out, spec)).record_sha256


def trained(out, spec, name="some_base"):
    """The base of a run, as a job leaves it."""
    folder = jobs_folder(out) / "of_old"
    folder.mkdir(parents=True, exist_ok=True)
    notes = Journal(folder, [base_key(spec)])
    notes.start(base_key(spec), "1")
    notes.end(base_key(spec), "done", base=name)
    (out / "bases").mkdir(parents=True, exist_ok=True)
    (out / "bases" / f"{name}.safetensors").touch()


def nobody(text):
    pytest.fail(f"said {text}")


def shapes(slurm):
    """Of what was submitted: keys of each job, and what each waits for; one list where none waits."""
    return [(list(map(list, batch.elements)), after if any(after) else []) for batch, after in slurm.submitted]


# --- bases ---------------------------------------------------------------------------------------------------


def test_a_base_that_several_runs_need_is_a_task_of_its_own_and_they_wait_for_it(slurm, out):
    shared = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random")]
    lone = spec_of(train__epochs=7)
    done = submit(request([*shared, lone], out), nobody)
    bases, free, waiting = done.batches
    assert [list(map(list, batch.elements)) for batch in done.batches] == [
        [[base_key(shared[0])], [base_key(shared[2])]],
        [[lone.id]],
        [[spec.id] for spec in shared],
    ]
    assert [task["base"] for task in bases.tasks.values()] == [True, True]
    one, two = bases.jobs
    assert [after for _, after in slurm.submitted] == [[[], []], [[]], [[one], [one], [two], [two]]]
    assert done.runs == 5
    assert free.jobs != waiting.jobs


def test_a_base_of_a_single_run_is_trained_by_it(slurm, out):
    submit(request([spec_of(0), spec_of(1)], out), nobody)
    assert shapes(slurm) == [([[spec_of(0).id], [spec_of(1).id]], [])]


def test_a_base_that_is_trained_is_not_trained_again(slurm, out):
    specs = [spec_of(0), spec_of(0, "random")]
    trained(out, specs[0])
    submit(request(specs, out), nobody)
    assert shapes(slurm) == [([[spec.id] for spec in specs], [])]


def test_a_base_that_was_deleted_is_trained_again(slurm, out):
    specs = [spec_of(0), spec_of(0, "random")]
    trained(out, specs[0])
    (out / "bases" / "some_base.safetensors").unlink()
    submit(request(specs, out), nobody)
    assert shapes(slurm)[0] == ([[base_key(specs[0])]], [])


def test_a_base_that_an_earlier_submission_has_trained_is_waited_for(slurm, out):
    first = [spec_of(0), spec_of(0, "random")]
    submit(request(first, out), nobody)
    base = slurm.submitted[0][0].jobs[0]
    more = [spec_of(0, "ddrop"), spec_of(0, "uniform_thin")]
    submit(request([*first, *more], out), nobody)
    assert shapes(slurm)[2:] == [([[spec.id] for spec in more], [[base]] * 2)]
    submit(request([spec_of(0, "dropnet")], out), nobody)  # also where it alone needs it
    assert shapes(slurm)[3:] == [([[spec_of(0, "dropnet").id]], [[base]])]
    slurm.alive.pop(base)
    trained(out, first[0])
    submit(request([spec_of(0, "dense")], out), nobody)
    assert shapes(slurm)[4:] == [([[spec_of(0, "dense").id]], [])]


def test_base_of_lost_job_is_trained_again(slurm, out):
    specs = [spec_of(0), spec_of(0, "random")]
    submit(request(specs, out), nobody)
    slurm.alive.clear()
    submit(request(specs, out, retry=[LOST]), nobody)
    again = list(slurm.submitted[2][0].jobs)
    assert shapes(slurm)[2:] == [([[base_key(specs[0])]], []), ([[spec.id] for spec in specs], [again] * 2)]


def test_slurm_job_does_not_wait_for_local_process(clusters, out):
    """Whose number may be that of any job."""
    first = [spec_of(0), spec_of(0, "random")]
    submit(request(first, out, "local"), nobody)
    slurm, local = clusters["slurm"], clusters["local"]
    assert {state for state, _ in local.alive.values()} == {WAITING}
    more = [spec_of(0, "ddrop"), spec_of(0, "uniform_thin")]
    submit(request(more, out), nobody)
    jobs = {job for batch, _ in slurm.submitted for job in batch.jobs}
    assert {job for _, after in slurm.submitted for waited in after for job in waited} <= jobs


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_arrays_are_no_larger_than_the_cluster_takes(slurm, out, count, sizes):
    slurm.largest = 3
    specs = [spec_of(seed) for seed in range(count)]
    submit(request(specs, out), nobody)
    assert [len(batch.elements) for batch, _ in slurm.submitted] == sizes
    assert [key for batch, _ in slurm.submitted for (key,) in batch.elements] == [spec.id for spec in specs]
    for batch, _ in slurm.submitted:
        assert set(batch.tasks) == {key for (key,) in batch.elements}


def test_runs_of_split_arrays_wait_for_all_bases_that_they_need(slurm, out):
    slurm.largest = 2
    specs = [spec_of(seed, method) for seed in range(3) for method in ("l1_norm", "random")]
    submit(request(specs, out), nobody)
    found = slurm.submitted
    assert [len(batch.elements) for batch, _ in found] == [2, 1, 2, 2, 2]
    trainers = {key: job for batch, _ in found[:2] for job, (key,) in zip(batch.jobs, batch.elements, strict=True)}
    for batch, after in found[2:]:
        assert after == [[trainers[base_key(batch.task(key).spec)]] for (key,) in batch.elements]  # its own only


def test_bases_are_packed_as_runs_are_with_a_process_each(slurm, out):
    specs = [spec_of(seed, method) for seed in range(3) for method in ("l1_norm", "random")]
    submit(request(specs, out, runs_per_job=2, runs_at_once=2, cpus=3, gpus=4), nobody)
    (bases, _), (runs, after) = slurm.submitted
    keys = [base_key(specs[k]) for k in (0, 2, 4)]
    assert bases.elements == ((keys[0], keys[1]), (keys[2],))
    assert (bases.processes, bases.gpus) == (2, 4)
    assert after == [[bases.jobs[0]], [bases.jobs[0]], [bases.jobs[1]]]
    assert runs.processes == 2
    alone = [spec_of(9, method) for method in ("l1_norm", "random")]
    submit(request(alone, out, runs_per_job=2, runs_at_once=2, cpus=3, gpus=4), nobody)
    assert (slurm.submitted[2][0].processes, slurm.submitted[2][0].gpus) == (1, 2)  # a single base


@pytest.mark.parametrize(("jobs", "at_once", "count"), [(3, 1, 3), (3, 2, 3), (9, 2, 4), (1, 8, 1)])
def test_jobs_that_share_one_queue(slurm, out, jobs, at_once, count):
    """Bases first; no job waits for another, since each takes what is ready."""
    specs = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random", "ddrop")]
    submit(request(specs, out, jobs=jobs, runs_at_once=at_once), nobody)
    ((batch, after),) = slurm.submitted
    keys = (base_key(specs[0]), base_key(specs[3]), *(spec.id for spec in specs))
    assert (batch.elements, batch.count, batch.processes) == ((keys,), count, at_once)
    assert after == [[]] * count
    assert {state.state for state in query_states(specs, out).states} == {"waiting"}
    assert submit(request(specs, out, jobs=jobs, runs_at_once=at_once), nobody).runs == 0


def test_array_size_of_the_profile(slurm, out):
    submit(request([spec_of(seed) for seed in range(7)], out, array_size=3), nobody)
    assert [batch.count for batch, _ in slurm.submitted] == [3, 3, 1]
    slurm.largest = 2
    submit(request([spec_of(seed, "random") for seed in range(20, 24)], out, array_size=3), nobody)
    assert [batch.count for batch, _ in slurm.submitted[3:]] == [2, 2]


@pytest.mark.parametrize(
    ("limit", "sizes"), [(5, [5]), (6, [6]), (4, [3, 1]), (1, [1]), (11, [6, 3, 2]), (12, [6, 6]), (100, [6, 6])]
)
def test_as_many_jobs_as_a_limit_on_submitted_jobs_takes(slurm, out, limit, sizes):
    slurm.largest, slurm.limit = 6, limit
    specs = [spec_of(seed) for seed in range(12)]
    if limit >= 12:
        assert submit(request(specs, out), nobody).runs == 12
    else:
        with pytest.raises(TooMany, match=f"; {sum(sizes)} of 12 runs are submitted: the same command submits more"):
            submit(request(specs, out), nobody)
    accepted = [batch for batch, _ in slurm.submitted]
    assert sum(batch.count for batch in accepted) == sum(sizes)
    assert [key for batch in accepted for (key,) in batch.elements] == [spec.id for spec in specs[: sum(sizes)]]
    assert {batch.token for batch in batches(out)} == {batch.token for batch in accepted}  # nothing half-submitted
    slurm.alive.clear()
    for spec in specs[: sum(sizes)]:
        leave(out, spec)
    slurm.limit = None
    assert submit(request(specs, out), nobody).runs == 12 - sum(sizes)


def test_bases_that_a_limit_takes_are_waited_for_by_the_runs_that_it_takes(slurm, out):
    slurm.limit = 4
    specs = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random")]
    with pytest.raises(TooMany, match="2 of 4 runs are submitted"):
        submit(request(specs, out), nobody)
    bases, *runs = [batch for batch, _ in slurm.submitted]
    assert bases.count == sum(batch.count for batch in runs) == 2
    waits = [jobs for _, after in slurm.submitted[1:] for jobs in after]
    assert waits == [[bases.jobs[0]]] * 2


def test_limit_that_takes_nothing(slurm, out):
    slurm.limit = 0
    with pytest.raises(TooMany, match="no run was submitted: the same command submits more of them when"):
        submit(request([spec_of(seed) for seed in range(3)], out), nobody)
    assert list(batches(out)) == []


def test_of_jobs_that_share_a_queue_a_limit_takes_fewer(slurm, out):
    slurm.limit = 3
    specs = [spec_of(seed) for seed in range(8)]
    assert submit(request(specs, out, jobs=4), nobody).runs == 8
    ((batch, _),) = slurm.submitted
    assert (batch.count, len(batch.tasks)) == (2, 8)


def test_several_runs_in_a_job(slurm, out):
    specs = [spec_of(seed) for seed in range(5)]
    submit(request(specs, out, runs_per_job=2), nobody)
    assert shapes(slurm) == [([[s.id for s in specs[k : k + 2]] for k in (0, 2, 4)], [])]


def test_runs_are_packed_as_earlier_records_let_expect(slurm, out):
    leave(out, spec_of(99))  # a minute
    assert estimates(out)(spec_of(0)) == 60
    submit(request([spec_of(seed) for seed in range(7)], out, minutes_per_job=3), nobody)
    assert [len(keys) for keys in shapes(slurm)[0][0]] == [3, 3, 1]


# --- each once -----------------------------------------------------------------------------------------------


def test_a_second_submission_hands_over_nothing(slurm, out):
    specs = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random")]
    assert submit(request(specs, out), nobody).runs == 4
    again = submit(request(specs, out), nobody)
    assert (again.runs, again.batches) == (0, [])
    assert again.before.counts()["waiting"] == 4
    more = submit(request([*specs, spec_of(5)], out), nobody)
    assert (more.runs, list(more.batches[0].tasks)) == (1, [spec_of(5).id])


def test_what_is_done_or_at_work_is_not_handed_over(slurm, out):
    specs = [spec_of(seed) for seed in range(4)]
    leave(out, specs[0])
    submit(request(specs[1:2], out), nobody)
    slurm.alive[slurm.submitted[0][0].jobs[0]] = (RUNNING, "")
    leave(out, specs[2], "interrupted")
    done = submit(request(specs, out), nobody)
    assert [list(batch.tasks) for batch in done.batches] == [[specs[2].id, specs[3].id]]


def test_what_failed_or_was_lost_is_handed_over_only_on_demand(slurm, out):
    failed, lost, cancelled = (spec_of(seed) for seed in range(3))
    submit(request([lost, cancelled], out), nobody)
    slurm.ended = {slurm.submitted[0][0].jobs[1]: "CANCELLED by 0"}
    slurm.alive.clear()
    sha256 = leave(out, failed, "failed")
    specs = [failed, lost, cancelled]
    assert [state.state for state in query_states(specs, out).states] == [FAILED, LOST, MISSING]
    assert list(submit(request(specs, out), nobody).batches[0].tasks) == [cancelled.id]
    done = submit(request(specs, out, retry=[FAILED, LOST]), nobody)
    (batch,) = done.batches
    assert set(batch.tasks) == {failed.id, lost.id}
    assert batch.task(failed.id) == Task(failed, replaces=sha256, method_sha256=batch.task(failed.id).method_sha256)
    assert batch.task(lost.id).replaces is None
    assert submit(request(specs, out, retry=[FAILED, LOST]), nobody).runs == 0  # they wait


def test_what_is_done_is_carried_out_again_once_for_each_demand(slurm, out):
    spec = spec_of()
    sha256 = leave(out, spec)
    (batch,) = submit(request([spec], out, retry=["done", FAILED, LOST]), nobody).batches
    assert batch.task(spec.id).replaces == sha256
    assert submit(request([spec], out, retry=["done", FAILED, LOST]), nobody).runs == 0  # it waits


def test_what_to_submit(slurm, out):
    leave(out, spec_of(1), "failed")
    before = query_states([spec_of(0), spec_of(1)], out)
    assert [state.spec.seed for state in to_submit(before, ())] == [0]
    assert [state.spec.seed for state in to_submit(before, [FAILED])] == [0, 1]


def test_two_who_submit_at_the_same_time_hand_over_each_run_once(slurm, out):
    specs = [spec_of(seed) for seed in range(3)]
    inside, go_on = threading.Event(), threading.Event()

    def wait(batch):
        inside.set()
        assert go_on.wait(30)

    slurm.meanwhile = wait
    found, said = [], []

    def hand_over():
        found.append(submit(request(specs, out), said.append))

    threads = [threading.Thread(target=hand_over) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    while not said:
        threads[1].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert said == ["waiting for another submission to the same folder"]
    assert sorted(done.runs for done in found) == [0, 3]
    assert len(slurm.submitted) == 1


# --- refusals ------------------------------------------------------------------------------------------------


def test_jobs_accepted_before_refusal_stay_and_same_call_resumes(slurm, out):
    slurm.largest = 2
    specs = [spec_of(seed) for seed in range(5)]
    slurm.refuse_at = 1
    with pytest.raises(SetupError, match="Invalid qos; 2 of 5 runs were, the same command") as caught:
        submit(request(specs, out), nobody)
    assert "\n" not in str(caught.value)
    assert len(slurm.withdrawn) == 1  # whatever the refused one may have started
    (kept,) = batches(out)
    assert kept.jobs == slurm.submitted[0][0].jobs
    slurm.refuse_at = None
    done = submit(request(specs, out), nobody)
    assert [list(batch.tasks) for batch in done.batches] == [[s.id for s in specs[2:4]], [specs[4].id]]
    assert sorted(key for batch in batches(out) for key in batch.tasks) == sorted(spec.id for spec in specs)


def test_a_refusal_of_the_first_says_nothing_of_others(slurm, out):
    slurm.refuse_at = 0
    with pytest.raises(SetupError, match="Invalid qos; nothing was submitted"):
        submit(request([spec_of()], out), nobody)
    assert list(batches(out)) == []


def test_resumed_call_waits_for_accepted_bases(slurm, out):
    specs = [spec_of(0), spec_of(0, "random")]
    slurm.refuse_at = 1
    with pytest.raises(SetupError, match="Invalid qos"):
        submit(request(specs, out), nobody)
    slurm.refuse_at = None
    submit(request(specs, out), nobody)
    assert shapes(slurm) == [
        ([[base_key(specs[0])]], []),
        ([[spec.id] for spec in specs], [[slurm.submitted[0][0].jobs[0]]] * 2),
    ]


def test_a_disk_that_fills_up_after_the_cluster_accepted_withdraws_the_job(slurm, out, monkeypatch):
    write = Batch.write

    def full(batch):
        if batch.jobs:
            raise SetupError("cannot write: No space left on device; see --out")
        write(batch)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "write", full)
        with pytest.raises(SetupError, match="No space left"):
            submit(request([spec_of()], out), nobody)
    assert slurm.withdrawn == [slurm.submitted[0][0].token]
    slurm.alive.clear()
    assert submit(request([spec_of()], out), nobody).runs == 1


def test_a_submission_that_was_cut_off_is_withdrawn_by_the_next(slurm, out):
    specs = [spec_of(0), spec_of(1)]

    def die(batch):
        raise KeyboardInterrupt

    slurm.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        submit(request(specs, out), nobody)
    (left,) = batches(out)
    assert left.jobs == ()
    slurm.meanwhile = lambda batch: None
    said = []
    done = submit(request(specs, out), said.append)
    assert slurm.withdrawn == [left.token]
    assert len(said) == 1
    assert left.name in said[0]
    assert done.runs == 2
    assert not left.folder.exists()
    assert [batch.token for batch in batches(out)] == [done.batches[0].token]


def test_unfinished_file_of_a_killed_submission_is_removed_by_the_next(slurm, out):
    for name in ("killed", "killed_later"):
        (out / "jobs" / name).mkdir(parents=True)
        (out / "jobs" / name / ".batch.json.abc123.part").write_text("{")
    (out / "jobs" / "killed_later" / "batch.json.of.somebody").write_text("")
    submit(request([spec_of()], out), nobody)
    assert not list(out.rglob("*.part"))
    assert not (out / "jobs" / "killed").exists()
    assert (out / "jobs" / "killed_later").exists()


def test_nothing_is_handed_over_while_the_cluster_does_not_say_what_it_has(slurm, out):
    submit(request([spec_of(0)], out), nobody)
    slurm.silent = True
    with pytest.raises(SetupError, match="does not answer"):
        submit(request([spec_of(0), spec_of(1)], out), nobody)
    assert len(slurm.submitted) == 1
    with pytest.raises(SetupError, match="does not answer"):
        cancel([spec_of(0)], out)
    slurm.silent = False
    assert submit(request([spec_of(0), spec_of(1)], out), nobody).runs == 1


def test_unwritable_folder_is_refused_before_submission(slurm, out):
    out.write_text("in the way")
    with pytest.raises(SetupError, match="--out"):
        submit(request([spec_of()], out), nobody)
    assert slurm.submitted == []


# --- what jobs are told --------------------------------------------------------------------------------------


def test_what_a_batch_carries(slurm, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = spec_of()
    options = RunOptions(out=out, threads=None, download=True, device="auto")
    asked = Request(
        [spec], options, [tmp_path / "plugin.py"], "slurm", Profile(cpus=3, time="2:00:00"), "a title/of sorts" * 9
    )
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


def test_the_profile_says_where_nodes_find_data_and_what_they_run_on(slurm, out):
    submit(request([spec_of()], out, data_dir="/scratch/data", device="cuda"), nobody)
    options = slurm.submitted[0][0].options
    assert (options["data_dir"], options["device"]) == ("/scratch/data", "cuda")


def test_threads_of_the_command_line_come_first(slurm, out):
    asked = request([spec_of()], out, cpus=4)
    submit(replace(asked, options=replace(asked.options, threads=2)), nobody)
    assert slurm.submitted[0][0].options["threads"] == 2


# --- this machine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jobs", "processes"), [(1, 1), (2, 2), (9, 4)])
def test_processes_of_this_machine_share_all_runs(clusters, out, monkeypatch, jobs, processes):
    monkeypatch.setattr(launch, "_cores", lambda: 6)
    specs = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random")]
    (batch,) = submit(request(specs, out, "local", processes=jobs), nobody).batches
    keys = (base_key(specs[0]), base_key(specs[2]), *(spec.id for spec in specs))
    assert (batch.elements, batch.count, batch.shared) == ((keys,), processes, processes > 1)
    assert batch.options["threads"] == max(1, 6 // processes)
    assert batch.minutes is None
    assert clusters["local"].submitted[0][1] == [[]] * processes


def test_a_debugged_job_is_one(clusters, out):
    (batch,) = submit(request([spec_of(0), spec_of(1)], out, "debug", processes=4), nobody).batches
    assert len(batch.elements) == 1
    assert len(batch.elements[0]) == 2


# --- without handing over ------------------------------------------------------------------------------------


def test_dry_run_prints_submission_and_leaves_nothing(monkeypatch, out):
    monkeypatch.setenv("PATH", "")
    specs = [spec_of(seed, method) for seed in (0, 1) for method in ("l1_norm", "random")]
    found = list(dry_run(request(specs, out, partition="gpu"), nobody))
    assert [[batch.count, all(t["base"] for t in batch.tasks.values())] for batch, _ in found] == [
        [2, True],
        [4, False],
    ]
    for batch, script in found:
        assert batch.name in script
        assert "--partition=gpu" in script
    assert "dependency" not in found[0][1]
    assert "dependency" in found[1][1]
    assert not out.exists()
    assert [script for _, script in dry_run(request(specs, out, "local", processes=2), nobody)] == [""]


def test_a_dry_run_knows_what_is_done(slurm, out):
    leave(out, spec_of(0))
    assert plan_of(out, [spec_of(0)]) == []
    assert plan_of(out, [spec_of(0), spec_of(1)]) == [[spec_of(1).id]]


def plan_of(out, specs):
    asked = request(specs, out)
    before = query_states(specs, out)
    return [list(batch.tasks) for batch, _ in plan(asked, before, to_submit(before, ()), 9, [])]


# --- ending jobs ---------------------------------------------------------------------------------------------


def test_jobs_of_runs_and_of_their_bases_are_ended(slurm, out):
    specs = [spec_of(0), spec_of(0, "random")]
    submit(request([*specs, spec_of(5)], out), nobody)
    expected = {job for batch, _ in slurm.submitted for key in (*specs,) for job in batch.jobs_of(key.id)}
    expected |= set(slurm.submitted[0][0].jobs)
    assert set(cancel(specs, out)) == set(slurm.cancelled) == expected
    assert len(expected) == 3


def test_job_with_other_runs_continues(slurm, out):
    specs = [spec_of(seed) for seed in range(4)]
    submit(request(specs, out, runs_per_job=2), nobody)
    first, second = slurm.submitted[0][0].jobs
    alive = dict(slurm.alive)
    assert cancel(specs[:1], out) == []
    assert cancel(specs[:3], out) == [first]
    slurm.alive |= alive
    assert cancel(specs, out) == [first, second]


def test_of_jobs_that_have_ended_none_is_ended(slurm, out):
    submit(request([spec_of(0), spec_of(1)], out), nobody)
    first, second = slurm.submitted[0][0].jobs
    del slurm.alive[first]
    assert cancel([spec_of(0), spec_of(1)], out) == [second]
    assert cancel([spec_of(7)], out) == []
