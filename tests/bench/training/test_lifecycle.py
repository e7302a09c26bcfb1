"""The order of a run: starting weights, prepare, phases and their hooks, the optimizer, the prune."""

import pytest
import torch
from support.networks import GREY, hooks_of, three_sites
from support.paths import PLUGINS
from support.plans import carry_out, check_resume, prune, resumed, same, state_of
from support.plugins import outcomes

from bench.api import PRUNE, Method, Phase
from bench.conformance.subject import Stopped, Subject
from bench.errors import RunFailed
from bench.runs.method_factory import make_method

PLUGIN = PLUGINS / "lifecycle.py"


# --- starting weights ----------------------------------------------------------------------------------------------

FROM_BASE = ["keeps_a_teacher", "sets_a_threshold", "remembers_the_start"]


@pytest.mark.parametrize("name", [*FROM_BASE, "ddrop"])
def test_prepare_sees_the_starting_weights(name, folder):
    seen = []

    def watch(hook, ctx, call):
        if hook == "prepare":
            seen.append((state_of(ctx._model.network), dict(ctx._model.snapshots)))
            raise Stopped
        return call()

    subject = Subject(name, folder)
    subject.stopped(watch)
    ((found, snapshots),) = seen
    assert not same(snapshots["init"], snapshots["base"])
    assert same(found, snapshots[subject.method.starts_from])


def test_what_prepare_keeps_is_of_the_base_after_training(folder):
    run = Subject("keeps_a_teacher", folder).run()
    assert same(run.method.teacher.state_dict(), run.base.state)
    run = Subject("sets_a_threshold", folder).run()
    rows = [run.base.state[f"{site}.weight"].flatten(1).norm(dim=1) for site in run.sites]
    assert run.done.curve[-2]["threshold"] == torch.cat(rows).median().item()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * k) for k, name in enumerate(FROM_BASE)])
def test_resumed_prepare_sees_the_base_again(name):
    assert outcomes(name, "resume")["resume"] == ("ok", "4 stops")


# --- what is trained -----------------------------------------------------------------------------------------------

TWICE = (Phase(2), Phase(2, rewind="init"), PRUNE, Phase(1, "finetune"))
ONCE = (Phase(2, "finetune"), PRUNE, Phase(1, "finetune"))
MOVES = {
    "shrinks_at_the_start": ONCE,
    "shrinks_at_both_ends": TWICE,
    "inserts_for_the_second_phase": (Phase(2), Phase(2), PRUNE),
    "inserts_at_the_end": (Phase(2), Phase(2), PRUNE),
    "goes_back_in_steps": (Phase(2), PRUNE, Phase(1, "finetune")),
    "masks_after_no_epochs": (Phase(0, "finetune"), PRUNE, Phase(1, "finetune")),
    "shrinks_after_no_epochs": (Phase(0), Phase(2, "finetune"), PRUNE),
}


@pytest.mark.parametrize("name", MOVES)
def test_network_resumes_whatever_a_hook_replaced(make_training, tmp_path, name):
    def start(checkpoint):
        torch.manual_seed(0)
        return make_training(make_method(name, {}), arch=three_sites(), shape=GREY, checkpoint=checkpoint)

    whole = check_resume(start, MOVES[name], tmp_path / "c.pt")
    factors = [entry["factor"] for entry in whole.curve if "factor" in entry]
    if name.startswith("inserts"):  # the layer is trained from its phase on
        assert factors[:2] == [0.5, 0.5]
        assert len(set(factors)) == 3
    whole.model.remove_hooks()
    assert not hooks_of(whole.model.network)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MOVES])
def test_method_that_replaces_the_network_keeps_the_contract(name):
    assert {outcome for outcome, _ in outcomes(name, "trains", "resume", "nothing_left").values()} == {"ok"}


def test_shrink_at_a_start_trains_the_smaller_network(folder):
    run = Subject("shrinks_at_the_start", folder).run(arch="check_residual")
    whole = Subject("l2_norm", folder).run(arch="check_residual")
    assert run.done.ctx.sites.widths == whole.done.ctx.sites.widths
    assert run.done.now.prune_result["pruned"] is None  # it was tuned before the prune
    tuned = [entry["val_loss"] for entry in run.done.curve]
    assert len(set(tuned)) == len(tuned) == 3


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
        training = make_training(calling(hook, call), arch="mlp_40_40", batch_size=96)
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


class Logging(Method):
    """Appends its hooks, with phase and epoch, to ``calls``; may say a word at the end of an epoch."""

    def __init__(self, calls, word=None):
        super().__init__()
        self.__dict__["calls"], self.word = calls, word

    def on_phase_start(self, ctx):
        self.calls.append(("on_phase_start", ctx.phase, ctx.epoch))

    def on_epoch_end(self, ctx):
        self.calls.append(("on_epoch_end", ctx.phase, ctx.epoch))
        if self.word and (ctx.phase, ctx.epoch) == (0, 1):
            getattr(ctx, self.word)()

    def on_phase_end(self, ctx):
        self.calls.append(("on_phase_end", ctx.phase, ctx.epoch))


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

    def start(checkpoint):
        return make_training(Logging(calls), arch="mlp_40_40", checkpoint=checkpoint)

    carry_out(start(None), PLANS[plan], prune)
    assert calls == expected
    calls.clear()
    resumed(start, PLANS[plan], tmp_path / "c.pt")
    assert calls == expected


@pytest.mark.parametrize("word", ["stop_phase", "stop_search"])
def test_phase_hooks_are_called_once_after_an_early_stop(make_training, word):
    calls = []
    carry_out(make_training(Logging(calls, word), arch="mlp_40_40"), (Phase(4), Phase(0), PRUNE), prune)
    second = [("on_phase_start", 1, 0), ("on_phase_end", 1, 0)] if word == "stop_phase" else []
    first = [("on_phase_start", 0, 0), ("on_epoch_end", 0, 0), ("on_epoch_end", 0, 1), ("on_phase_end", 0, 1)]
    assert calls == [*first, *second]


def test_choice_after_no_epochs_meets_the_budget(folder):
    same_masks = Subject("l2_norm", folder).run().done.model.sliced_by
    for name in ("masks_after_no_epochs", "shrinks_after_no_epochs"):
        run = Subject(name, folder).run()
        assert same(run.done.model.sliced_by, same_masks)
        assert not same(state_of(run.done.model.network), run.base.state)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("dropnet", "train__epochs"),
        ("l1l2", "finetune__epochs"),
        ("shrinks_at_both_ends", "train__epochs"),
        ("inserts_at_the_end", "finetune__epochs"),
    ],
)
def test_ablation_without_epochs_meets_the_budget(name, part, folder):
    run = Subject(name, folder).run(**{part: "0"})
    assert run.model.meets(run.spec.budget, run.model.array(run.done.ctx.sites.widths))
