"""Controls; numbers are those of the specification's sections 9 (regularisers) and 13 (standard controls)."""

import pytest
import torch
from support.plans import carry_out
from torch import nn

from bench.api import PRUNE, Budget, Method, Phase
from bench.conformance.tiny_networks import SHAPE, depth
from bench.errors import Unsupported
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from methods.controls import Dense, Dropout, Random, Slimming, UniformThin, UniformThinLong, WeightDecay


def silent(network):
    """A network whose last layer has no weights: the loss has no gradient by any other layer."""
    with torch.no_grad():
        network[-1].weight.zero_()
    return network


def small():
    body = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    return nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


ONE_STEP = {"batch_size": 96, "momentum": 0, "nesterov": "false"}
ONE_STEP |= {"train__schedule": "constant", "train__warmup": 0, "train__lr": 0.1}


def trained(make_training, method, epochs=1, seed=3, **settings):
    """State of a small network after training with ``method``, always from the same weights."""
    torch.manual_seed(seed)
    training = make_training(method, arch=small(), **settings)
    carry_out(training, (Phase(epochs),))
    return training.model.network.state_dict()


def test_9g01_a_step_without_loss_is_decay(make_training):
    training = make_training(arch=silent(small()), **ONE_STEP, weight_decay=0.3)
    before = training.model.network[0].weight.detach().clone()
    carry_out(training, (Phase(1),))
    assert torch.allclose(training.model.network[0].weight, before * (1 - 0.1 * 0.3), rtol=1e-5)


def test_9g01_weight_decay_of_a_step_is_of_all_parameters(make_training):
    """MR 9(g)1: without loss and momentum each parameter becomes ``1 - rate * strength`` of itself."""
    method = WeightDecay(WeightDecay.Config(strength=0.3))
    training = make_training(method, arch=silent(small()), **ONE_STEP, weight_decay=0)
    network = training.model.network
    with torch.no_grad():
        for module in (network[1], network[4]):
            module.bias.fill_(0.5)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    carry_out(training, (Phase(1),))
    for name, parameter in network.named_parameters():
        if not name.startswith("8."):  # the layer that has a loss
            assert torch.allclose(parameter, before[name] * (1 - 0.1 * 0.3), rtol=1e-5), name
    assert method.penalty(training.ctx).item() == pytest.approx(
        0.15 * sum(p.double().square().sum().item() for p in network.parameters()), rel=1e-5
    )


def test_9g02_dropout_keeps_the_mean_and_is_gone_in_evaluation(make_training):
    training = make_training(Dropout(Dropout.Config(p=0.3)), arch=small())
    ctx, method = training.ctx, training.method
    plain = ctx._model.network.eval()(ctx.x)
    ctx._now.x = ctx.x[:1].expand(20000, -1, -1, -1)
    method.on_batch_start(ctx)
    for name, site in ctx.sites.items():
        gates = ctx._model.gates.values[name]
        assert gates.shape == (20000, site.n_units)
        assert gates.unique().tolist() == pytest.approx([0, 1 / 0.7])
        deviation = (0.3 / 0.7 / len(gates)) ** 0.5
        assert ((gates.mean(dim=0) - 1).abs() < 4 * deviation).all()
    ctx._model.after_step()
    ctx._now.x = ctx.x[:32]
    x, _ = next(ctx.batches())
    assert torch.equal(ctx._model.network(x), plain)
    carry_out(training, (Phase(1),))
    assert not ctx._model.busy


def test_9g03_without_strength_regularisers_are_plain_training_to_the_bit(make_training):
    plain = trained(make_training, Method(), 2)
    for method in (
        Dropout(Dropout.Config(p=0.0)),
        Slimming(Slimming.Config(strength=0.0)),
        WeightDecay(WeightDecay.Config(strength=0.0)),
    ):
        assert all(torch.equal(v, plain[k]) for k, v in trained(make_training, method, 2).items())
    for method in (Dropout(), Slimming(Slimming.Config(strength=0.1)), WeightDecay()):
        assert not torch.equal(trained(make_training, method, 2)["0.weight"], plain["0.weight"])


def test_13_1_dense_has_everyones_length_or_its_own(make_training, make_run):
    ctx = make_training(arch="mlp_40_40").ctx
    assert Dense().plan(ctx) == (Phase(1, "finetune"),)
    assert Dense(Dense.Config(epochs=5)).plan(ctx) == (Phase(5, "train"),)
    assert (Dense().starts_from, Dense(Dense.Config(epochs=5)).starts_from) == ("base", "init")
    short = execute(*make_run("dense", "mlp_40_40", "tiny8"))
    long = execute(*make_run("dense", "mlp_40_40", "tiny8", options={"epochs": "5"}))
    assert (short.training.epochs, long.training.epochs) == (2, 5)
    assert len(long.curve.epoch) == 5
    assert long.metrics.final.loss != short.metrics.final.loss


def test_13_2_random_keeps_the_share_of_the_budget_of_any_unit(make_ctx):
    ctx, method = make_ctx(arch="mlp_40_40"), Random()
    wanted = ctx.equal_widths()
    kept = {name: torch.zeros(site.n_units) for name, site in ctx.sites.items()}
    for _ in range(300):
        masks = method.select(ctx, ctx.budget)
        assert {n: int(m.sum()) for n, m in masks.items()} == wanted
        for name, mask in masks.items():
            kept[name] += mask
    for name, times in kept.items():
        share = wanted[name] / len(times)
        assert ((times / 300 - share).abs() < 4.5 * (share * (1 - share) / 300) ** 0.5).all()


def test_13_2_random_is_the_seed(make_ctx):
    ctx, masks = make_ctx(arch="mlp_40_40"), []
    for seed in (0, 0, 1):
        ctx.rng.manual_seed(seed)
        masks.append(ctx.flat(Random().select(ctx, ctx.budget)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.9])
def test_13_3_scratch_trains_as_many_epochs_or_as_many_macs_as_the_dense_total(make_ctx, keep):
    ctx = make_ctx(arch="mlp_40_40", keep=keep, train__epochs=30, finetune__epochs=10)
    same, long = UniformThin(), UniformThinLong()
    assert same.plan(ctx) == (PRUNE, Phase(40, "train", rewind="fresh"))
    prune, phase = long.plan(ctx)
    assert (prune, phase.part, phase.rewind) == (PRUNE, "train", "fresh")
    widths = {n: int(m.sum()) for n, m in long.select(ctx, ctx.budget).items()}
    assert widths == {n: int(m.sum()) for n, m in same.select(ctx, ctx.budget).items()} == ctx.equal_widths()
    assert abs(phase.epochs * ctx.share(widths) - 40) <= ctx.share(widths) / 2


@pytest.mark.parametrize("arch", ["lenet", "mlp_40_40"])
@pytest.mark.parametrize("name", ["uniform_thin", "uniform_thin_long"])
def test_13_3_scratch_has_equal_shares_under_any_ranking(make_ctx, name, arch):
    ctx, found = make_ctx(arch=arch, shape=(1, 28, 28)), []
    for ranking in (None, "layer", "global"):
        ctx._budget = Budget(keep_macs=0.5, ranking=ranking)
        found.append(make_method(name, {}).select(ctx, ctx.budget))
        assert {n: int(mask.sum()) for n, mask in found[-1].items()} == ctx.equal_widths()
    assert all(torch.equal(masks[n], found[0][n]) for masks in found for n in ctx.sites)
    assert all(not mask.long().diff().gt(0).any() for mask in found[0].values())  # the first of each site


@pytest.mark.parametrize("units", ["depth", "both"])
def test_13_3_scratch_of_blocks(make_ctx, units):
    """RULES 9: a network with fewer blocks from scratch is the control of those that are found."""
    ctx = make_ctx(arch=depth("A", num_classes=10), shape=SHAPE, units=units, keep=0.7)
    masks = make_method("uniform_thin", {}).select(ctx, ctx.budget)
    assert ctx.fits(masks) and masks["1"].any() and masks["5"].any()
    assert int(masks["1"].sum() + masks["5"].sum()) < 5
    assert ctx.sites.absent(masks) == {name for name, mask in masks.items() if not mask.any()}
    _, long = make_method("uniform_thin_long", {}).plan(ctx)
    assert abs(long.epochs * ctx.share(masks) - 3) <= ctx.share(masks) / 2


def test_13_3_scratch_in_the_record(make_run):
    """The training's MACs of scratch-B are those of the dense network's epochs, within half an epoch."""
    settings = {"train__epochs": 4, "finetune__epochs": 2, "keep": 0.4}
    dense, same, long = (
        execute(*make_run(m, "mlp_40_40", "tiny8", **settings)) for m in ("dense", "uniform_thin", "uniform_thin_long")
    )
    epoch = long.training.macs / long.training.epochs
    assert abs(long.training.macs - dense.training.macs) <= epoch / 2
    assert same.training.macs == pytest.approx(6 * epoch)
    assert [run.training.epochs for run in (dense, same, long)] == [6, 6, 15]
    assert same.structure == long.structure
    assert {run.training.starts_from for run in (same, long)} == {"init"}


def test_13_3_scratch_starts_from_other_weights_than_the_base(make_training):
    training = make_training(UniformThin(), arch="mlp_40_40", train__lr=0.0, finetune__lr=0.0)
    ctx = training.ctx
    first = {k: v.clone() for k, v in ctx._model.network.state_dict().items()}

    def prune(training):
        ctx._model.slice(training.method.select(ctx, ctx.budget))

    carry_out(training, training.method.plan(ctx), prune)
    width = ctx.sites.widths["1"]
    assert 0 < width < 40
    assert not torch.allclose(ctx._model.network[1].weight, first["1.weight"][:width])
    assert ctx._model.network[1].weight.std().item() == pytest.approx(first["1.weight"].std().item(), rel=0.2)


def test_13_5_slimming_moves_scales_by_rate_times_strength(make_training):
    method = Slimming(Slimming.Config(strength=0.02))
    training = make_training(method, arch=silent(small()), **ONE_STEP, weight_decay=0)
    with torch.no_grad():
        training.model.network[1].weight.copy_(torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0]))
    before = {k: v.clone() for k, v in training.model.network.state_dict().items()}
    carry_out(training, (Phase(1),))
    after = training.model.network.state_dict()
    for norm in ("1.weight", "4.weight"):
        assert torch.allclose(after[norm], before[norm] - 0.1 * 0.02 * before[norm].sign(), atol=1e-7)
    for name in ("0.weight", "0.bias", "1.bias", "3.weight", "4.bias"):
        assert torch.equal(after[name], before[name])


def test_13_5_one_cut_over_all_sites_never_empties_one(make_ctx):
    ctx, method = make_ctx(keep=0.5), Slimming()
    with torch.no_grad():
        for k, site in enumerate(ctx.sites.values()):
            scale = torch.linspace(0.1, 1, site.n_units) * (1e-3 if k == 4 else 1)
            ctx._model.network.get_submodule(site.norms[0]).weight.copy_(-scale)
    masks, found = method.select(ctx, ctx.budget), method.scores(ctx)
    fifth = list(ctx.sites)[4]
    assert method.ranking == "global"
    assert masks[fifth].sum() <= 2
    assert masks[fifth][-1]
    assert all(m.any() for m in masks.values())
    for name, mask in masks.items():
        assert mask.all() or found[name][mask].min() >= found[name][~mask].max()


def test_13_5_ties_fill_the_budget_exactly_and_repeatably(make_ctx):
    ctx = make_ctx(keep=0.5)
    masks = [Slimming().select(ctx, ctx.budget) for _ in range(2)]  # all scales are 1
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in ctx.sites)
    assert 0.45 < ctx.share({n: int(m.sum()) for n, m in masks[0].items()}) <= 0.5


@pytest.mark.parametrize("method", ["slimming", "bn_scale"])
def test_13_5_network_without_norms_is_refused(make_run, method):
    spec, options = make_run(method, "mlp_40_40", "tiny8")
    with pytest.raises(Unsupported, match=f"{method} does not work on site 1: it has no batch norm with a scale"):
        execute(spec, options)


def test_13_2_random_with_the_widths_of_another_network(make_ctx):
    ctx = make_ctx()
    ctx._budget = Budget(widths=(3, 16, 1, 20, 32, 7, 64, 1, 50))
    for name in ("random", "l1_norm", "slimming", "uniform_thin"):
        masks = make_method(name, {}).select(ctx, ctx.budget)
        assert tuple(int(m.sum()) for m in masks.values()) == ctx.budget.widths
