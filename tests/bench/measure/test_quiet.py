"""When a machine is quiet, how long it is waited for, and what happens to a disturbed window: by a simulated clock."""

import pytest
from support.quiet_machine import Simulated

from bench.errors import SetupError
from bench.measure import quiet
from bench.measure.quiet import REPEATS, Busy, CpuTimes, Load


def until(end, cores):
    """Others that stop at some time."""
    return lambda at: cores if at < end else 0.0


def test_a_quiet_machine_is_watched_for_five_seconds():
    simulated = Simulated()
    simulated.machine().wait()
    assert simulated.at == pytest.approx(5)
    assert simulated.said == []


def test_a_busy_machine_is_waited_for_with_a_line_every_thirty_seconds():
    simulated = Simulated(until(100, 0.8))
    simulated.machine().wait()
    assert 100 <= simulated.at <= 110
    assert simulated.said == [
        f"waiting for a quiet machine, {600 - at} s at most: others use 0.8 cores" for at in (5, 35, 65, 95)
    ]


def test_no_longer_than_asked():
    simulated = Simulated(lambda at: 0.8)
    with pytest.raises(Busy, match=r"^busy: others use 0\.8 cores; .*--wait") as raised:
        simulated.machine(60).wait()
    assert raised.value.exit_code == 3
    assert 55 <= simulated.at <= 60


def test_no_wait_at_all_still_looks():
    simulated = Simulated(lambda at: 0.8)
    with pytest.raises(Busy):
        simulated.machine(0).wait()
    assert simulated.at == pytest.approx(5)
    Simulated().machine(0).wait()


@pytest.mark.parametrize(("cores", "quiet"), [(0.04, True), (0.06, False)])
def test_a_twentieth_of_a_core_is_the_limit(cores, quiet):
    simulated = Simulated(lambda at: cores)
    if quiet:
        simulated.machine(0).wait()
    else:
        with pytest.raises(Busy, match=r"others use 0\.06 cores"):
            simulated.machine(0).wait()


def test_stolen_time_disturbs_too():
    Simulated(stolen=0.009).machine(0).wait()
    with pytest.raises(Busy, match=r"takes 2\.0 % of the CPU time away"):
        Simulated(stolen=0.02).machine(0).wait()


def test_own_work_is_no_disturbance():
    simulated = Simulated()
    value, load, repeats = simulated.machine().undisturbed(lambda: simulated.pass_time(2, own=1.0) or "samples")
    assert (value, repeats) == ("samples", 0)
    assert load.quiet
    assert load.others == pytest.approx(0, abs=1e-9)


def test_a_disturbed_window_is_timed_again_when_all_is_quiet():
    simulated = Simulated(lambda at: 1.0 if 3 <= at < 20 else 0.0)
    began = []

    def window():
        began.append(simulated.at)
        simulated.pass_time(2, own=1.0)
        return len(began)

    machine = simulated.machine()
    assert machine.undisturbed(window)[::2] == (1, 0)
    assert machine.undisturbed(window)[::2] == (3, 1)  # the second was disturbed from its middle on
    assert began[2] >= 25
    assert simulated.said


def test_a_window_is_repeated_three_times_at_most():
    """Others that work whenever something is timed, and never while it is waited."""
    simulated = Simulated()
    count = []

    def window():
        count.append(1)
        simulated.busy += 1
        simulated.pass_time(2)

    with pytest.raises(Busy, match=r"^busy: others use 0\.5 cores while a network was timed, 4 times"):
        simulated.machine().undisturbed(window)
    assert len(count) == REPEATS + 1 == 4


def test_counters_of_the_system(tmp_path, monkeypatch):
    """Busy are all but idle and waiting; time of guests is counted within that of users."""
    file = tmp_path / "stat"
    monkeypatch.setattr(quiet, "STAT", file)
    monkeypatch.setattr(quiet.os, "sysconf", lambda name: 100)
    file.write_text("cpu  1 20 300 4000 50000 600 7000 800 1 20\ncpu0 0 0\ncpu1 0 0\nintr 5\n")
    found = quiet.read_cpu_times()
    assert (found.busy, found.stolen, found.cores) == (pytest.approx(79.21), 8.0, 2)
    assert found.own > 0
    file.write_text("cpu  1 20\n")
    with pytest.raises(SetupError, match="Linux only"):
        quiet.read_cpu_times()


def test_load_is_a_rate():
    load = Load.between(CpuTimes(1, 10, 0, 5, 2), CpuTimes(3, 14, 0.08, 8, 2))
    assert (load.others, load.stolen) == (0.5, pytest.approx(0.02))
