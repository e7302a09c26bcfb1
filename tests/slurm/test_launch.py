"""Handing runs over: each once, whoever submits and whenever."""

import threading

import pytest
from support.batches import pairs_of, spec_of
from support.submissions import alone, hand_over, leave, request, shapes, states_of, trained

from slurm.batch import Task, base_key, batches
from slurm.cluster import RUNNING, WAITING, TooMany
from slurm.launch import submit, to_submit
from slurm.packing import estimates
from slurm.states import FAILED, LOST, MISSING, query_states


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# --- bases ---------------------------------------------------------------------------------------------------


def test_shared_base_is_a_task_that_its_runs_wait_for(slurm, out):
    shared, lone = pairs_of(2), spec_of(train__epochs=7)
    done = hand_over([*shared, lone], out)
    bases, free, waiting = done.batches
    one, two = bases.jobs
    assert shapes(slurm) == [
        ([[base_key(shared[0])], [base_key(shared[2])]], []),
        alone(lone),
        ([[spec.id] for spec in shared], [[one], [one], [two], [two]]),
    ]
    assert [task["base"] for task in bases.tasks.values()] == [True, True]
    assert done.runs == 5
    assert free.jobs != waiting.jobs


def test_base_of_one_run_or_already_trained_is_no_task(slurm, out):
    hand_over([spec_of(0), spec_of(1)], out)
    assert shapes(slurm) == [alone(spec_of(0), spec_of(1))]
    specs = [spec_of(2), spec_of(2, "random")]
    trained(out, specs[0])
    hand_over(specs, out)
    assert shapes(slurm)[1:] == [alone(*specs)]
    (out / "bases" / "some_base.safetensors").unlink()
    hand_over([spec_of(2, "ddrop"), spec_of(2, "dropnet")], out)
    assert shapes(slurm)[2] == ([[base_key(specs[0])]], [])  # it was deleted


def test_base_of_an_earlier_submission_is_waited_for(slurm, out):
    first = pairs_of(1)
    hand_over(first, out)
    base = slurm.submitted[0][0].jobs[0]
    more = [spec_of(0, "ddrop"), spec_of(0, "uniform_thin")]
    hand_over([*first, *more], out)
    assert shapes(slurm)[2:] == [([[spec.id] for spec in more], [[base]] * 2)]
    hand_over([spec_of(0, "dropnet")], out)  # also where it alone needs it
    assert shapes(slurm)[3:] == [([[spec_of(0, "dropnet").id]], [[base]])]
    slurm.alive.pop(base)
    trained(out, first[0])
    hand_over([spec_of(0, "dense")], out)
    assert shapes(slurm)[4:] == [alone(spec_of(0, "dense"))]


def test_base_of_lost_job_is_trained_again(slurm, out):
    specs = pairs_of(1)
    hand_over(specs, out)
    slurm.alive.clear()
    hand_over(specs, out, "slurm", [LOST])
    again = list(slurm.submitted[2][0].jobs)
    assert shapes(slurm)[2:] == [([[base_key(specs[0])]], []), ([[spec.id] for spec in specs], [again] * 2)]


def test_slurm_job_does_not_wait_for_local_process(clusters, out):
    """Whose number may be that of any job."""
    hand_over(pairs_of(1), out, "local")
    slurm, local = clusters["slurm"], clusters["local"]
    assert {state for state, _ in local.alive.values()} == {WAITING}
    hand_over([spec_of(0, "ddrop"), spec_of(0, "uniform_thin")], out)
    jobs = {job for batch, _ in slurm.submitted for job in batch.jobs}
    assert {job for _, after in slurm.submitted for waited in after for job in waited} <= jobs


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "profile", "count", "sizes"),
    [
        (3, {}, 3, [3]),
        (3, {}, 7, [3, 3, 1]),
        (1001, {"array_size": 3}, 7, [3, 3, 1]),
        (2, {"array_size": 3}, 4, [2, 2]),
    ],
)
def test_arrays_fit_the_cluster_and_the_profile(slurm, out, largest, profile, count, sizes):
    slurm.largest = largest
    specs = [spec_of(seed) for seed in range(count)]
    hand_over(specs, out, **profile)
    assert [batch.count for batch, _ in slurm.submitted] == sizes
    assert [key for batch, _ in slurm.submitted for (key,) in batch.elements] == [spec.id for spec in specs]
    assert all(set(batch.tasks) == {key for (key,) in batch.elements} for batch, _ in slurm.submitted)
    slurm.submitted.clear()
    hand_over(pairs_of(3), out.parent / "pairs", **profile)  # runs of split arrays wait for their own bases
    trainers = {
        base_key(batch.task(key).spec): job
        for batch, _ in slurm.submitted
        for job, (key,) in zip(batch.jobs, batch.elements, strict=True)
        if batch.tasks[key]["base"]
    }
    waits = {
        key: after for batch, every in slurm.submitted for (key,), after in zip(batch.elements, every, strict=True)
    }
    assert all(waits[spec.id] == [trainers[base_key(spec)]] for spec in pairs_of(3))


def test_bases_are_packed_as_runs_are_with_a_process_each(slurm, out):
    node = {"runs_per_job": 2, "runs_at_once": 2, "cpus": 3, "gpus": 4}
    specs = pairs_of(3)
    hand_over(specs, out, **node)
    (bases, _), (runs, after) = slurm.submitted
    keys = [base_key(specs[k]) for k in (0, 2, 4)]
    assert bases.elements == ((keys[0], keys[1]), (keys[2],))
    assert (bases.processes, bases.gpus) == (2, 4)
    assert after == [[bases.jobs[0]], [bases.jobs[0]], [bases.jobs[1]]]
    assert runs.processes == 2
    hand_over([spec_of(9, method) for method in ("l1_norm", "random")], out, **node)
    assert (slurm.submitted[2][0].processes, slurm.submitted[2][0].gpus) == (1, 2)  # a single base


@pytest.mark.parametrize(("jobs", "at_once", "count"), [(3, 1, 3), (3, 2, 3), (9, 2, 4), (1, 8, 1)])
def test_jobs_that_share_one_queue(slurm, out, jobs, at_once, count):
    """Bases first; no job waits for another, since each takes what is ready."""
    specs = [*pairs_of(2), spec_of(0, "ddrop"), spec_of(1, "ddrop")]
    hand_over(specs, out, jobs=jobs, runs_at_once=at_once)
    ((batch, after),) = slurm.submitted
    keys = (base_key(specs[0]), base_key(specs[2]), *(spec.id for spec in specs))
    assert (batch.elements, batch.count, batch.processes) == ((keys,), count, at_once)
    assert after == [[]] * count
    assert set(states_of(specs, out)) == {"waiting"}
    assert hand_over(specs, out, jobs=jobs, runs_at_once=at_once).runs == 0


@pytest.mark.parametrize(("limit", "sizes"), [(5, [5]), (4, [3, 1]), (1, [1]), (11, [6, 3, 2]), (12, [6, 6]), (0, [])])
def test_as_many_jobs_as_a_limit_takes_are_submitted(slurm, out, limit, sizes):
    slurm.largest, slurm.limit = 6, limit
    specs = [spec_of(seed) for seed in range(12)]
    if limit >= 12:
        assert hand_over(specs, out).runs == 12
    else:
        left = f"{limit} of 12 runs are submitted" if limit else "no run was submitted"
        with pytest.raises(TooMany, match=f"; {left}: the same command submits more of them when"):
            hand_over(specs, out)
    accepted = [batch for batch, _ in slurm.submitted]
    assert sum(batch.count for batch in accepted) == sum(sizes)
    assert [key for batch in accepted for (key,) in batch.elements] == [spec.id for spec in specs[: sum(sizes)]]
    assert {batch.token for batch in batches(out)} == {batch.token for batch in accepted}  # nothing half-submitted
    slurm.alive.clear()
    for spec in specs[: sum(sizes)]:
        leave(out, spec)
    slurm.limit = None
    assert hand_over(specs, out).runs == 12 - sum(sizes)


def test_limit_takes_bases_and_fewer_jobs_of_a_queue(slurm, out):
    slurm.limit = 4
    with pytest.raises(TooMany, match="2 of 4 runs are submitted"):
        hand_over(pairs_of(2), out)
    bases, *runs = [batch for batch, _ in slurm.submitted]
    assert bases.count == sum(batch.count for batch in runs) == 2
    assert [jobs for _, after in slurm.submitted[1:] for jobs in after] == [[bases.jobs[0]]] * 2
    slurm.limit = 7
    assert hand_over([spec_of(seed) for seed in range(10, 18)], out, jobs=4).runs == 8
    batch, _ = slurm.submitted[-1]
    assert (batch.count, len(batch.tasks)) == (2, 8)


def test_jobs_have_several_runs_by_number_or_by_records(slurm, out):
    specs = [spec_of(seed) for seed in range(7)]
    hand_over(specs[:5], out, runs_per_job=2)
    assert shapes(slurm) == [([[spec.id for spec in specs[k : min(k + 2, 5)]] for k in (0, 2, 4)], [])]
    leave(out, spec_of(99))  # a minute
    assert estimates(out)(spec_of(0)) == 60
    hand_over([spec_of(seed, "random") for seed in range(7)], out, minutes_per_job=3)
    assert [len(keys) for keys in shapes(slurm)[1][0]] == [3, 3, 1]


# --- each once -----------------------------------------------------------------------------------------------


def test_second_submission_hands_over_what_is_missing(slurm, out):
    specs = [spec_of(seed) for seed in range(4)]
    assert hand_over(specs[:2], out).runs == 2
    again = hand_over(specs[:2], out)
    assert (again.runs, again.batches) == (0, [])
    assert again.before.counts()["waiting"] == 2
    slurm.alive[slurm.submitted[0][0].jobs[0]] = (RUNNING, "")
    leave(out, specs[2], "interrupted")
    done = hand_over([*specs, *pairs_of(1)], out)
    assert [list(batch.tasks) for batch in done.batches] == [[specs[2].id, specs[3].id, spec_of(0, "random").id]]
    for spec in specs:
        leave(out, spec)
    assert hand_over(specs, out).runs == 0


def test_failed_lost_and_done_are_handed_over_on_demand(slurm, out):
    failed, lost, cancelled, done = specs = [spec_of(seed) for seed in range(4)]
    hand_over([lost, cancelled], out)
    slurm.ended = {slurm.submitted[0][0].jobs[1]: "CANCELLED by 0"}
    slurm.alive.clear()
    sha256 = {spec.id: leave(out, spec, status) for spec, status in ((failed, "failed"), (done, "ok"))}
    before = query_states(specs, out)
    assert [state.state for state in before.states] == [FAILED, LOST, MISSING, "done"]
    assert [state.spec for state in to_submit(before, ())] == [cancelled]
    assert [state.spec for state in to_submit(before, [FAILED])] == [failed, cancelled]
    assert list(hand_over(specs, out).batches[0].tasks) == [cancelled.id]
    (batch,) = hand_over(specs, out, "slurm", [FAILED, LOST]).batches
    assert set(batch.tasks) == {failed.id, lost.id}
    method = batch.task(failed.id).method_sha256
    assert batch.task(failed.id) == Task(failed, replaces=sha256[failed.id], method_sha256=method)
    assert batch.task(lost.id).replaces is None
    assert hand_over(specs, out, "slurm", [FAILED, LOST]).runs == 0  # they wait
    (batch,) = hand_over([done], out, "slurm", ["done", FAILED, LOST]).batches
    assert batch.task(done.id).replaces == sha256[done.id]
    assert hand_over([done], out, "slurm", ["done", FAILED, LOST]).runs == 0


def test_two_who_submit_at_once_hand_over_each_run_once(slurm, out):
    specs = [spec_of(seed) for seed in range(3)]
    inside, resume = threading.Event(), threading.Event()

    def wait(batch):
        inside.set()
        assert resume.wait(30)

    slurm.meanwhile = wait
    done, said = [], []
    threads = [threading.Thread(target=lambda: done.append(submit(request(specs, out), said.append))) for _ in range(2)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    while not said:
        threads[1].join(0.01)
    resume.set()
    for thread in threads:
        thread.join(30)
    assert said == ["waiting for another submission to the same folder"]
    assert sorted(one.runs for one in done) == [0, 3]
    assert len(slurm.submitted) == 1
