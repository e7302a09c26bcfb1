"""Signals other than labels: logits of the step, an objective, a teacher; what they cost and that they resume."""

import pytest
import torch
from support.networks import GREY, half_masks, three_sites
from support.plans import carry_out, check_resume, prune, same, state_of
from torch.nn import functional as F

from bench.api import PRUNE, Method, Phase
from bench.errors import RunFailed, Unsupported, UsageError
from bench.measure import flops
from bench.spec import method_traits
from bench.training.composition import compose


def start(make_training, method=None, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


ONE = (Phase(1),)


def train(make_training, method=None, plan=ONE, cut=None, **settings):
    training = start(make_training, method, **settings)
    carry_out(training, plan, cut)
    return training


def with_base(training):
    """The weights that it has are those of the base, as a run has them."""
    training.model.snapshots["base"] = state_of(training.model.network)
    return training


class Asks(Method):
    """Notes in each hook what ``ctx.logits`` is, or that there is none."""

    def __init__(self):
        super().__init__()
        self.__dict__["found"] = {}

    def ask(self, ctx, hook):
        try:
            self.found.setdefault(hook, ctx.logits)
        except RunFailed as error:
            self.found.setdefault(hook, str(error))
        return 0.0

    def penalty(self, ctx):
        """Of a second forward: eval mode, so that a network without dropout and norms is the same."""
        self.found.setdefault("again", ctx.forward(ctx.x).float())
        return self.ask(ctx, "penalty")


for name in ("on_phase_start", "on_batch_start", "on_backward_end", "on_step_end", "on_epoch_end", "on_phase_end"):
    setattr(Asks, name, lambda self, ctx, name=name: self.ask(ctx, name))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_those_of_the_steps_forward(make_training, precision):
    training = make_training(Asks(), arch="mlp_40_40", precision=precision)
    carry_out(training, (Phase(1),))
    found = training.method.found
    assert found["penalty"].requires_grad and found["penalty"].dtype == torch.float32
    assert torch.equal(found["penalty"], found["again"])
    assert found["on_backward_end"] is found["penalty"]
    for hook in ("on_phase_start", "on_batch_start", "on_step_end", "on_epoch_end", "on_phase_end"):
        assert found[hook].startswith(f"ctx.logits in {hook}: they are there in objective, penalty"), hook
    with pytest.raises(RunFailed, match=r"ctx\.logits in no hook"):
        _ = training.ctx.logits


# --- an objective --------------------------------------------------------------------------------------------------


class CrossEntropy(Method):
    """What the harness does without an objective, written out."""

    def objective(self, ctx, logits):
        return F.cross_entropy(logits, ctx.y, label_smoothing=ctx.recipe.label_smoothing)

    def penalty(self, ctx):
        return 1e-3 * next(iter(ctx.sites.values())).rows().square().sum()


class Penalty(Method):
    penalty = CrossEntropy.penalty


def test_objective_of_labels_is_the_default_to_the_bit(make_training):
    own, plain = (train(make_training, method(), label_smoothing=0.1) for method in (CrossEntropy, Penalty))
    assert same(state_of(own.model.network), state_of(plain.model.network))
    assert own.curve == plain.curve
    assert [extra["what"] for extra in own.extras()] == ["objective"] and not plain.extras()


class Square(Method):
    """Learns zero logits, without labels."""

    labels = False

    def objective(self, ctx, logits):
        return logits.square().mean()


def test_objective_replaces_the_cross_entropy(make_training):
    training = train(make_training, Square(), (Phase(2),), train__lr=0.01)
    assert training.curve[1]["train_loss"] < training.curve[0]["train_loss"]
    x, y = training.ctx.x, training.ctx._now.y
    network = training.model.network.eval()
    assert F.cross_entropy(network(x), y) > 2  # nothing was learned of them
    assert training.curve[0]["train_loss"] != pytest.approx(F.cross_entropy(three_sites()(x), y).item(), rel=0.1)


@pytest.mark.parametrize("hook", ["objective", "on_batch_start", "on_step_end", "on_epoch_end"])
def test_labels_are_refused_where_the_method_declares_none(make_training, hook):
    class Reads(Square):
        pass

    setattr(Reads, hook, lambda self, ctx, *logits: ctx.y)
    with pytest.raises(RunFailed, match=r"^ctx\.y: the method declares labels = False$"):
        train(make_training, Reads())


def test_labels_are_back_in_the_phases_of_others(make_training):
    class Reads(Method):
        active = "after"

        def on_step_end(self, ctx):
            ctx.log(labels=ctx.y.sum())

    training = train(make_training, compose([Square(), Reads()]), (Phase(1), PRUNE, Phase(1, "finetune")), prune)
    assert training.curve[-1]["labels"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda logits: 0.0, "objective returned float, not a scalar"),
        (lambda logits: logits.mean(dim=1), r"objective returned \[32\], not a scalar"),
        (lambda logits: logits.detach().mean(), "objective returned .*, without a gradient"),
    ],
)
def test_objective_that_is_no_loss_is_refused(make_training, given, said):
    class Wrong(Method):
        def objective(self, ctx, logits):
            return given(logits)

    with pytest.raises(RunFailed, match=said) as caught:
        train(make_training, Wrong())
    assert "\n" not in str(caught.value)


def test_labels_false_without_an_objective_is_refused_before_training(make_ctx):
    class Forgets(Method):
        name, labels = "forgets", False

    with pytest.raises(Unsupported, match=r"forgets declares labels = False and has no objective"):
        Forgets().require(make_ctx(arch="mlp_40_40").sites)


class After(CrossEntropy):
    active = "after"


def test_two_objectives_in_one_phase_are_refused():
    with pytest.raises(UsageError, match="cannot be composed: both replace the objective"):
        compose([CrossEntropy(), Square()])
    whole = compose([Square(), After()])
    assert method_traits.LOSS in method_traits.of_method(whole).decides


# --- a teacher -----------------------------------------------------------------------------------------------------


class Taught(Method):
    """Mean squared difference to the base; asks twice, after the prune too."""

    active = "always"
    labels = False

    def objective(self, ctx, logits):
        assert ctx.teacher() is ctx.teacher(tag="base")
        return F.mse_loss(logits, ctx.teacher())


CUT = (Phase(1), PRUNE, Phase(1, "finetune"))


def test_teacher_is_the_base_at_its_own_widths_throughout(make_training):
    training = with_base(start(make_training, Taught()))
    before, whole = state_of(training.model.network), three_sites()
    carry_out(training, CUT, prune)
    assert training.model.network[0].out_channels < 12
    ((_, network),) = training.ctx._teachers._networks.values()
    assert same(state_of(network), before)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    whole.load_state_dict(before)
    with torch.no_grad():
        assert torch.equal(training.ctx.teacher(), whole.eval()(training.ctx.x))


def test_teacher_costs_a_forward_of_its_own_network_for_each_batch(make_training):
    training = with_base(start(make_training, Taught()))
    carry_out(training, CUT, prune)
    each = flops.count(three_sites(), GREY).total
    assert training.model.ledger.macs_by == {"forwards": 0, "teacher": each * training.examples, "own": 0, "cache": 0}
    assert training.train_macs == training.step_macs + each * training.examples
    assert training.extras()[1] == {
        **{"what": "teacher", "name": "base", "examples": training.examples},
        "macs": each * training.examples,
    }
    assert training.model.ledger.counts["forward"] == 0  # of the network itself


class OwnTeacher(Method):
    """Keeps a snapshot after its first phase, cuts after the second, is taught by the snapshot from there on."""

    active = "always"

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            ctx.snapshot("mine")
        if ctx.phase == 1:
            ctx.shrink(half_masks(ctx.sites))

    def penalty(self, ctx):
        if ctx.phase < 2:
            return 0.0
        ctx.log(taught=ctx.teacher(tag="mine").square().sum())
        return 0.1 * F.mse_loss(ctx.logits, ctx.teacher(tag="mine"))

    def on_phase_start(self, ctx):
        """Asked for images of its own, too."""
        if ctx.phase == 2:
            ctx.log(other=ctx.teacher(next(ctx.batches())[0], "mine").sum())


TWICE = (Phase(1), Phase(1), Phase(2), PRUNE, Phase(1, "finetune"))


def test_snapshot_teaches_at_the_widths_at_which_it_was_taken(make_training, tmp_path):
    def again(checkpoint):
        return start(make_training, OwnTeacher(), checkpoint=checkpoint)

    whole = check_resume(again, TWICE, tmp_path / "c.pt")
    assert whole.model.snapshots["mine"]["0.weight"].shape[0] < 12
    ((_, network),) = whole.ctx._teachers._networks.values()
    assert network[0].out_channels == 12
    each = flops.count(three_sites(), GREY).total
    assert whole.model.ledger.extras["teacher", "mine"] == (3 * 96 + 32, each * (3 * 96 + 32))


def test_gates_masks_and_inserted_layers_are_not_the_teachers(make_training):
    training = with_base(start(make_training))
    ctx, plain = training.ctx, training.model.network.eval()(training.ctx.x)
    ctx.masks = half_masks(ctx.sites)
    ctx.insert("4", torch.nn.Tanh())
    ctx.gate({"0": torch.zeros(12)})
    with ctx.activations() as found:
        assert torch.equal(ctx.teacher(), plain.detach())
    assert not found
    ctx.gate({})
    assert not torch.allclose(training.model.network(ctx.x), plain)


def test_teacher_is_asked_again_where_the_images_changed(make_training):
    ctx = with_base(start(make_training)).ctx
    x = ctx.x.clone()
    first = ctx.teacher(x)
    assert ctx.teacher(x) is first
    x += 1
    assert not torch.equal(ctx.teacher(x), first)


@pytest.mark.parametrize("tag", ["init", "mine", "fresh"])
def test_teacher_that_is_not_there_is_refused(make_training, tag):
    ctx = with_base(start(make_training)).ctx
    with pytest.raises(RunFailed, match=rf"^ctx\.teacher: no snapshot '{tag}' that was trained; there are base$"):
        ctx.teacher(tag=tag)
    with pytest.raises(RunFailed, match=r"^ctx\.teacher: images \[2, 1, 4, 4\], not \[B, 1, 8, 8\]$"):
        ctx.teacher(torch.zeros(2, 1, 4, 4))
