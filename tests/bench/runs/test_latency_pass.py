"""A latency pass: each shape once, controls first, what it says and what it refuses. No network is timed here."""

import dataclasses
import math
import statistics

import msgspec
import numpy as np
import pytest
from scipy import stats
from support.quiet_machine import Simulated, always_quiet
from support.timed_shapes import EAGER, Clock, made, measured

from bench.errors import RunFailed
from bench.measure import runtimes
from bench.measure.quiet import Busy, Load
from bench.records.latency import RESTARTS, Restart, Samples, refused, samples_sha256, speedup, times_of
from bench.records.latency_files import add, check_samples, path_of, read, read_samples
from bench.runs import latency_pass
from bench.runs.latency_pass import How, LatencyPass, wanted
from bench.runs.latency_restart import Window


def shapes(clock):
    """Kept units of every task of every process, controls left out."""
    tasks = [task for work in clock.works for task in work.tasks if task.pair == ("dense", "final")]
    return [task.record.structure.widths["0"][1] for task in tasks]


def test_140_records_of_three_shapes_are_three_timings():
    clock = Clock()
    records = [made(kept, seed) for seed in range(50) for kept in (4, 5)] + [made(6, seed) for seed in range(40)]
    lines, _, failures = measured(records, clock=clock)
    assert len(records) == 140
    assert (len(lines), failures) == (3 * 2, {})
    assert sorted(shapes(clock)) == sorted((4, 5, 6) * RESTARTS)
    assert len({line.key for line in lines}) == len(lines)


def test_only_what_is_missing_is_measured(tmp_path):
    file = path_of(tmp_path, wanted_device())
    first, samples, _ = measured([made(4)])
    add(file, first, samples)
    clock = Clock()
    todo = {key: record for key, record in wanted([made(4), made(5)], EAGER).items() if key not in read(file)[0]}
    LatencyPass(EAGER, lambda lines, samples: add(file, lines, samples), always_quiet(), clock).measure(todo)
    assert set(shapes(clock)) == {5}
    lines, problems = read(file)
    assert (len(lines), problems) == (4, [])
    assert [lines[line.key].line_sha256 for line in first] == [read(file)[0][line.key].line_sha256 for line in first]
    assert list(check_samples(lines.values(), read_samples(file))) == []


def wanted_device():
    return next(iter(wanted([made()], EAGER))).device


def test_each_shape_is_timed_in_five_processes_in_another_order_in_each():
    clock = Clock()
    records = [made(kept) for kept in range(1, 8)]
    measured(records, clock=clock)
    controls, rest = clock.works[:RESTARTS], clock.works[RESTARTS:]
    assert all(task.pair == ("dense", "dense") for work in controls for task in work.tasks)
    assert [len(work.tasks) for work in rest] == [7] * RESTARTS
    orders = [tuple(task.record.structure.widths["0"][1] for task in work.tasks) for work in rest]
    assert len(set(orders)) > 1
    again = Clock()
    measured(records, clock=again)
    assert [work.tasks for work in again.works] == [work.tasks for work in clock.works]  # the seed is fixed


def test_the_result_is_the_mean_of_ratios_of_medians_with_a_t_interval():
    lines, samples, _ = measured([made(4)], How(("eager",), (1,), 1, "cpu"))
    [line] = lines
    own = next(one for one in samples if samples_sha256(one) == line.times.samples_sha256)
    ratios = [statistics.median(r.dense_ns) / statistics.median(r.final_ns) for r in own.restarts]
    logs = np.log(ratios)
    half = stats.sem(logs) * stats.t.ppf(0.975, RESTARTS - 1)
    assert line.times.ratio == pytest.approx(ratios)
    assert line.times.speedup == pytest.approx(stats.gmean(ratios))
    assert line.times.speedup_ci95 == pytest.approx(tuple(np.exp(logs.mean() + np.array([-half, half]))))
    assert line.times.final_p90_ms == pytest.approx([np.quantile(r.final_ns, 0.9) / 1e6 for r in own.restarts])
    assert line.times.dense_ms == pytest.approx(stats.gmean([np.median(r.dense_ns) / 1e6 for r in own.restarts]))
    assert line.times.speedup == pytest.approx(2 / 1.5, rel=0.02)  # 8 units against 4, see Clock
    assert line.times.faster


def test_faster_needs_a_lower_end_above_three_percent():
    found = times_of_ratios([1.04, 1.05, 1.06, 1.05, 1.05])
    assert found.speedup_ci95[0] > 1.03 and found.faster
    found = times_of_ratios([1.0, 1.2, 1.1, 1.05, 1.15])
    assert found.speedup > 1.09 and not found.faster
    assert not times_of_ratios([1.02, 1.021, 1.019, 1.02, 1.02]).faster  # certain, and too little


def times_of_ratios(ratios):
    base = [1_000_000 + k for k in range(21)]
    return times_of(Samples([Restart([round(ratio * ns) for ns in base], base) for ratio in ratios]))


def test_the_dense_network_s_own_line_is_its_control():
    clock = Clock()
    lines, _, _ = measured([made(8, method="dense")], clock=clock)
    assert len(clock.works) == RESTARTS  # no more than the controls
    assert all(line.times == line.control for line in lines)
    assert all(line.times.speedup == pytest.approx(1, abs=0.01) for line in lines)


@pytest.mark.parametrize("unequal", [1.05, 1 / 1.05])
def test_a_copy_that_is_not_as_fast_refuses_the_pass(unequal):
    """As on a machine where the network that is timed first has the better place."""

    class Partial(Clock):
        def __call__(self, work):
            for window in super().__call__(work):
                dense = [round(ns * unequal) for ns in window.samples.dense_ns]
                yield Window(window.key, type(window.samples)(dense, window.samples.final_ns), window.load)

    kept = []
    with pytest.raises(RunFailed, match=r"^refused, nothing is kept: two_layers in eager at batch 1: a dense network"):
        measured([made(4)], clock=Partial(), keep=lambda *new: kept.append(new))
    assert kept == []


def test_what_a_control_must_show():
    """Its interval covers 1, at a level for all controls together, and its ratio is within 3 %."""
    sure, wide = times_of_ratios([1.010, 1.011, 1.009, 1.010, 1.012]), times_of_ratios([0.9, 1.0, 1.2, 1.1, 1.0])
    assert "an interval without 1" in refused(sure, 1)
    assert "more than 3 % apart" in refused(wide, 1)
    assert refused(times_of_ratios([0.99, 1.01, 1.0, 1.005, 0.995]), 1) == ""
    edge = times_of_ratios([1.001, 1.004, 1.006, 1.002, 1.008])
    assert "without 1" in refused(edge, 1) and refused(edge, 10) == ""


def test_equal_networks_are_refused_in_one_pass_of_twenty():
    """Noise of 1 % between processes, four controls a pass: the level holds for a pass, not for each control."""
    chance, passes, controls = np.random.default_rng(0), 2000, 4
    ratios = np.exp(chance.normal(0, 0.01, (passes, controls, RESTARTS)))
    wrong = sum(
        any(not low <= 1 <= high for _, low, high in (speedup(r, 1 - 0.05 / controls) for r in of_pass))
        for of_pass in ratios.tolist()
    )
    assert wrong / passes <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / passes)
    assert wrong > 0


def test_a_busy_neighbour_before_the_start_changes_no_file(tmp_path):
    simulated, clock = Simulated(lambda at: 0.8), Clock()
    with pytest.raises(Busy, match=r"^busy: others use 0\.8 cores"):
        measured(
            [made()], clock=clock, keep=lambda *new: add(tmp_path / "d.jsonl", *new), machine=simulated.machine(60)
        )
    assert (clock.works, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("end", [Busy("busy: others use 0.8 cores"), KeyboardInterrupt()])
def test_an_interrupted_pass_keeps_finished_keys(tmp_path, monkeypatch, end):
    """Groups of shapes that are done are in the file; of the group that was disturbed there is nothing."""
    monkeypatch.setattr(latency_pass, "AT_ONCE", 3)
    file, records = path_of(tmp_path, wanted_device()), [made(kept) for kept in range(1, 8)]

    class Disturbed(Clock):
        def __call__(self, work):
            if len(self.works) > 2 * RESTARTS + 1:
                raise end
            yield from super().__call__(work)

    with pytest.raises(type(end)):
        measured(records, clock=Disturbed(), keep=lambda *new: add(file, *new))
    kept, problems = read(file)
    assert (len(kept), problems) == (3 * 2, [])
    clock = Clock()
    left = {key: record for key, record in wanted(records, EAGER).items() if key not in kept}
    LatencyPass(EAGER, lambda *new: add(file, *new), always_quiet(), clock).measure(left)
    assert len(set(shapes(clock))) == 4
    assert read(file)[0].keys() == wanted(records, EAGER).keys()
    assert list(check_samples(read(file)[0].values(), read_samples(file))) == []


def test_the_busiest_window_and_repetitions_are_noted():
    class Uneven(Clock):
        def __call__(self, work):
            for number, window in enumerate(super().__call__(work)):
                load = Load(0.04 if number == 1 else 0.01, 0.002 if number == 0 else 0.0)
                yield Window(window.key, window.samples, load, repeats=len(self.works) % 2)

    small, large = measured([made()], clock=Uneven())[0]
    assert (small.quiet.others_cores, small.quiet.stolen) == (0.01, 0.002)
    assert (large.quiet.others_cores, large.quiet.stolen) == (0.04, 0.0)
    assert small.quiet.repeated == 2  # of the processes 6 to 10


@pytest.fixture
def slow_runtime(monkeypatch):
    """A second compiled runtime."""
    for name in ("onnxruntime", "other"):
        monkeypatch.setitem(runtimes.RUNTIMES, name, dataclasses.replace(runtimes.RUNTIMES["eager"], calls=False))

    def ms(of_other):
        times = {"eager": 10.0, "onnxruntime": 0.5, "other": of_other}
        return Clock(lambda key, kept: times[key.runtime] * (1 + kept / 8), noise=0.0, calls=0.0)

    return ms


def test_a_slow_runtime_is_refused_with_a_hint(slow_runtime):
    """Five times onnxruntime's time for a dense network; eager may take what it takes."""
    how, kept = How(("eager", "onnxruntime", "other"), (1,), 1, "cpu"), []
    with pytest.raises(RunFailed, match=r"other at batch 1 takes 5\.2 ms, in onnxruntime 1: .*ENABLE_CPU_PINN"):
        measured([made()], how, slow_runtime(2.6), keep=lambda *new: kept.append(new))
    assert kept == []
    assert len(measured([made()], how, slow_runtime(2.4))[0]) == 3


def test_what_cannot_be_timed_is_named_and_the_rest_is_measured():
    class Partial(Clock):
        def __call__(self, work):
            for window in super().__call__(work):
                unable = window.key.widths_sha256 == broken and window.key.batch == 64
                yield Window(window.key, None, Load(0, 0), failure="no export") if unable else window

    [_, broken] = [next(iter(wanted([made(kept)], EAGER))).widths_sha256 for kept in (4, 5)]
    clock = Partial()
    lines, _, failures = measured([made(4), made(5)], clock=clock)
    assert [(key.widths_sha256, key.batch, why) for key, why in failures.items()] == [(broken, 64, "no export")]
    assert len(lines) == 3
    last = [key for task in clock.works[-1].tasks for key in task.keys]
    assert len(last) == 3  # it is not tried again


def test_without_a_control_nothing_of_a_network_is_measured():
    class Partial(Clock):
        def __call__(self, work):
            for window in super().__call__(work):
                yield (
                    Window(window.key, None, Load(0, 0), failure="not known here") if window.key.batch == 1 else window
                )

    lines, _, failures = measured([made(4), made(5)], clock=Partial())
    assert {line.key.batch for line in lines} == {64}
    assert list(failures.values()) == ["not known here"] * 2
    assert {key.batch for key in failures} == {1}


def test_what_makes_another_key():
    """Seed and method do not; widths, batch, threads, and layout do."""
    one = next(iter(wanted([made()], EAGER)))
    assert next(iter(wanted([made(4, 3, "random")], EAGER))) == one
    others = [next(iter(wanted([made(5)], EAGER)))]
    others += [
        next(iter(wanted([made()], dataclasses.replace(EAGER, **other))))
        for other in ({"batches": (2,)}, {"threads": 2}, {"timed": "bursts"})
    ]
    plain = msgspec.structs.replace(made(), training=msgspec.structs.replace(made().training, layout="channels_first"))
    others.append(next(iter(wanted([plain], EAGER))))
    assert len({one, *others}) == 6
    onnx = next(iter(wanted([plain], How(("onnxruntime",), (1,), 1, "cpu")))) if has_onnxruntime() else None
    assert onnx is None or onnx.layout == "channels_first"


def has_onnxruntime():
    import importlib.util

    return importlib.util.find_spec("onnxruntime") is not None


def test_nothing_to_measure_needs_no_quiet_machine():
    assert LatencyPass(EAGER, None, Simulated(lambda at: 9.0).machine(0), Clock()).measure({}) == {}
