"""Budgets of milliseconds with a runtime of known times: the fit, the solver, the rounds."""

import dataclasses
import os

import numpy as np
import pytest
from scipy import optimize, stats
from support.fake_runtime import FakeRuntime, all_vectors, by_brute_force, chain, random_choices, random_model, small

from bench.errors import RunFailed, UsageError
from bench.pruning import latency_solver
from bench.pruning.latency_model import Timed, fitted
from bench.pruning.latency_rounds import Asked, Measured, interval, rounds
from bench.pruning.latency_solver import Choices, best, narrowest
from bench.pruning.latency_terms import DENSE_COPIES, OUTSIDE, Term, Terms

PROBLEMS = 200


def share(value):
    return Asked(value, None, f"--keep-latency {value:g}", "a fake runtime at batch 1")


@pytest.fixture(scope="module")
def network():
    return chain(kinds=4, places=2, width=48)


@pytest.fixture(scope="module")
def gains(network):
    rng = np.random.default_rng(1)
    return Choices(tuple(rng.random(len(g)).cumsum() for g in network.grid), np.zeros(0), {})


def solver_is_brute_force(problems):
    rng = np.random.default_rng(7)
    for number in range(problems):
        terms = small(rng, paired=number % 2, blocks=number // 2 % 2)
        model, choices = random_model(terms, rng), random_choices(terms, rng)
        target = rng.uniform(0.3, 1.02) * model.dense_ms
        found, expected = best(model, choices, target), by_brute_force(model, choices, target)
        assert (found is None) == (expected == -np.inf)
        if found is not None:
            assert model.ms(found.tolist()) <= target * (1 + 1e-6)
            assert choices.worth(terms, found) == pytest.approx(expected, rel=1e-8)
        allowed = [model.ms(v.tolist()) for v in all_vectors(terms) if choices.worth(terms, v) > -np.inf]
        if allowed:
            assert model.ms(narrowest(model, choices).tolist()) == pytest.approx(min(allowed))
        else:
            with pytest.raises(UsageError, match="no widths of the table may be kept"):
                narrowest(model, choices)


def test_l1_solver_is_brute_force():
    """Separable and paired, with and without blocks."""
    solver_is_brute_force(12)


@pytest.mark.slow
def test_l1_solver_is_brute_force_on_many():
    solver_is_brute_force(PROBLEMS)


def worst_error(drawn, copies):
    """Median error of random vectors, the worst of several machines."""
    terms, worst = chain(), 0.0
    networks = terms.networks()
    sweeps = networks[DENSE_COPIES : DENSE_COPIES + len(terms.sweeps())]
    others = networks[DENSE_COPIES + len(sweeps) :] if drawn else []
    for seed in range(3):
        runtime = FakeRuntime(terms, seed)
        model = fitted(terms, runtime.table([*networks[:copies], *sweeps, *others]))
        unseen = terms.drawn(40, seed=seed + 100)
        worst = max(worst, float(np.median([abs(model.ms(v.tolist()) / runtime.true(v) - 1) for v in unseen])))
    return worst


def test_l2_fit_finds_the_constant():
    """20 kinds, each copy with a bias: a dense time that is wrong would count 20 times."""
    assert worst_error(drawn=True, copies=DENSE_COPIES) < 0.05 < worst_error(drawn=False, copies=1)


@pytest.mark.parametrize("slower", [0.94, 1.06])
def test_l3_table_that_is_off_is_corrected(network, gains, slower):
    model_of = FakeRuntime(network).table(network.networks())
    runtime = FakeRuntime(network, 5, slower=slower, constant=0.4 * slower**3)
    for asked in (0.9, 0.7):
        done = rounds(share(asked), fitted(network, model_of), model_of, gains, runtime.measure)
        last = done[-1].measured
        assert len(done) <= 3 and last.ms / last.dense_ms == pytest.approx(asked, rel=0.03)
    milliseconds = 0.7 * runtime.true(network.dense)
    asked = Asked(None, milliseconds, f"--latency-ms {milliseconds:g}", "a fake runtime at batch 1")
    done = rounds(asked, fitted(network, model_of), model_of, gains, runtime.measure)
    assert 1 < len(done) <= 3 and done[-1].measured.ms == pytest.approx(milliseconds, rel=0.03)


def test_l3_runtime_that_ignores_widths_is_not_met(network, gains):
    timed = FakeRuntime(network).table(network.networks())
    runtime = FakeRuntime(network, 5, slower=0.0, constant=2.0)
    why = r"^--keep-latency 0\.7 not met in a fake runtime at batch 1 after 3 rounds: round 1: .* predicted, measured"
    with pytest.raises(RunFailed, match=why) as failed:
        rounds(share(0.7), fitted(network, timed), timed, gains, runtime.measure)
    assert str(failed.value).count("round ") == len(runtime.measured) == 3


def test_l4_a_larger_budget_is_never_worth_less(network, gains):
    model = fitted(network, FakeRuntime(network).table(network.networks()))
    least = model.ms(narrowest(model, gains).tolist())
    targets = np.linspace(least, model.dense_ms, 12)
    worth = [gains.worth(network, best(model, gains, target)) for target in targets]
    assert worth == sorted(worth) and worth[0] < worth[-1]
    assert worth[-1] == pytest.approx(gains.worth(network, np.array(network.dense)))


def test_what_cannot_be_met_is_refused(network, gains):
    timed = FakeRuntime(network).table(network.networks())
    model, runtime = fitted(network, timed), FakeRuntime(network)
    least, dense = model.ms(narrowest(model, gains).tolist()) / model.dense_ms, model.dense_ms
    why = f"the narrowest widths take {least:.2f} of the dense {dense:.2f} ms; use --coupling full or --units both"
    with pytest.raises(UsageError, match=f"^--keep-latency 0.1: cannot be met in a fake runtime at batch 1: {why}$"):
        rounds(share(0.1), model, timed, gains, runtime.measure)
    with pytest.raises(UsageError, match=f"^--latency-ms 50: the dense network takes {dense:.2f} ms already$"):
        rounds(Asked(None, 50.0, "--latency-ms 50", "it"), model, timed, gains, runtime.measure)
    with pytest.raises(UsageError, match="site site0: width 12 is not in the table, which has 8, 16, 24"):
        model.ms([12, *network.dense[1:]])
    assert not runtime.measured


def test_blocks_alone_come_as_near_as_they_can():
    """Of two blocks one goes: without any the network would take longer than asked, with both it takes less."""
    terms = dataclasses.replace(small(np.random.default_rng(3), paired=False, blocks=True), terms=())
    terms = dataclasses.replace(terms, names=(), dense=(1, 1), grid=(), inside=(), blocks=(("blocks", (0, 1)),))
    runtime = FakeRuntime(terms, bias=0, noise=0)
    timed = runtime.table(terms.networks())
    choices = Choices((), np.array([1.0, 1.1]), {(0, 1): 0})
    done = rounds(share(0.95), fitted(terms, timed), timed, choices, runtime.measure)
    assert done[-1].vector == (0, 1) and done[-1].measured.ms == pytest.approx(0.46)


def test_a_faster_network_stays_where_the_next_step_is_too_slow():
    """Of one site with two widths: what was asked lies between them."""
    terms = Terms(("a",), (), (16,), ((8, 16),), (OUTSIDE,), (), (Term(0, (0,), OUTSIDE),))
    timed, measured = [Timed((16,), 1.0), Timed((8,), 0.5)], []

    def measure(vector):
        measured.append(int(vector[0]))
        return Measured(vector[0] / 16, 1.0, 0.4, 0.6)

    choices = Choices((np.array([1.0, 2.0]),), np.zeros(0), {})
    done = rounds(share(0.8), fitted(terms, timed), timed, choices, measure)
    assert measured == [8, 16] and [each.vector for each in done] == [(16,), (8,)]


def test_interval_is_that_of_students_t():
    ratios = [0.61, 0.6, 0.63, 0.59, 0.6]
    logs = np.log(ratios)
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    assert interval(ratios) == pytest.approx((np.exp(low), np.exp(high)))


def test_the_solver_prints_nothing(network, gains, monkeypatch, capfd):
    """HiGHS has a line that no option turns off, and stdout may be JSON."""

    def milp(*given, **named):
        os.write(1, b"a line of its debugging")
        return optimize.milp(*given, **named)

    monkeypatch.setattr(latency_solver, "milp", milp)
    narrowest(fitted(network, FakeRuntime(network).table(network.networks())), gains)
    print("after")
    assert capfd.readouterr().out == "after\n"
