"""Phases that end early: patience, a method's word; what a step knows of its rate and progress."""

import pytest
import torch
from support.plans import carry_out, prune, same, state_of

from bench.api import PRUNE, Method, Phase
from bench.errors import UsageError
from bench.progress import Progress
from bench.runs.execute import execute
from bench.spec.recipe import Stage
from bench.training import loop
from bench.training.lr_schedule import schedule
from bench.training.validation import validation


@pytest.fixture
def scripted(monkeypatch):
    """Validation losses as they come, epoch by epoch."""

    def make(training, *losses):
        given = iter(losses)
        monkeypatch.setattr(loop, "validation", lambda network, val: (0.5, next(given)))
        return training

    return make


def run(training, plan):
    carry_out(training, plan, prune)


def epochs_of(training):
    """Epochs trained in each phase."""
    phases = [entry["phase"] for entry in training.curve]
    return {phase: phases.count(phase) for phase in dict.fromkeys(phases)}


# --- patience ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "losses", "trained"),
    [
        (1, [3, 2, 1, 1.5, 0, 0], 4),
        (2, [3, 2, 1, 1.5, 0.5, 0.6, 0.7, 0], 7),
        (1, [3, 3, 1, 1, 1, 1], 2),  # as low as before has not fallen
        (3, [1, 2, 3, 4, 0, 0], 4),
        (1, [3, 2.5, 2, 1.5, 1, 0.5], 6),
        (0, [1, 2, 3, 4, 5, 6], 6),
        (5, [1, 2, 3, 4, 5, 6], 6),
        (9, [1, 2, 3, 4, 5, 6], 6),
        (1, [float("nan"), 1, 0, 0, 0, 0], 2),
    ],
)
def test_phase_ends_when_the_loss_has_not_fallen_for_so_long(make_training, patience, losses, trained, scripted):
    training = scripted(make_training(arch="mlp_40_40", train__patience=patience), *losses)
    run(training, (Phase(6 if len(losses) == 6 else 8),))
    assert epochs_of(training) == {0: trained}
    assert training.epochs == trained
    assert training.examples == trained * 96
    assert training.train_macs == 3 * training.model.macs * trained * 96


def test_each_phase_and_stage_has_its_own_patience(make_training, scripted):
    training = make_training(arch="mlp_40_40", train__patience=1, finetune__patience=2)
    scripted(training, 1, 2, 5, 4, 6, 9, 9, 9, 9)
    run(training, (Phase(5), Phase(5), PRUNE, Phase(4, "finetune")))
    assert epochs_of(training) == {0: 2, 1: 3, 3: 3}


class Counting(Method):
    """Keeps the weights of each epoch's end, notes its hooks, says a word in one of them.

    Args:
        words: of the context, such as ``stop_phase``.
        hook: in which they are said.
        phase, epoch: when.
    """

    def __init__(self, words=(), hook="", phase=0, epoch=0):
        super().__init__()
        self.words, self.at = words, (hook, phase, epoch)
        self.ends, self.starts, self.last = [], [], None

    def say(self, ctx, hook):
        if (hook, ctx.phase, ctx.epoch) == self.at:
            for word in self.words:
                getattr(ctx, word)()

    def on_phase_start(self, ctx):
        self.starts.append(ctx.phase)
        self.say(ctx, "on_phase_start")

    def on_batch_start(self, ctx):
        if ctx.step == 0:
            self.say(ctx, "on_batch_start")

    def on_epoch_end(self, ctx):
        self.last = state_of(ctx._model.network)
        self.say(ctx, "on_epoch_end")

    def on_phase_end(self, ctx):
        self.ends.append((ctx.phase, ctx.epoch))
        self.unchanged = same(self.last, state_of(ctx._model.network))
        self.say(ctx, "on_phase_end")


def test_weights_of_the_last_epoch_stay_and_the_phase_ends_once(make_training, scripted):
    training = scripted(make_training(Counting(), arch="mlp_40_40", train__patience=1), 1, 5, 1, 5)
    run(training, (Phase(4), Phase(4)))
    assert training.method.ends == [(0, 1), (1, 1)]
    assert training.method.starts == [0, 1]
    assert training.method.unchanged


def test_without_learning_nothing_falls(make_training):
    training = make_training(arch="mlp_40_40", train__patience=2, train__lr=0)
    run(training, (Phase(9),))
    assert epochs_of(training) == {0: 3}
    assert len({entry["val_loss"] for entry in training.curve}) == 1


def test_validation_loss_is_that_of_the_network_as_it_is(make_training):
    training = make_training(arch="mlp_40_40")
    run(training, (Phase(1),))
    ctx, (x, y) = training.ctx, next(training.ctx.batches("val"))
    with ctx.probe():
        loss = torch.nn.functional.cross_entropy(ctx.forward(x), y).item()
    assert training.curve[0]["val_loss"] == pytest.approx(loss, rel=1e-5)
    ctx.masks = {n: torch.arange(s.n_units) < 3 for n, s in ctx.sites.items()}
    assert validation(ctx._model.network, training.data.val)[1] != pytest.approx(loss, rel=1e-2)


def test_phase_that_ended_early_resumes_before_in_and_after(make_training, tmp_path, scripted):
    """Checkpoints are written after epoch 1, after the phase (which ended at its second epoch), after epoch 1 again."""
    losses, plan, saves, ends = [1, 5, 2, 1, 3], (Phase(5), Phase(5)), [], []

    class Stop(Exception):
        pass

    def start(file):
        training = make_training(Counting(), arch="mlp_40_40", train__patience=1, checkpoint=tmp_path / file)
        training.resume()
        return scripted(training, *losses[training.epochs :])

    whole = start("whole.pt")
    run(whole, plan)
    assert epochs_of(whole) == {0: 2, 1: 3}
    while True:
        training = start("part.pt")
        save = training.save

        def stopping(position, save=save):
            save(position)
            saves.append(position)
            raise Stop

        training.save = stopping
        try:
            run(training, plan)
        except Stop:
            ends += training.method.ends
        else:
            break
    assert saves == [(0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert training.curve == whole.curve
    assert (training.epochs, training.examples) == (5, whole.examples)
    assert ends == whole.method.ends
    assert same(state_of(training.model.network), state_of(whole.model.network))


def test_records_have_the_epochs_that_were_trained(make_run):
    """Nothing falls at a rate of 0: base and fine-tuning end after their patience and one epoch more."""
    settings = {"train__epochs": 6, "train__lr": 0, "train__patience": 1, "finetune__epochs": 5, "finetune__lr": 0}
    done = execute(*make_run("l1_norm", "mlp_40_40", "tiny8", finetune__patience=2, **settings))
    training = done.training
    assert training.base.epochs == 2
    assert training.epochs == 2 + 3
    assert training.examples == training.base.examples * 5 / 2
    assert len(done.curve.epoch) == 3
    assert training.plan[-1].epochs == 5  # what was planned
    from_init = execute(*make_run("uniform_thin", "mlp_40_40", "tiny8", finetune__patience=2, **settings))
    assert from_init.training.base == training.base


def test_patience_is_part_of_what_a_base_is(make_run):
    spec, _ = make_run()
    patient, _ = make_run(train__patience=3)
    assert spec.base_id() != patient.base_id()
    assert make_run(finetune__patience=3)[0].base_id() == spec.base_id()
    with pytest.raises(UsageError, match="patience"):
        make_run(train__patience=-1)


# --- a method's word -----------------------------------------------------------------------------------------------


PLAN = (Phase(3), Phase(3), Phase(2), PRUNE, Phase(1, "finetune"))


@pytest.mark.parametrize(
    ("hook", "phase", "epoch", "trained"),
    [
        ("on_batch_start", 0, 1, {0: 2, 1: 3, 2: 2, 4: 1}),
        ("on_epoch_end", 1, 0, {0: 3, 1: 1, 2: 2, 4: 1}),
        ("on_phase_start", 2, 0, {0: 3, 1: 3, 2: 1, 4: 1}),
        ("on_phase_end", 0, 2, {0: 3, 1: 3, 2: 2, 4: 1}),  # it ends anyway, and the next one is not touched
    ],
)
def test_stop_phase_ends_the_phase_after_the_epoch(make_training, hook, phase, epoch, trained):
    method = Counting(["stop_phase"], hook, phase, epoch)
    training = make_training(method, arch="mlp_40_40")
    run(training, PLAN)
    assert epochs_of(training) == trained
    assert training.epochs == sum(trained.values())
    assert method.ends == [(p, trained[p] - 1) for p in range(3)]
    assert training.model.sliced_by is not None


@pytest.mark.parametrize(
    ("hook", "phase", "epoch", "trained"),
    [
        ("on_batch_start", 0, 0, {0: 1, 4: 1}),
        ("on_epoch_end", 1, 1, {0: 3, 1: 2, 4: 1}),
        ("on_phase_end", 0, 2, {0: 3, 4: 1}),
        ("on_phase_start", 1, 0, {0: 3, 1: 1, 4: 1}),
        ("on_phase_end", 2, 1, {0: 3, 1: 3, 2: 2, 4: 1}),
    ],
)
def test_stop_search_continues_with_the_prune(make_training, hook, phase, epoch, trained):
    method = Counting(["stop_search"], hook, phase, epoch)
    training = make_training(method, arch="mlp_40_40")
    training.progress = Progress("test", quiet=True)
    training.progress.start(9)
    run(training, PLAN)
    assert epochs_of(training) == trained
    assert method.starts == method.starts[: phase + 1] == list(range(phase + 1))
    assert len(method.ends) == phase + 1
    assert training.progress.total == training.progress.done == sum(trained.values())


def test_both_words_end_the_search_with_or_without_a_prune(make_training):
    for plan, trained in ((PLAN, {0: 1, 4: 1}), ((Phase(3), Phase(2)), {0: 1})):
        method = Counting(["stop_search", "stop_phase"], "on_epoch_end")
        training = make_training(method, arch="mlp_40_40")
        run(training, plan)
        assert epochs_of(training) == trained


def test_search_that_stopped_is_not_resumed(make_training, tmp_path):
    file = tmp_path / "c.pt"
    first = make_training(Counting(["stop_search"], "on_epoch_end"), arch="mlp_40_40", checkpoint=file)

    def no(training):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        carry_out(first, PLAN, no)
    again = make_training(Counting(), arch="mlp_40_40", checkpoint=file)
    assert again.resume()
    assert again.position == (3, 0)
    run(again, PLAN)
    assert epochs_of(again) == {0: 1, 4: 1}


# --- what a step knows -------------------------------------------------------------------------------------------


def test_rate_and_progress_of_each_step(make_training):
    class Noting(Method):
        def prepare(self, ctx):
            self.seen = [(ctx.rate, ctx.progress)]

        def on_batch_start(self, ctx):
            self.seen.append((ctx.rate, ctx.progress))

        def on_phase_end(self, ctx):
            self.ended = ctx.progress

    training = make_training(Noting(), arch="mlp_40_40", train__lr=0.5, train__schedule="linear", train__warmup=0)
    run(training, (Phase(2),))
    before, *steps = training.method.seen
    assert before == (0.0, 0.0)
    stage = Stage(2, 0.5, "linear")
    assert [rate for rate, _ in steps] == pytest.approx([0.5 * schedule(stage, (k + 0.5) / 6) for k in range(6)])
    assert [progress for _, progress in steps] == pytest.approx([k / 3 for k in range(6)])
    assert training.method.ended == 2.0
    assert training.ctx.rate == 0.0
