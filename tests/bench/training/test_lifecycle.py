"""The order of a run: starting weights, prepare, phases and their hooks, the optimizer, the prune."""

import pytest
import torch
from support.paths import PLUGINS
from support.plans import carry_out
from support.plugins import known

from bench.api import PRUNE, Method, Phase
from bench.conformance import tiny_networks
from bench.conformance.runner import examine
from bench.conformance.subject import Subject
from bench.errors import RunFailed

PLUGIN = PLUGINS / "lifecycle.py"


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    with known(PLUGIN, tiny_networks.__file__):
        yield


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in two)


def state_of(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def result(name, check):
    """Outcome and line of one check of the battery."""
    (found,) = examine(name, [check]).results
    return found.outcome, found.detail


# --- starting weights ----------------------------------------------------------------------------------------------

FROM_BASE = ["keeps_a_teacher", "sets_a_threshold", "remembers_the_start"]


@pytest.mark.parametrize("arch", ["check_residual", "check_mlp"])
@pytest.mark.parametrize("name", [*FROM_BASE, "ddrop"])
def test_prepare_sees_the_starting_weights(name, arch, tmp_path):
    seen = []

    def watch(hook, ctx, call):
        if hook == "prepare":
            seen.append((state_of(ctx._model.network), dict(ctx._model.snapshots)))
        return call()

    run = Subject(name, tmp_path).run(arch=arch, watch=watch)
    ((found, snapshots),) = seen
    assert not same(snapshots["init"], snapshots["base"])
    assert same(found, snapshots[run.method.starts_from])


def test_teacher_of_prepare_is_the_base_after_training(tmp_path):
    run = Subject("keeps_a_teacher", tmp_path).run()
    assert same(run.method.teacher.state_dict(), run.base.state)


def test_threshold_of_prepare_is_that_of_the_base(tmp_path):
    run = Subject("sets_a_threshold", tmp_path).run()
    rows = [run.base.state[f"{site}.weight"].flatten(1).norm(dim=1) for site in run.sites]
    assert run.done.curve[-2]["threshold"] == torch.cat(rows).median().item()


@pytest.mark.parametrize("name", FROM_BASE)
def test_resumed_prepare_sees_the_base_again(name):
    assert result(name, "resume") == ("ok", "4 stops")


# --- what is trained -----------------------------------------------------------------------------------------------

MOVES = ["shrinks_at_the_start", "shrinks_at_both_ends", "inserts_for_the_second_phase", "inserts_at_the_end"]
MOVES += ["goes_back_in_steps"]


@pytest.mark.parametrize("name", MOVES)
def test_network_changes_and_resumes_whatever_a_hook_replaced(name):
    assert result(name, "trains")[0] == "ok"
    assert result(name, "resume")[0] == "ok"
    assert result(name, "nothing_left") == ("ok", "")


@pytest.mark.parametrize("arch", ["check_residual", "check_mlp"])
def test_shrink_at_a_start_trains_the_smaller_network(arch, tmp_path):
    run = Subject("shrinks_at_the_start", tmp_path).run(arch=arch)
    whole = Subject("l2_norm", tmp_path).run(arch=arch)
    assert run.done.ctx.sites.widths == whole.done.ctx.sites.widths
    assert run.done.now.prune_result["pruned"] is None  # it was tuned before the prune
    tuned = [entry["val_loss"] for entry in run.done.curve]
    assert len(set(tuned)) == len(tuned) == 3


def test_inserted_layer_is_trained_from_its_phase_on(tmp_path):
    for name in ("inserts_for_the_second_phase", "inserts_at_the_end"):
        factors = [entry["factor"] for entry in Subject(name, tmp_path).run().done.curve if "factor" in entry]
        assert factors[:2] == [0.5, 0.5]
        assert len(set(factors)) == 3


HOOKS = (
    *("prepare", "on_phase_start", "on_batch_start", "penalty", "on_backward_end", "on_step_end"),
    *("on_epoch_end", "on_phase_end", "scores", "finalize"),
)
ALLOWED = {
    "shrink": {"on_phase_start", "on_phase_end"},
    "insert": {"prepare", "on_phase_start", "on_phase_end"},
    "rewind": set(HOOKS) - {"penalty", "on_backward_end"},
}


def calling(hook, call):
    """A method whose ``hook`` calls ``ctx.shrink``, ``ctx.insert`` or ``ctx.rewind``."""

    class Calling(Method):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Identity()

    def act(self, ctx):
        if call == "shrink":
            ctx.shrink(ctx.rank(Method.scores(self, ctx), "layer"))
        elif call == "insert":
            ctx.insert(next(iter(ctx.sites)), self.layer)
        else:
            ctx.rewind("init")
        return Method.scores(self, ctx) if hook == "scores" else 0.0

    setattr(Calling, hook, act)
    return Calling()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("call", ALLOWED)
def test_hook_may_call_or_is_refused_in_one_line(make_training, hook, call):
    def run():
        training = make_training(calling(hook, call), arch="mlp_40_40")
        carry_out(training, (Phase(1),))
        training.ctx.select()
        training.finalize()

    if hook in ALLOWED[call]:
        run()
    else:
        shown = "select" if hook == "scores" else hook
        with pytest.raises(RunFailed, match=rf"^ctx\.{call} in {shown}: .*$") as caught:
            run()
        assert "\n" not in str(caught.value)


def test_module_that_no_checkpoint_would_have_is_refused(make_training):
    class Hides(Method):
        def prepare(self, ctx):
            self.layers = [torch.nn.Identity()]
            ctx.insert("1", self.layers[0])

    training = make_training(Hides(), arch="mlp_40_40")
    with pytest.raises(RunFailed, match="the module inserted at site 1 is no attribute of the method"):
        carry_out(training, (Phase(1),))


# --- phase hooks ---------------------------------------------------------------------------------------------------


def logging(calls):
    """A method that appends its hooks, with phase and epoch, to ``calls``."""

    class Logging(Method):
        pass

    def noting(hook):
        def note(self, ctx):
            calls.append((hook, ctx.phase, ctx.epoch))
            return 0.0

        return note

    for hook in ("on_phase_start", "on_epoch_end", "on_phase_end"):
        setattr(Logging, hook, noting(hook))
    return Logging()


def run(training, plan):
    carry_out(training, plan, lambda t: t.model.slice(t.ctx.select()))


PLANS = {
    "0": (Phase(0), PRUNE, Phase(1, "finetune")),
    "0 0": (Phase(0), Phase(0, "finetune"), PRUNE, Phase(0, "finetune")),
    "0 2 0": (Phase(0), Phase(2, rewind="init"), Phase(0, "finetune", rewind="init"), PRUNE),
    "1 0 1": (Phase(1), Phase(0), Phase(1, "finetune"), PRUNE, Phase(1, "finetune")),
}


@pytest.mark.parametrize("plan", PLANS)
def test_phase_hooks_are_called_once_in_order(make_training, tmp_path, plan):
    calls, expected = [], []
    for phase, epochs in enumerate(map(int, plan.split())):
        expected += [("on_phase_start", phase, 0), *(("on_epoch_end", phase, epoch) for epoch in range(epochs))]
        expected += [("on_phase_end", phase, max(0, epochs - 1))]
    run(make_training(logging(calls), arch="mlp_40_40"), PLANS[plan])
    assert calls == expected
    calls.clear()
    resumed(make_training, tmp_path / "c.pt", PLANS[plan], lambda: logging(calls))
    assert calls == expected


class Stop(Exception):
    pass


def resumed(make_training, file, plan, make_method):
    """A training that was stopped after each of its checkpoints."""
    stops = 0
    while True:
        training = make_training(make_method(), arch="mlp_40_40", checkpoint=file)
        assert training.resume() == (stops > 0)
        save = training.save

        def stopping(position, save=save):
            save(position)
            if position[0] < len(plan):
                raise Stop

        training.save = stopping
        try:
            run(training, plan)
        except Stop:
            stops += 1
        else:
            assert training.resumes == stops
            return training


@pytest.mark.parametrize("word", ["stop_phase", "stop_search"])
def test_phase_hooks_are_called_once_after_an_early_stop(make_training, word):
    calls = []
    method = logging(calls)
    note = type(method).on_epoch_end

    def stop(self, ctx):
        note(self, ctx)
        if (ctx.phase, ctx.epoch) == (0, 1):
            getattr(ctx, word)()

    type(method).on_epoch_end = stop
    run(make_training(method, arch="mlp_40_40"), (Phase(4), Phase(0), PRUNE))
    second = [("on_phase_start", 1, 0), ("on_phase_end", 1, 0)] if word == "stop_phase" else []
    first = [("on_phase_start", 0, 0), ("on_epoch_end", 0, 0), ("on_epoch_end", 0, 1), ("on_phase_end", 0, 1)]
    assert calls == [*first, *second]


@pytest.mark.parametrize("name", ["masks_after_no_epochs", "shrinks_after_no_epochs"])
def test_choice_after_no_epochs_meets_the_budget_and_resumes(name, tmp_path):
    run = Subject(name, tmp_path).run()
    same_masks = Subject("l2_norm", tmp_path).run().done.model.sliced_by
    assert same(run.done.model.sliced_by, same_masks)
    assert not same(state_of(run.done.model.network), run.base.state)
    assert result(name, "resume")[0] == "ok"


@pytest.mark.parametrize("name", ["dropnet", "l1l2", "shrinks_at_both_ends", "inserts_at_the_end"])
@pytest.mark.parametrize("epochs", ["train__epochs", "finetune__epochs"])
def test_ablation_without_epochs_meets_the_budget(name, epochs, tmp_path):
    run = Subject(name, tmp_path).run(**{epochs: "0"})
    assert run.model.meets(run.spec.budget, run.model.array(run.done.ctx.sites.widths))
