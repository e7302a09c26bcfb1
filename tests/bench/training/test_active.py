"""Methods after the prune: their hooks, what they may not do, resumes, records; cuts that are tuned before it."""

import pytest
import torch
from support.networks import GREY, three_sites
from support.paths import PLUGINS
from support.plans import carry_out, check_resume, prune, same
from support.plugins import outcomes

from bench.api import PRUNE, Method, Phase
from bench.conformance.subject import Subject, difference
from bench.errors import RunFailed, UsageError
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.spec.registry import METHODS
from leaderboard.render.record_summary import summary

PLUGIN = PLUGINS / "active.py"


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
    carry_out(training, PLAN, prune)
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


def test_part_after_the_prune_acts_on_the_slice_alone(folder, monkeypatch):
    plain, composed = (Subject(name, folder).run() for name in ("l1_norm", "pulls_after+l1_norm"))
    one, two = (r.done.now.prune_result["pruned"] for r in (plain, composed))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert "weights" not in difference(plain, composed)
    norms = [sum(s.rows().norm() for s in run.done.ctx.sites.values()) for run in (composed, plain)]
    assert norms[0] < norms[1]
    monkeypatch.setattr(METHODS.get("pulls_after"), "strength", 0.0)
    composed = Subject("l1_norm+pulls_after", folder).run()
    for entry in composed.done.curve:
        assert entry.pop("widths") == sum(composed.done.ctx.sites.widths.values())
        assert entry.pop("steps") > 0
    assert difference(plain, composed) is None


NAMES = ("pulls_after+l1_norm", "taylor+drops_always", "drops_always", "cuts_layer_by_layer")
CHECKS = ("state", "nothing_left_after_an_error")


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        (NAMES[0], CHECKS),
        *(pytest.param(name, (*CHECKS, "resume", "nothing_left"), marks=pytest.mark.slow) for name in NAMES),
    ],
)
def test_active_method_keeps_the_contract(name, checks):
    assert {outcome for outcome, _ in outcomes(name, *checks).values()} == {"ok"}


def test_numbers_of_units_follow_the_prune(folder):
    run = Subject("drops_always", folder).run()
    model, widths = run.done.model, run.done.ctx.sites.widths
    assert {n: len(v) for n, v in model.per_unit["seen"].items()} == widths
    assert {n: len(v) for n, v in model.tracked.items()} == widths
    first, last = (run.done.curve[k] for k in (0, -1))
    assert all(last[f"tracked {n}"] != first[f"tracked {n}"] for n in widths)


@pytest.fixture
def check_stops(make_training, tmp_path):
    """Checks that a method resumes to the bit, and returns its uninterrupted training."""

    def check(name, *plan):
        def start(checkpoint):
            torch.manual_seed(0)
            return make_training(make_method(name, {}), arch=three_sites(), shape=GREY, checkpoint=checkpoint)

        return check_resume(start, plan, tmp_path / name)

    return check


@pytest.mark.parametrize("name", ["drops_always", "pulls_after+l1_norm"])
def test_active_method_resumes_to_the_bit(check_stops, name):
    check_stops(name, Phase(1), PRUNE, Phase(2, "finetune"))


def test_numbers_of_units_follow_a_shrink_and_a_resume(check_stops):
    one, two = (
        check_stops(name, Phase(1), Phase(2), PRUNE) for name in ("numbers_follow_a_shrink", "buffer_follows_a_shrink")
    )
    assert same(one.model.sliced_by, two.model.sliced_by)
    assert one.curve == two.curve


@pytest.mark.parametrize(
    "call", ["masks", "shrink", "rewind", "insert", "select", "scores", "stop_search", "track", "per_unit"]
)
def test_what_is_decided_at_the_prune_is_refused_afterwards(make_training, call, monkeypatch):
    monkeypatch.setattr(METHODS.get("asks_after"), "call", call)
    training = make_training(make_method("asks_after", {}), arch="mlp_40_40")
    with pytest.raises(RunFailed, match=rf"^ctx\.{call} in on_phase_end after the prune: what is kept is decided$"):
        carry_out(training, (PRUNE, Phase(1, "finetune")), prune)


def test_part_that_acts_after_the_prune_needs_one():
    with pytest.raises(UsageError, match=r"^pulls_after acts after the prune, and in dense\+pulls_after nothing is"):
        make_method("dense+pulls_after", {})


# --- records -------------------------------------------------------------------------------------------------------


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


def test_failure_after_the_prune_is_blamed_on_the_method(make_run):
    with pytest.raises(RunFailed, match=r"l1_norm\+fails_after failed \(RuntimeError: no, active.py:\d+\)"):
        execute(*make_run("l1_norm+fails_after"))


def test_pruned_row_is_empty_where_a_cut_was_tuned_before(make_run):
    tuned, at_once = (
        execute(*make_run(name, "mlp_40_40", "tiny8")) for name in ("cuts_layer_by_layer", "cuts_twice_at_once")
    )
    assert all(store.seal(done) == done for done in (tuned, at_once))
    assert tuned.metrics.pruned is None
    assert "pruned, not fine-tuned" not in summary(tuned)
    assert at_once.metrics.pruned.loss != at_once.metrics.final.loss  # nothing is tuned between the cuts
