"""The hook ``compensate`` at the prune, and when batch norm is estimated again (RULES 4.4)."""

import pytest
import torch
from support.networks import GREY, three_sites
from support.plans import carry_out, same

from bench.api import PRUNE, Method, Phase
from bench.errors import RunFailed
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.prune import prune
from bench.spec.spec import Budget
from bench.training.checkpoint import load_tensors
from bench.training.compensation import batches_to_estimate


def cut(trainer, trains=True):
    return prune(trainer, Budget(keep_macs=0.5), GREY, trains)


def start(make_training, method, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


class Noting(Method):
    """Notes its hooks and what it finds in ``compensate``."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def select(self, ctx, budget):
        self.calls.append("select")
        return super().select(ctx, budget)

    def compensate(self, ctx, masks):
        self.calls.append("compensate")
        self.found = {name: mask.clone() for name, mask in masks.items()}
        assert ctx.sites.widths == {"0": 12, "4": 16, "7": 12}
        layer = ctx.layers["4"]
        layer.assign(2 * layer.matrix())
        self.written = layer.matrix().detach().clone()

    def finalize(self, ctx):
        self.calls.append("finalize")


def test_compensate_runs_once_masks_are_final_and_before_the_slice(make_training):
    method = Noting()
    training = start(make_training, method)
    carry_out(training, (PRUNE,), cut)
    assert method.calls == ["select", "compensate", "finalize"]
    assert same(method.found, training.model.sliced_by)
    left = method.written.unflatten(1, (12, 9))[method.found["4"]][:, method.found["0"]].flatten(1)
    assert torch.equal(training.ctx.layers["4"].matrix(), left)
    assert training.now.prune_result["calibration"] == {"parts": [""]}


def test_compensate_does_not_run_again_after_a_resume(make_training, tmp_path):
    plan, file = (PRUNE, Phase(1, "finetune")), tmp_path / "checkpoint"
    training = start(make_training, Noting(), checkpoint=file)
    training.start_prune()
    training.finish_prune(cut(training))
    training.finish_step(plan)
    method = Noting()
    again = start(make_training, method, checkpoint=file)
    assert again.resume()
    carry_out(again, plan, cut)
    assert method.calls == ["finalize"]
    assert again.now.prune_result["calibration"] == {"parts": [""]}


class Trains(Noting):
    """Changes weights by what it saw of the validation images."""

    def compensate(self, ctx, masks):
        next(ctx.batches("val"))
        ctx.layers["4"].assign(2 * ctx.layers["4"].matrix())


class Cuts(Noting):
    """Shrinks when all is decided."""

    def compensate(self, ctx, masks):
        ctx.shrink(masks)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Trains(), "changes the weights in compensate .*: after validation images a hook may only set weights to zero"),
        (Cuts(), r"ctx.shrink in compensate: only on_phase_start, on_phase_end may do that"),
    ],
)
def test_what_compensate_may_not_do(make_training, method, message):
    with pytest.raises(RunFailed, match=message):
        carry_out(start(make_training, method), (PRUNE,), cut)


def test_failure_in_compensate_leaves_nothing(make_training):
    class Fails(Method):
        def compensate(self, ctx, masks):
            ctx.refit("0", masks["0"], lambda x, missing, weight: 1 / 0)

    training = start(make_training, Fails())
    with pytest.raises(ZeroDivisionError):
        carry_out(training, (PRUNE,), cut)
    network = training.model.network
    training.model.remove_hooks()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


# --- RULES 4.4 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trains", "expected"),
    [
        ("l1_norm", True, (7, False)),
        ("l1_norm", False, (0, False)),
        ("l1_norm+refit_ridge", True, (0, False)),
        ("l1_norm+refit_ridge", False, (0, False)),
        ("l1_norm+refit_bn", True, (20, True)),
        ("l1_norm+refit_ridge+refit_bn", False, (20, True)),
    ],
)
def test_who_decides_whether_norms_are_estimated_again(name, trains, expected):
    assert batches_to_estimate(make_method(name, {}), 7, trains) == expected


@pytest.mark.parametrize(
    ("name", "left_alone"), [("l1_norm", True), ("l1_norm+refit_ridge", False), ("l1_norm+refit_bn", False)]
)
def test_without_an_epoch_a_run_is_the_dense_network_without_units(make_run, name, left_alone):
    """To the bit, unless a part compensates; the accuracy before fine-tuning is then that of the end."""
    spec, options = make_run(name, "check_residual", "tiny8", finetune__epochs=0)
    done = execute(spec, options)
    folder = options.out / "artifacts" / spec.id
    final, masks = (load_tensors(folder / f"{what}.safetensors") for what in ("network", "masks"))
    base = load_tensors(next((options.out / "bases").rglob("*.safetensors")))
    (norm, mask), (reader,) = (("1.body.1", masks["1.body.0"].bool()), ("1.body.3",))
    statistics = torch.equal(final[f"{norm}.running_mean"], base[f"{norm}.running_mean"][mask])
    weights = torch.equal(final[f"{reader}.weight"], base[f"{reader}.weight"][:, mask])
    assert (statistics, weights) == (name != "l1_norm+refit_bn", name != "l1_norm+refit_ridge")
    assert (statistics and weights) == left_alone
    assert done.metrics.pruned.loss == done.metrics.final.loss


def test_a_method_that_trained_is_estimated_again_without_fine_tuning(make_run):
    """``group_lasso`` trains before the cut: it is no run of the track without retraining."""
    usual, none = (
        execute(*make_run("group_lasso", "check_residual", "tiny8", finetune__epochs=0, recalibrate=batches))
        for batches in (2, 0)
    )
    assert usual.metrics.pruned.loss != none.metrics.pruned.loss
