"""DropNet against its specification; test numbers and traps are those of the method's page."""

from pathlib import Path

import pytest
import torch
from support.networks import half_masks
from support.plans import carry_out, native
from torch import nn
from torch.nn import functional as F

from bench.api import PRUNE, Phase
from bench.data.loading import Images, TrainingData
from bench.errors import UsageError
from bench.models.dropnet_net import ConvNet
from bench.pruning.cost_model import Budget
from bench.runs.execute import execute
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.request import RunOptions
from methods.dropnet import DropNet

CIFAR = Path("data/cifar-10-batches-py")
GLOBAL_80 = [80, 64, 52, 42, 34, 28, 23, 19, 16, 13, 11, 9, 8]
LAYER_40 = [40, 32, 26, 21, 17, 14, 12, 10, 8, 7, 6, 5, 4]


def dropnet(**options):
    return DropNet(DropNet.Config(**options))


def images(values):
    """Images of one row each that are ``values`` ``[N, positions]`` once normalised."""
    pixels = torch.tensor(values)[:, None, None, :] + 10
    ten, one = torch.full((1, 1, 1, 1), 10.0), torch.ones(1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), torch.zeros(len(values), dtype=torch.int64), ten, one)


def showing(make_ctx, values, *layers):
    """Context of a network whose two units put out the images ``values`` and the threefold, through ``layers``."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), *layers, nn.Flatten(), nn.Linear(2 * len(values[0]), 10))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))
        network[0].bias.zero_()
    ctx = make_ctx(arch=network, shape=(1, 1, len(values[0])))
    ctx._data = TrainingData(images(values), images(values), {})
    return ctx


def random_scores(ctx):
    return {name: torch.rand(width) for name, width in ctx.sites.widths.items()}


def widths_of(masks):
    return [int(mask.sum()) for mask in masks.values()]


# --- 2(g) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "shape", "ranking", "schedule"),
    [
        (
            *("dropnet_c_64_64_128_128", (3, 32, 32), "global"),
            [384, 308, 247, 198, 159, 128, 103, 83, 67, 54, 44, 36],
        ),
        (
            *("dropnet_c_64_64_128_128", (3, 32, 32), "layer"),
            [
                *((w, w, v, v) for w, v in ((64, 128), (52, 103), (42, 83), (34, 67), (28, 54), (23, 44), (19, 36))),
                *((w, w, v, v) for w, v in ((16, 29), (13, 24), (11, 20), (9, 16), (8, 13), (7, 11))),
            ],
        ),
        ("dropnet_a_40_40", (1, 28, 28), "global", GLOBAL_80),
        ("dropnet_a_40_40", (1, 28, 28), "layer", [(w, w) for w in LAYER_40]),
        ("dropnet_b_64_64", (1, 28, 28), "global", [128, 103, 83, 67, 54, 44, 36, 29, 24, 20, 16, 13, 11]),
    ],
)
def test_2g01_schedules(make_training, arch, shape, ranking, schedule):
    ctx = native(make_training(DropNet(), arch=arch, shape=shape)).ctx
    seen = [widths_of(ctx.masks)]
    while sum(seen[-1]) > 0.1 * sum(seen[0]):  # the code's stop
        ctx.masks = ctx.prune_worst(random_scores(ctx), 0.2, ranking)
        seen.append(widths_of(ctx.masks))
    assert [sum(w) if ranking == "global" else tuple(w) for w in seen] == schedule
    assert ctx.cycles(0.2, ranking, 0.1) == len(schedule) - 1


def test_2g02_expected_absolute_activation(make_ctx):
    assert dropnet().scores(showing(make_ctx, [[1, 3], [0, 4]]))["0"].tolist() == [2.0, 6.0]
    signed = showing(make_ctx, [[1, -1]])
    assert dropnet().scores(signed)["0"].tolist() == [1.0, 3.0]
    assert dropnet(order="code").scores(signed)["0"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("arch", ["resnet20", "mlp_40_40"])
def test_2g03_the_mean_does_not_depend_on_batches(make_ctx, arch):
    ctx = make_ctx(arch=arch)
    train = ctx._data.train
    with ctx.probe(), ctx.activations() as found:
        ctx.forward(train.normalised(train.pixels))
    for size in (7, 32, 96):  # 96 images: the last batch of 7 has 5
        scores = dropnet().scores(make_ctx(arch=arch, batch_size=size))
        for name, a in found.items():
            torch.testing.assert_close(scores[name], a.transpose(0, 1).flatten(1).abs().mean(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("of_the_gone", [-100.0, 100.0])
def test_2g04_units_that_are_gone_neither_rank_nor_count(make_training, ranking, of_the_gone):
    ctx = native(make_training(DropNet(), arch="mlp_40_40")).ctx
    ctx.masks = before = half_masks(ctx.sites)
    assert all(scores[~before[name]].abs().max() == 0 for name, scores in dropnet().scores(ctx).items())
    scores = {n: torch.where(before[n], s, of_the_gone) for n, s in random_scores(ctx).items()}
    after = ctx.prune_worst(scores, 0.2, ranking)
    assert all((after[name] <= before[name]).all() for name in before)
    assert sum(widths_of(after)) == 40 - (8 if ranking == "global" else 2 * 4)


@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_2g05_the_lowest_are_dropped(make_training, ranking):
    ctx = native(make_training(DropNet(), arch="mlp_40_40")).ctx
    scores = random_scores(ctx)
    after = ctx.prune_worst(scores, 0.2, ranking)
    groups = [list(after)] if ranking == "global" else [[name] for name in after]
    for names in groups:
        dropped = torch.cat([scores[n][~after[n]] for n in names])
        assert dropped.max() <= torch.cat([scores[n][after[n]] for n in names]).min()
    least, most = (dropnet(metric=m, order="code").scores(ctx) for m in ("minimum", "maximum"))
    assert all(torch.equal(least[name], -most[name]) for name in least)
    for metric in ("minimum", "maximum", "random", "apoz", "oracle"):
        assert dropnet(metric=metric if ranking == "global" else f"{metric}_layer").ranking == ranking


class Watched(DropNet):
    """DropNet that keeps what each cycle starts from."""

    def on_phase_start(self, ctx):
        state = {k: v.clone() for k, v in ctx._model.network.state_dict().items()}
        cut = ctx._model.sliced_by and {name: mask.clone() for name, mask in ctx._model.sliced_by.items()}
        self.starts = [*getattr(self, "starts", []), (state, cut)]
        assert ctx._model.optimizer is None  # the former phase's is gone, this one's is made afterwards

    def on_batch_start(self, ctx):
        if ctx.epoch == ctx.step == 0:
            moments = [moment for state in ctx._model.optimizer.state.values() for moment in state.values()]
            assert moments and not any(moment.any() for moment in moments)

    def on_backward_end(self, ctx):
        for name, mask in ctx.masks.items():
            for parameter, cut in ctx.sites[name].unit_parameters():
                assert parameter.grad[cut.positions[~mask[cut.units]]].count_nonzero() == 0


def test_2g06_a_cycle_starts_from_the_first_weights(make_training):
    method = Watched(DropNet.Config())
    training = make_training(method, train__epochs=1)
    ctx, dense, sites = training.ctx, training.model.network, training.ctx.sites
    init = {k: v.clone() for k, v in dense.state_dict().items()}
    plan = method.plan(ctx)
    carry_out(training, plan[: method.cycles])
    assert len(method.starts) == method.cycles > 2
    dense.load_state_dict(init)
    for state, cut in method.starts:
        expected = (sites.slice(dense, cut) if cut else dense).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)  # norms' statistics too


def test_2g06_or_from_new_weights_in_every_cycle(make_training):
    method = Watched(DropNet.Config(rewind="fresh", kappa=0.001))
    training = native(make_training(method, arch="mlp_40_40", train__epochs=1))
    carry_out(training, method.plan(training.ctx)[:3])
    weights = [training.model.snapshots["init"]["1.weight"], *(state["1.weight"] for state, _ in method.starts)]
    assert len({w.sum().item() for w in weights}) == len(weights) == 4


def test_search_by_accuracy_without_epochs_keeps_all_units(make_training):
    method = DropNet(DropNet.Config(kappa=0.9))
    training = native(make_training(method, arch="mlp_40_40", train__epochs=0))
    carry_out(training, method.plan(training.ctx)[: method.cycles])
    assert all(mask.all() for mask in method.select(training.ctx, training.ctx.budget).values())


def test_2g07_masked_units_get_no_gradient_and_stay_as_they_were(make_training):
    method = Watched(DropNet.Config(kappa=0.001))
    training = native(make_training(method, train__epochs=1, weight_decay=0.1, momentum=0.9))
    ctx, init = training.ctx, {k: v.clone() for k, v in training.model.network.state_dict().items()}
    for _ in range(2):
        gone = {name: ~mask for name, mask in ctx.masks.items()}
        carry_out(training, method.plan(ctx)[:1])  # checks gradients
        training.position = (0, 0)
        for name, site in ctx.sites.items():
            for layer in (*site.producers, *site.norms):
                for kind in ("weight", "bias"):
                    key = f"{layer}.{kind}"
                    if key in init:
                        now = ctx._model.network.state_dict()[key]
                        assert torch.equal(now[gone[name]], init[key][gone[name]])
                        assert not torch.equal(now, init[key])
    assert all(mask.any() for mask in gone.values())


def test_2g09_the_oracle_drops_a_useless_unit_first(make_training):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    method, training = dropnet(metric="oracle", p=0), native(make_training(arch=network))
    ctx = training.ctx
    carry_out(training, (Phase(8),))
    with torch.no_grad():
        network[3].weight[:, 2] = 0
    x, y = (torch.cat(part) for part in zip(*ctx.batches("train")))
    by_hand = []
    for unit in range(4):
        without = network[2](network[1](x.flatten(1))).clone()
        without[:, unit] = 0
        by_hand.append(F.cross_entropy(network[3](without), y))
    torch.testing.assert_close(method.scores(ctx)["1"], torch.stack(by_hand))
    assert ctx.prune_worst(method.scores(ctx), 0, "global")["1"].tolist() == [True, True, False, True]


@pytest.mark.parametrize(("given", "epochs"), [(0, 2), (5, 5)])
def test_2c_cycles_then_the_last_drop_then_once_more_from_the_first_weights(make_ctx, given, epochs):
    plan = dropnet(cycle_epochs=given).plan(make_ctx(arch="mlp_40_40"))
    cycle = Phase(epochs, rewind="init")
    assert plan == (cycle, cycle, cycle, PRUNE, cycle, Phase(1, "finetune"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not CIFAR.is_dir(), reason="not run: CIFAR-10 is not in data/")
def test_2g10_model_c_of_the_paper(tmp_path):
    """Unpruned, the authors' 90 trainings have a median of 67.0 % and range from 58.9 to 69.6 %."""
    recipe = load_recipe("dropnet")
    specs = [make_spec("dense", "dropnet_c_64_64_128_128", "cifar10", recipe, None, seed) for seed in range(3)]
    top1 = [execute(spec, RunOptions(out=tmp_path, quiet=True)).metrics.dense.top1 for spec in specs]
    assert 0.64 <= sum(top1) / 3 <= 0.69


# --- 2(h): what is ours where paper and code differ ------------------------------------------------------------


def test_2h01_2h02_only_ties_break_at_random_over_all_layers(make_training):
    ctx = native(make_training(DropNet(), arch="mlp_40_40")).ctx
    scores = random_scores(ctx)
    one, *others = (ctx.prune_worst(scores, 0.2, "layer") for _ in range(5))  # the code spares one of them at random
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)
    dead = {name: torch.zeros(40) for name in ctx.sites}
    draws = [ctx.prune_worst(dead, 0.2, "global") for _ in range(100)]
    lost = torch.stack([torch.stack([~mask for mask in masks.values()]).float() for masks in draws])
    assert (lost.sum(dim=(1, 2)) == 16).all()
    assert (lost.sum(dim=2).mean(dim=0) - 8).abs().max() < 1  # of each layer; the code empties the first one first
    assert lost.mean(dim=0).min() > 0.05  # a fifth of the draws drop any one unit


def test_2h03_absolute_value_before_the_mean_over_positions_behind_batch_norm(make_ctx):
    network = ConvNet(((4, 6),), (1, 8, 8), 10, norm=True)
    ctx = make_ctx(arch=network)
    train = ctx._data.train
    with torch.no_grad():
        norm = network.features[4]
        norm.weight.uniform_(0.5, 1), norm.bias.uniform_(-0.5, 0.5), norm.running_mean.uniform_(0, 0.5)
        maps = network.eval().features[:5](train.normalised(train.pixels))
    assert maps.min() < 0
    for order, expected in (("paper", maps.abs().mean((0, 2, 3))), ("code", maps.mean((2, 3)).abs().mean(0))):
        torch.testing.assert_close(dropnet(order=order).scores(ctx)["features.2"], expected)
    assert DropNet.Config().order == "paper"


@pytest.mark.parametrize("least", [1, 3])
def test_2h04_no_layer_is_emptied(make_training, least):
    ctx = make_training(DropNet(), arch="mlp_40_40").ctx
    ctx._budget = Budget(keep_macs=1e-4, min_keep=least)  # never met, so that only the floors stop the drops
    scores = {name: torch.rand(40) + k for k, name in enumerate(ctx.sites)}  # the first layer is always the worst
    for _ in range(8):
        ctx.masks = ctx.prune_worst(scores, 0.2, "global")
    assert widths_of(ctx.masks) == [least, 16 - least]
    with pytest.raises(UsageError, match="--min-keep 0: at least 1"):  # parity would ask for 0: it is no network
        Budget(min_keep=0)


def test_2h05_zeros_are_counted_position_by_position(make_ctx):
    ctx = showing(make_ctx, [[0, 2, 0, 0], [0, -1, 1, 0], [3, 3, 3, 3]])
    torch.testing.assert_close(dropnet(metric="apoz").scores(ctx)["0"], torch.full((2,), (1 / 4 + 2 / 4 + 1) / 3))
    code = dropnet(metric="apoz", order="code").scores(ctx)["0"]
    torch.testing.assert_close(code, torch.full((2,), 2 / 3))  # zeros of the mean over positions


def test_2h06_the_papers_training_is_a_recipe():
    recipe = load_recipe("dropnet")
    train = recipe.train
    assert (train.lr, train.epochs, train.patience, train.schedule) == (0.1, 100, 5, "constant")
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay, recipe.augment) == (32, 0, 0, "none")


def test_2h07_shares_are_of_the_units_that_can_be_dropped(make_ctx):
    ctx = make_ctx(arch="dropnet_c_64_64_128_128", shape=(3, 32, 32))
    assert list(ctx.sites.widths.values()) == [64, 64, 128, 128]  # not the 256 linear units
    assert "hidden.0" in ctx.sites.rejected
    ctx.masks = {name: torch.arange(len(mask)) < len(mask) // 4 for name, mask in ctx.masks.items()}
    assert ctx.units_left == 0.25


def test_2h08_one_at_a_time_at_random_is_random_in_each_layer(make_training):
    method = dropnet(metric="random_layer", p=0)
    ctx = native(make_training(method, arch="mlp_40_40")).ctx
    draws = [ctx.prune_worst(method.scores(ctx), 0, method.ranking) for _ in range(30)]
    assert {tuple(widths_of(masks)) for masks in draws} == {(39, 39)}
    for name in ctx.sites:  # the code always takes the first one left
        assert len({int((~masks[name]).nonzero()) for masks in draws}) > 10


def test_2h10_measured_in_eval_mode_on_images_as_they_are(make_training):
    training = make_training(DropNet(), augment="shift", train__epochs=1)
    ctx = training.ctx
    carry_out(training, training.method.plan(ctx)[:1])  # statistics that differ from a batch's
    ctx._model.network.train()
    before, rng = {k: v.clone() for k, v in ctx._model.network.state_dict().items()}, torch.get_rng_state()
    scores = dropnet().scores(ctx)
    assert all(torch.equal(before[k], v) for k, v in ctx._model.network.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state()) and ctx._model.network.training
    train, maps = ctx._data.train, {}
    for name in ctx.sites:
        block = ctx._model.network.get_submodule(name.rpartition(".")[0])
        block.conv2.register_forward_pre_hook(lambda m, args, name=name: maps.update({name: args[0]}))
    with torch.no_grad():
        ctx._model.network.eval()(train.normalised(train.pixels))
    for name, score in scores.items():
        torch.testing.assert_close(score, maps[name].abs().mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
