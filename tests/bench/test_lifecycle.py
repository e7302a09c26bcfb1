"""The order of a run: starting weights, prepare, phases and their hooks, the optimizer, the prune."""

from pathlib import Path

import pytest
import torch

from bench.api import Method, Phase
from bench.check import examine, networks
from bench.check.subject import Subject
from bench.errors import RunFailed
from bench.registry import ARCHS, DATASETS, METHODS, add_plugin
from bench.training import choose_masks

PLUGIN = Path(__file__).parent.parent / "plugins" / "lifecycle.py"


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    registries = (METHODS, ARCHS, DATASETS)
    before = [dict(registry._plugins) for registry in registries]
    for file in (PLUGIN, networks.__file__):
        add_plugin(str(file))
    yield
    for registry, plugins in zip(registries, before, strict=True):
        registry._plugins = plugins


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
            seen.append((state_of(ctx.network), dict(ctx.snapshots)))
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
    assert not same(state_of(run.done.ctx.network), run.done.extra["pruned"])
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
        training.run((Phase(1),), None, lambda: 1)
        choose_masks(training.ctx, training.method)
        training.call("finalize")

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
        training.run((Phase(1),), None, lambda: 1)
