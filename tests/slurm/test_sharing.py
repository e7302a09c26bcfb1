"""Processes that share GPUs: which GPU is whose, and how many gain from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.sharing import Sharing, dealt, gpus_here

WHOLE = 80


def test_gpus_of_a_job():
    for names, count, gpus in [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("4, 6", 8, ["4", "6"]),  # SLURM's own word counts
        ("GPU-8932f937,MIG-fa2e84b1", 2, ["GPU-8932f937", "MIG-fa2e84b1"]),
        ("", 2, ["0", "1"]),
        (None, 0, []),
    ]:
        assert gpus_here({} if names is None else {"CUDA_VISIBLE_DEVICES": names}, count) == gpus


@given(st.integers(1, 16), st.integers(1, 64))
def test_gpus_are_dealt_out_evenly_to_neighbours(gpus, processes):
    names = [f"{number:02}" for number in range(gpus)]
    dealt_out = dealt(names, processes)
    assert len(dealt_out) == processes
    assert all(dealt_out)
    assert {name for mine in dealt_out for name in mine} == set(names)
    assert dealt_out == sorted(dealt_out)  # neighbours share a GPU
    uses = [sum(name in mine for mine in dealt_out) for name in names]
    assert max(uses) - min(uses) <= 1
    assert dealt([], processes) == [[]] * processes
    assert dealt(list("012"), 2) == [["0"], ["1", "2"]]
    assert dealt(list("01"), 3) == [["0"], ["0"], ["1"]]


def train(sharing, seconds, used, epochs=40, kinds=("a",)):
    """Epochs in turn of as many processes as the GPU should have; ``seconds(n)`` and ``used(n)`` with n of them."""
    for number in range(epochs):
        n = sharing.count
        memory = None if used is None else (WHOLE - used(n), WHOLE)
        for worker in range(n):
            sharing.epoch(worker, kinds[number % len(kinds)], seconds(n), memory)
            if sharing.settled or sharing.count != n:
                break
    return sharing.count


def little(n):
    return n


@pytest.mark.parametrize(
    ("seconds", "used", "most", "count"),
    [
        (lambda n: 1.0, little, 4, 4),  # a GPU that is mostly idle
        (lambda n: 1.0 * n, little, 8, 1),  # one process keeps it busy
        (lambda n: max(1.0, n / 3), little, 8, 3),  # three do
        (lambda n: 1.0 + 0.5 * (n - 1), little, 8, 4),  # 1.33, 1.13, 1.07 and then 1.04 times as much
        (lambda n: 1.0, lambda n: 30 * n, 8, 2),  # 30 of 80 each: a third does not fit
        (lambda n: 1.0, lambda n: 70 * n, 8, 1),
        (lambda n: 1.0, None, 8, 1),  # how much memory there is nobody knows
        (lambda n: 1.0, little, 1, 1),
    ],
)
def test_as_many_processes_as_gain_and_fit(seconds, used, most, count):
    sharing = Sharing(most)
    assert (train(sharing, seconds, used), sharing.settled) == (count, True)
    assert sharing.why


def test_kinds_of_epochs_are_not_compared_with_each_other():
    """A short kind must not pass for a gain, a long one not for a loss."""
    sharing = Sharing(2)
    for _ in range(4):
        sharing.epoch(0, "long", 10.0, (70, WHOLE))
    assert sharing.count == 2
    for worker in (0, 1) * 20:
        sharing.epoch(worker, "short", 1.0, (60, WHOLE))
    assert not sharing.settled  # nothing is known of the short ones alone
    for worker in (0, 1) * 4:
        sharing.epoch(worker, "long", 20.0, (60, WHOLE))
    assert (sharing.count, sharing.settled) == (1, True)


def test_first_epoch_of_a_process_after_a_change_is_ignored():
    """Part of it passed before, or while the others were starting."""
    sharing = Sharing(2)
    for _ in range(4):
        sharing.epoch(0, "a", 1.0, (70, WHOLE))
    sharing.epoch(0, "a", 100.0, (60, WHOLE))
    sharing.epoch(0, "a", 100.0, (60, WHOLE))  # the other has not begun to train
    sharing.epoch(1, "a", 100.0, (60, WHOLE))
    for worker in (0, 1) * 3:
        sharing.epoch(worker, "a", 1.0, (60, WHOLE))
    assert (sharing.count, sharing.settled) == (2, True)


def test_process_without_memory_is_one_too_many():
    sharing = Sharing(8)
    train(sharing, lambda n: 1.0, little, epochs=12)
    before = sharing.count
    assert before > 2
    sharing.full()
    assert (sharing.count, sharing.settled) == (before - 1, True)
    train(sharing, lambda n: 1.0, little)
    assert sharing.count == before - 1
    alone = Sharing(8)
    alone.full()
    assert alone.count == 1
