"""Importances that need activations or gate gradients: functions of a site and what it does with images."""

import pytest
import torch
from support.networks import GREY, in_forwards, three_sites
from support.paths import PLUGINS

from bench.api import STATISTICS
from bench.errors import RunFailed, UsageError
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.spec.registry import METHODS, add_plugin


@pytest.fixture(autouse=True)
def _known(plugins):
    add_plugin(str(PLUGINS / "sparsity.py"))


@pytest.fixture
def ctx(make_ctx):
    return make_ctx(arch=three_sites(), shape=GREY)


def test_what_such_an_importance_is():
    cls = METHODS.get("gate_power")
    assert (cls.starts_from, cls.ranking, cls.native, cls.prunes) == ("base", "global", False, True)
    assert (cls.Config().batches, cls.Config().power) == (2, 2.0)
    assert METHODS.get("mean_activation").Config().batches is None
    assert METHODS.get("mean_activation").ranking == "layer"


def test_the_score_is_the_mean_over_the_training_set(ctx):
    scores = make_method("mean_activation", {}).scores(ctx)
    expected = ctx.mean(lambda site, a: STATISTICS["act_mean"](a))
    assert list(scores) == list(ctx.sites)
    for name, score in scores.items():
        assert torch.equal(score, expected[name])
        assert not score.requires_grad
    assert in_forwards(ctx) == 2 * 96


def test_options_and_batches(ctx):
    expected = ctx.mean(lambda site, g: g.abs().pow(3).mean(dim=0), "gate_gradients", 1)
    before = in_forwards(ctx)
    method = make_method("gate_power", {"batches": "1", "power": "3"})
    assert all(torch.equal(score, expected[name]) for name, score in method.scores(ctx).items())
    assert in_forwards(ctx) - before == 3 * 32
    assert make_method("gate_power", {"batches": "none"}).config.batches is None


def test_wrong_options_are_refused(ctx):
    for options, match in (
        ({"batches": "all"}, "batches=all: not a whole number or none"),
        ({"bathces": "1"}, "has no option 'bathces'"),
    ):
        with pytest.raises(UsageError, match=match):
            make_method("mean_activation", options)
    with pytest.raises(RunFailed, match="at least 1"):
        make_method("mean_activation", {"batches": "0"}).scores(ctx)


@pytest.mark.parametrize("name", ["mean_activation", "gate_power"])
def test_runs_are_charged_for_what_they_look_at(make_run, name):
    looked, blind = (execute(*make_run(m, options=o)) for m, o in ((name, {"batches": "1"}), ("l1_norm", None)))
    passes = {"mean_activation": 1, "gate_power": 3}[name]
    assert looked.training.macs - blind.training.macs == passes * 32 * looked.cost.dense.macs
    assert looked.spec.config == {"batches": 1}
    assert looked.structure.widths == blind.structure.widths


def test_values_of_the_wrong_shape_fail_in_one_line(make_run):
    with pytest.raises(RunFailed) as caught:
        execute(*make_run("wrong_values"))
    assert "\n" not in str(caught.value)
