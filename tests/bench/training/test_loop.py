"""Training: schedules, hooks in order, clocks, divergence, checkpoints that resume to the bit."""

import pytest
import torch
from support.networks import three_sites
from support.plans import carry_out, check_resume, same, state_of

from bench.api import PRUNE, Method, Phase
from bench.errors import Diverged
from bench.spec.recipe import Stage
from bench.training.batchnorm import recalibrate
from bench.training.lr_schedule import schedule
from methods.ddrop import DDrop

MLP = "mlp_40_40"


def test_schedules_by_hand():
    for stage, progress, factor in [
        (Stage(1, 1, "constant"), 0.9, 1.0),
        (Stage(1, 1, "linear"), 0.25, 0.75),
        (Stage(1, 1, "cosine"), 0.5, 0.5),
        (Stage(1, 1, "cosine", warmup=0.2), 0.1, 0.5),
        (Stage(1, 1, "cosine", warmup=0.2), 0.6, 0.5),
        (Stage(1, 1, "step"), 0.49, 1.0),
        (Stage(1, 1, "step"), 0.5, 0.1),
        (Stage(1, 1, "step"), 0.75, 0.01),
        (Stage(1, 1, "step", drops=(0.2,)), 0.19, 1.0),
        (Stage(1, 1, "step", drops=(0.2,)), 0.9, 0.1),
        (Stage(1, 1, "step", drops=()), 0.9, 1.0),
        (Stage(1, 1, "step", 0.5, drops=(0.2,)), 0.55, 1.0),  # shares of what the warm-up leaves
        (Stage(1, 1, "onecycle"), 0.0, 1 / 25),
        (Stage(1, 1, "onecycle"), 0.3, 1.0),
    ]:
        assert schedule(stage, progress) == pytest.approx(factor), (stage, progress)


def test_onecycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1001, cycle_momentum=False)
    for step in range(1000):
        ours = 0.1 * schedule(Stage(1, 0.1, "onecycle"), step / 1000)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, rel=0.02, abs=2e-5)
        optimizer.step()
        theirs.step()


class Recorder(Method):
    """Notes the order of its hooks."""

    def prepare(self, ctx):
        self.calls = ["prepare"]

    def penalty(self, ctx):
        self.calls.append("penalty")
        return 0.0


def noting(name):
    def hook(self, ctx):
        self.calls.append(name)

    return hook


HOOKS = (
    "on_phase_start",
    "on_batch_start",
    "on_backward_end",
    "on_step_end",
    "on_epoch_end",
    "on_phase_end",
    "finalize",
)
for hook_name in HOOKS:
    setattr(Recorder, hook_name, noting(hook_name))


def test_hooks_are_called_in_order(make_training):
    training = make_training(Recorder(), MLP, batch_size=48)
    carry_out(training, (Phase(2), Phase(1)))
    step = ["on_batch_start", "penalty", "on_backward_end", "on_step_end"]
    epoch = [*step, *step, "on_epoch_end"]
    phase_one = ["on_phase_start", *epoch, *epoch, "on_phase_end"]
    assert training.method.calls == ["prepare", *phase_one, "on_phase_start", *epoch, "on_phase_end"]


def test_counts_examples_macs_and_seconds(make_training):
    training = make_training(Recorder(), MLP, batch_size=40)
    carry_out(training, (Phase(3),))
    assert training.examples == 3 * 80  # the last, incomplete batch is left out
    assert training.train_macs == 3 * training.model.macs * 240
    assert set(training.seconds) == {"train", "method", "evaluate"}
    assert all(seconds > 0 for seconds in training.seconds.values())


def test_forwards_of_the_method_are_part_of_the_cost(make_training):
    class Looks(Method):
        def on_epoch_end(self, ctx):
            with ctx.probe():
                for x, _ in ctx.batches("val"):
                    ctx.forward(x)
                ctx.evaluate({name: torch.ones(3, site.n_units) for name, site in ctx.sites.items()})

    training = make_training(Looks(), MLP, batch_size=48)
    carry_out(training, (Phase(1),))
    assert training.train_macs == training.model.macs * (3 * 96 + 32 + 3 * 48)


def test_penalty_is_added_to_the_loss(make_training):
    class Pull(Method):
        def penalty(self, ctx):
            return 2.0 * sum(site.rows().square().sum() for site in ctx.sites.values())

    free, pulled = make_training(arch=MLP), make_training(Pull(), MLP, weight_decay=0)
    for training in (free, pulled):
        carry_out(training, (Phase(3),))
    name = next(iter(free.ctx.sites))
    norms = [training.ctx.sites[name].rows().norm().item() for training in (pulled, free)]
    assert norms[0] < 0.5 * norms[1]


def test_learns(make_training):
    training = make_training(arch=three_sites(), batch_size=16, augment="none", train__lr=0.05, train__warmup=0)
    carry_out(training, (Phase(14),))
    assert training.curve[-1]["val_top1"] > 0.9
    assert training.curve[-1]["train_loss"] < training.curve[0]["train_loss"] / 4


def test_divergence_error_names_a_remedy(make_training):
    training = make_training(arch=MLP, train__lr=1e12)
    with pytest.raises(Diverged, match=r"--set train\.lr="):
        carry_out(training, (Phase(2),))


class Ends(Method):
    """Something that is not finite comes with the last step, or after it."""

    writes = ("on_epoch_end",)

    def __init__(self, hook, value):
        super().__init__()
        self.hook, self.value = hook, value

    def spoil(self, ctx, hook):
        if (hook, ctx.epoch) == (self.hook, 1) and (ctx.step == 2 or hook != "on_backward_end"):
            weight = ctx.sites["1"].network[1].weight
            (weight.grad if hook == "on_backward_end" else weight.data)[0, 0] = self.value

    def on_backward_end(self, ctx):
        self.spoil(ctx, "on_backward_end")

    def on_step_end(self, ctx):
        if ctx.step == 2:
            self.spoil(ctx, "on_step_end")

    def on_epoch_end(self, ctx):
        self.ended = ctx.epoch
        self.spoil(ctx, "on_epoch_end")

    def on_phase_end(self, ctx):
        self.spoil(ctx, "on_phase_end")


@pytest.mark.parametrize(
    ("hook", "value"),
    [("on_backward_end", "nan"), ("on_step_end", "inf"), ("on_epoch_end", "nan"), ("on_phase_end", "inf")],
)
def test_weights_not_finite_after_the_last_step_diverge(make_training, hook, value):
    training = make_training(Ends(hook, float(value)), MLP)
    with pytest.raises(Diverged, match=r"^1\.weight is not finite after (epoch 2 of train: lower|step 0 of the plan)"):
        carry_out(training, (Phase(2),))
    assert len(training.curve) == 2
    assert training.method.ended == (0 if hook in ("on_backward_end", "on_step_end") else 1)


def test_statistics_not_finite_diverge_and_constants_do_not(make_training):
    training = make_training(arch=three_sites())
    training.model.network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    carry_out(training, (Phase(1),))
    training = make_training(arch=three_sites())
    training.model.network[1].running_var[0] = float("inf")
    with pytest.raises(Diverged, match=r"1\.running_var is not finite after epoch 1"):
        carry_out(training, (Phase(1),))


@pytest.mark.parametrize("part", ["train", "finetune"])
def test_one_step_too_long_diverges(make_training, part):
    """The loss is that of before the step."""
    training = make_training(arch=MLP, batch_size=96, **{f"{part}__lr": 1e43, f"{part}__warmup": 0})
    with pytest.raises(Diverged, match=rf"weight is not finite after epoch 1 of {part}: lower its rate"):
        carry_out(training, (Phase(1, part),))
    assert torch.tensor(training.curve[0]["train_loss"]).isfinite()


def test_zero_epochs_train_nothing(make_training):
    training = make_training(arch=MLP)
    before = state_of(training.model.network)
    carry_out(training, (Phase(0),))
    assert same(before, state_of(training.model.network))


class Noisy(DDrop):
    """DDROP on tracked activations that also keeps a buffer, a snapshot and uses the global generator."""

    def prepare(self, ctx):
        super().prepare(ctx)
        self.register_buffer("steps", torch.zeros(()))

    def on_step_end(self, ctx):
        self.steps += torch.rand(())

    def on_phase_end(self, ctx):
        for x, _ in ctx.batches("val"):
            ctx.forward(x)

    def on_epoch_end(self, ctx):
        _, y = next(ctx.batches("train", limit=1))
        ctx.log(steps=self.steps, looked_at=(y * torch.arange(len(y))).sum())
        if ctx.epoch == 0:
            ctx.snapshot("first")
        if ctx.epoch == 1:
            masks = ctx.masks
            masks[next(iter(masks))][0] = False
            ctx.masks = masks


PLAN = (Phase(3), Phase(1, rewind="first"), PRUNE, Phase(2, "finetune"))


@pytest.mark.parametrize("arch", ["two_layers", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_stopped_and_resumed_equals_uninterrupted(plugins, make_training, tmp_path, arch):
    def start(checkpoint):
        return make_training(Noisy(DDrop.Config(importance="act_mean")), arch, checkpoint=checkpoint)

    whole = check_resume(start, PLAN, tmp_path / "c.pt")
    assert len({entry["looked_at"] for entry in whole.curve if "looked_at" in entry}) == 1
    assert 0 < whole.now.prune_result["macs"] < start(None).model.macs


def test_foreign_and_damaged_checkpoints_are_ignored(make_training, tmp_path):
    file = tmp_path / "c.pt"
    carry_out(make_training(arch=MLP, checkpoint=file), (Phase(1),))
    assert make_training(arch=MLP, checkpoint=file).resume()
    other = make_training(arch=MLP, checkpoint=file)
    other.checkpoint.identity = "something else"
    assert not other.resume()
    file.write_bytes(file.read_bytes()[:1000])
    assert not make_training(arch=MLP, checkpoint=file).resume()


def test_recalibration_is_the_plain_mean_over_batches(make_training):
    training = make_training(arch=three_sites(), recalibrate=2, batch_size=32)
    norm = training.model.network[1]
    inputs = []
    norm.register_forward_pre_hook(lambda m, args: inputs.append(args[0].detach()))
    recalibrate(training.model, training.data, training.recipe, training.seed, 2)
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs])
    assert len(inputs) == 2
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-6)
    assert norm.momentum == 0.1


def test_precision_is_the_recipes(make_training):
    kinds = {}
    for precision in ("fp32", "bf16"):
        training = make_training(arch=three_sites(), precision=precision)

        def note(module, args, out, precision=precision):
            if module.training:
                kinds[precision] = out.dtype

        training.model.network[-1].register_forward_hook(note)
        carry_out(training, (Phase(1),))
    assert kinds == {"fp32": torch.float32, "bf16": torch.bfloat16}
