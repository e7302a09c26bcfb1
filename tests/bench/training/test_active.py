"""Methods after the prune: their hooks, what they may not do, resumes, records; cuts that are tuned before it."""

import pytest
import torch
from support.paths import PLUGINS
from support.plans import carry_out
from support.plugins import known

from bench.api import PRUNE, Method, Phase
from bench.conformance import tiny_networks
from bench.conformance.runner import examine
from bench.conformance.subject import Subject, difference
from bench.errors import RunFailed, UsageError
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.spec.registry import METHODS, add_plugin
from leaderboard.render.record_summary import summary

PLUGIN = PLUGINS / "active.py"


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    with known(PLUGIN, tiny_networks.__file__):
        yield


def result(name, check):
    (found,) = examine(name, [check]).results
    return found.outcome, found.detail


class Logging(Method):
    """Notes its hooks and the phase in which they run."""

    def __init__(self, active):
        super().__init__()
        self.active, self.calls = active, []


def noting(hook):
    def note(self, ctx):
        self.calls.append((hook, ctx.phase))
        return 0.0

    return note


for hook_name in ("prepare", "on_phase_start", "penalty", "on_epoch_end", "on_phase_end", "finalize"):
    setattr(Logging, hook_name, noting(hook_name))
PLAN = (Phase(1), PRUNE, Phase(1, "finetune"), Phase(0, "finetune"))


@pytest.mark.parametrize(("active", "phases"), [("before", {0}), ("after", {2, 3}), ("always", {0, 2, 3})])
def test_hooks_run_in_the_phases_of_active(make_training, active, phases):
    method = Logging(active)
    training = make_training(method, arch="mlp_40_40", batch_size=96)
    carry_out(training, PLAN, lambda t: t.model.slice(t.ctx.select()))
    training.finalize(last=True)
    calls = method.calls
    for hook in ("on_phase_start", "on_phase_end"):
        assert {phase for called, phase in calls if called == hook} == phases
    for hook in ("penalty", "on_epoch_end"):
        assert [phase for called, phase in calls if called == hook] == sorted(phases & {0, 2})
    assert [call for call in calls if call[0] in ("prepare", "finalize")] == [
        ("prepare", 0),
        ("finalize", 1 if active == "before" else 3),
    ]


# --- what it does --------------------------------------------------------------------------------------------------


def test_part_of_no_weight_is_bit_equal_to_the_method_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(METHODS.get("pulls_after"), "strength", 0.0)
    plain, composed = (Subject(name, tmp_path).run() for name in ("l1_norm", "l1_norm+pulls_after"))
    for entry in composed.done.curve:
        assert entry.pop("widths") == sum(composed.done.ctx.sites.widths.values())
        assert entry.pop("steps") > 0
    assert difference(plain, composed) is None


def test_part_after_the_prune_acts_on_the_sliced_network(tmp_path):
    plain, composed = (Subject(name, tmp_path).run() for name in ("l1_norm", "pulls_after+l1_norm"))
    one, two = (r.done.now.prune_result["pruned"] for r in (plain, composed))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert "weights" not in difference(plain, composed)
    norms = [sum(s.rows().norm() for s in run.done.ctx.sites.values()) for run in (composed, plain)]
    assert norms[0] < norms[1]


@pytest.mark.parametrize("name", ["pulls_after+l1_norm", "taylor+drops_always", "drops_always", "cuts_layer_by_layer"])
@pytest.mark.parametrize("check", ["resume", "state", "nothing_left", "nothing_left_after_an_error"])
def test_active_method_keeps_the_contract(name, check):
    assert result(name, check)[0] == "ok"


def test_numbers_of_units_follow_the_prune(tmp_path):
    run = Subject("drops_always", tmp_path).run()
    model, widths = run.done.model, run.done.ctx.sites.widths
    assert {n: len(v) for n, v in model.per_unit["seen"].items()} == widths
    assert {n: len(v) for n, v in model.tracked.items()} == widths
    first, last = (run.done.curve[k] for k in (0, -1))
    assert all(last[f"tracked {n}"] != first[f"tracked {n}"] for n in widths)


@pytest.mark.parametrize("name", ["numbers_follow_a_shrink", "buffer_follows_a_shrink"])
def test_numbers_of_units_follow_a_shrink_and_a_resume(name, tmp_path):
    assert result(name, "resume")[0] == "ok"
    other = {"numbers_follow_a_shrink": "buffer_follows_a_shrink"}.get(name, "numbers_follow_a_shrink")
    assert difference(*(Subject(n, tmp_path).run() for n in (name, other))) is None


@pytest.mark.parametrize(
    "call", ["masks", "shrink", "rewind", "insert", "select", "scores", "stop_search", "track", "per_unit"]
)
def test_what_is_decided_at_the_prune_is_refused_afterwards(call, tmp_path, monkeypatch):
    monkeypatch.setattr(METHODS.get("asks_after"), "call", call)
    with pytest.raises(RunFailed, match=rf"^ctx\.{call} in on_phase_end after the prune: what is kept is decided$"):
        Subject("asks_after+l1_norm", tmp_path).run()


def test_part_that_acts_after_the_prune_needs_one():
    with pytest.raises(UsageError, match=r"^pulls_after acts after the prune, and in dense\+pulls_after nothing is"):
        make_method("dense+pulls_after", {})


# --- records -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _own_plugins_in_runs(plugins):
    add_plugin(str(PLUGIN))


@pytest.mark.usefixtures("_own_plugins_in_runs")
def test_record_names_who_acts_after_the_prune(make_run):
    done = execute(*make_run("l1_norm+pulls_after"))
    plain = execute(*make_run("l1_norm"))
    assert store.seal(done) == done
    assert [step if step == "prune" else step.active for step in done.training.plan] == [
        "prune",
        ["pulls_after"],
    ]
    assert done.metrics.pruned == plain.metrics.pruned
    assert done.metrics.final.loss != plain.metrics.final.loss


@pytest.mark.usefixtures("_own_plugins_in_runs")
def test_failure_after_the_prune_is_blamed_on_the_method(make_run):
    with pytest.raises(RunFailed, match=r"l1_norm\+fails_after failed \(RuntimeError: no, active.py:\d+\)"):
        execute(*make_run("l1_norm+fails_after"))


@pytest.mark.usefixtures("_own_plugins_in_runs")
def test_pruned_row_is_empty_where_a_cut_was_tuned_before_the_prune(make_run):
    done = execute(*make_run("cuts_layer_by_layer", "mlp_40_40", "tiny8"))
    assert store.seal(done) == done
    assert done.metrics.pruned is None
    assert "pruned, not fine-tuned" not in summary(done)


@pytest.mark.usefixtures("_own_plugins_in_runs")
def test_pruned_row_is_measured_after_cuts_with_nothing_tuned_between(make_run):
    done = execute(*make_run("cuts_twice_at_once", "mlp_40_40", "tiny8"))
    assert store.seal(done) == done
    assert done.metrics.pruned.loss != done.metrics.final.loss
