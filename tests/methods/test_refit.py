"""Compensations: tests F1 to F9 of the contract's section 4, against numpy where an equation is solved."""

import re

import pytest
import torch
from support.networks import GREY, SHAPE, conv, half_masks, head, in_forwards, made, three_sites
from support.plans import same, state_of
from support.whole_runs import stopped_everywhere, verified
from torch import nn

from bench.conformance.subject import Subject
from bench.conformance.tiny_networks import NETWORKS
from bench.errors import RunFailed, Unsupported, UsageError
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.training.batchnorm import recalibrate

PARTS = ("refit_mean", "refit_variance", "refit_ridge")


def compensate(ctx, name, masks, **options):
    """Let a part compensate on a context, as a prune does."""
    method = make_method(name, {key: str(value) for key, value in options.items()})
    with ctx._now.during("compensate"):
        method.compensate(ctx, masks)
    ctx._refit = None


def randomised(network):
    """Norms that are no identities."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.5)
    return network


@pytest.fixture
def ctx(make_ctx):
    torch.manual_seed(0)
    return make_ctx(arch=randomised(three_sites()), shape=GREY)


def response(ctx, name, masks=None, **size):
    """What a layer makes of the sampled rows, its own bias or norm's mean included, in float64."""
    layer = ctx.layers[name]
    with ctx.masked(masks or {}):
        x = ctx.samples([name], **size)[name].double()
    norm = ctx._model.network.get_submodule(layer.follower) if layer.follower else None
    constant = layer.module.bias.detach() if layer.module.bias is not None else 0.0
    return x @ layer.matrix().detach().double().T + constant - (norm.running_mean if norm else 0.0)


def squared(a, b):
    return float((a - b).square().mean())


# --- F1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patches", [40, 1000])
@pytest.mark.parametrize("strength", [0, pytest.param(1e-3, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize("case", ["conv_bn", "conv_flatten", "densely_connected", "encoder"])
def test_f1_ridge_never_raises_the_error_on_its_rows(make_ctx, case, strength, patches):
    """F1: every reader, ridge 0, 1e-3, 0.1, more and fewer rows than columns."""
    ctx = make_ctx(arch=made(case), shape=SHAPE)
    size = {"images": 60, "patches": patches}
    masks = half_masks(ctx.sites)
    method = make_method("refit_ridge", {"ridge": str(strength)})
    dense = {name: response(ctx, name, **size) for name, layer in ctx.layers.items() if layer.reads}
    done, fewer, more = {}, 0, 0
    for site in dict.fromkeys(layer.makes for layer in ctx.layers.values() if layer.makes):
        done[site] = masks[site]
        readers = [name for name, layer in ctx.layers.items() if site in layer.reads]
        before = {name: squared(response(ctx, name, done, **size), dense[name]) for name in readers}
        errors = ctx.refit(site, masks[site], method.solve, **size)
        assert list(errors) == readers
        for k, name in enumerate(readers):
            assert errors[name][0] == pytest.approx(before[name], rel=1e-3)
            assert errors[name][1] <= before[name] * (1 + 1e-5)
            if k == 0:  # another reader may read what this one now makes: its rows are no longer those of the fit
                after = squared(response(ctx, name, done, **size), dense[name])
                assert errors[name][1] == pytest.approx(after, rel=1e-3, abs=1e-8)
            rows, columns = len(dense[name]), ctx.layers[name].matrix().shape[1]
            fewer, more = fewer + (rows < columns), more + (rows > columns)
    assert fewer if patches == 40 and case in ("conv_bn", "conv_flatten") else more


# --- F2 ------------------------------------------------------------------------------------------------------------


def planted(constant, padding=1, linear=False):
    """Unit 2 of the first layer is a combination of units 0 and 4, and a constant; nothing lies between the layers."""
    torch.manual_seed(1)
    if linear:
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 10))
    else:
        network = nn.Sequential(conv(1, 6), nn.Conv2d(6, 5, 3, padding=padding), nn.ReLU(), *head(5, 10))
    maker = network[1] if linear else network[0]
    with torch.no_grad():
        for tensor in (maker.weight, maker.bias):
            tensor[2] = 0.5 * tensor[0] - 1.2 * tensor[4]
        maker.bias[2] += constant
    return network.eval(), "1" if linear else "0"


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ({"constant": 0.0}, True),
        ({"constant": 0.0, "linear": True}, True),
        ({"constant": 1.0, "linear": True}, True),
        ({"constant": 1.0, "padding": 0}, True),
        ({"constant": 1.0}, False),
    ],
)
def test_f2_what_others_combine_to_is_recovered(make_ctx, kind, exact):
    """F2: to 1e-5 of the largest output at ridge 1e-6; a constant only where no zeros are padded."""
    network, site = planted(**kind)
    ctx = make_ctx(arch=network)
    masks = ctx.sites.ones()
    masks[site][2] = False
    with torch.no_grad():
        dense = network(ctx.x)
        compensate(ctx, "refit_ridge", masks, ridge=1e-6)
        with ctx.masked(masks):
            error = float((network(ctx.x) - dense).abs().max() / dense.abs().max())
    assert (error < 1e-5) == exact
    assert exact or error > 1e-3


# --- F3, F4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", ["now", "base"])
@pytest.mark.parametrize(("part", "options"), [*((p, {}) for p in PARTS), ("refit_ridge", {"ridge": 0})])
def test_f3_masks_of_ones_change_no_bit(ctx, part, options, inputs):
    before = state_of(ctx._model.network)
    compensate(ctx, part, ctx.sites.ones(), inputs=inputs, **options)
    assert same(state_of(ctx._model.network), before)


def test_f4_mean_is_exact_for_a_linear_reader_of_constant_units(make_ctx):
    """F4: to 1e-6; constants that a ReLU lets through, and one that it does not."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    with torch.no_grad():
        network[1].weight[:3] = 0
        network[1].bias[:3] = torch.tensor([0.7, 2.0, -1.0])
    ctx = make_ctx(arch=network)
    masks = {"1": torch.arange(6) >= 3}
    with torch.no_grad():
        dense = network(ctx.x)
        compensate(ctx, "refit_mean", masks)
        with ctx.masked(masks):
            assert torch.allclose(network(ctx.x), dense, atol=1e-6)


# --- F5 ------------------------------------------------------------------------------------------------------------

EVERY = (*PARTS, "refit_bn", "refit_ridge+refit_bn")
DECLINED = {("refit_mean", "check_concatenation"), ("refit_variance", "check_concatenation")}


def tried():
    """Each part on each network: of one part all are fast, of the others two networks, one of which may be declined."""
    for part in EVERY:
        for arch, coupling in (*((arch, "inner") for arch in NETWORKS), ("check_residual", "full")):
            fast = part == "refit_ridge" or coupling == "full" or arch == "check_concatenation"
            yield pytest.param(part, arch, coupling, marks=[pytest.mark.slow] * (not fast))


@pytest.mark.parametrize(("part", "arch", "coupling"), [*tried()])
def test_f5_gate_is_slice_after_each_part(tmp_path, part, arch, coupling):
    """F5: on every network of the battery that the part works on; the run itself compares and would fail."""
    subject = Subject(f"l1_norm+{part}", tmp_path)
    settings = {"arch": arch, "coupling": coupling, "train__epochs": "1", "finetune__epochs": "0"}
    if (part, arch) in DECLINED:
        with pytest.raises(Unsupported, match="has no bias and no batch norm directly behind it"):
            subject.run(**settings)
        return
    result = subject.run(**settings).done.now.prune_result
    assert result["gate_slice_difference"] <= 1e-4
    assert result["calibration"]["parts"] == part.split("+")


# --- F6 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["refit_mean", "refit_variance"])
def test_f6_moments_that_estimating_again_undoes_are_refused_before_training(make_run, part):
    """F6: where a norm follows every reader; on a network without norms the pair is allowed."""
    spec, options = make_run(f"l1_norm+{part}+refit_bn", "check_residual", "tiny8")
    with pytest.raises(Unsupported, match=rf"^{part} and refit_bn: a batch norm follows every layer that reads a site"):
        execute(spec, options)
    assert not (options.out / "bases").exists()
    execute(*make_run(f"l1_norm+{part}+refit_bn", "two_layers", "tiny", finetune__epochs=0))


def norms_everywhere():
    """A batch norm follows the only layer that reads a site."""
    network = nn.Sequential(
        *(
            conv(1, 12, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            conv(12, 8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ),
        *head(8, 10),
    )
    network.whole = ("3",)
    return randomised(network)


@pytest.mark.parametrize("part", ["refit_mean", "refit_variance", "refit_ridge"])
def test_f6_trap_estimating_again_undoes_moments_and_not_weights(make_training, part):
    """All logits are those of estimating alone, though the part changed them before."""

    def logits(*parts, estimate):
        torch.manual_seed(0)
        training = make_training(arch=norms_everywhere(), shape=GREY)
        ctx, model = training.ctx, training.model
        masks = half_masks(ctx.sites)
        for name in parts:
            compensate(ctx, name, masks)
        model.masks = masks
        recalibrate(model, training.data, training.recipe, 0, 3 if estimate else 0)
        with torch.no_grad():
            return model.network.eval()(ctx.x)

    assert not torch.allclose(logits(part, estimate=False), logits(estimate=False), atol=1e-2)
    same_again = torch.allclose(logits(part, estimate=True), logits(estimate=True), atol=1e-4)
    assert same_again == (part != "refit_ridge")


# --- F7, F8 --------------------------------------------------------------------------------------------------------


def test_f7_same_seed_same_bytes_and_a_resume_changes_nothing(make_run, monkeypatch, tmp_path):
    """F7, with an epoch before and after the cut."""
    made_by = [make_run("group_lasso+refit_ridge+refit_bn", out=tmp_path / name) for name in "abc"]
    one, two = (execute(*made) for made in made_by[:2])
    three, stops = stopped_everywhere(made_by[2], monkeypatch)
    assert stops >= 3
    assert one.artifacts.network.sha256 == two.artifacts.network.sha256 == three.artifacts.network.sha256
    assert one.training == two.training == three.training
    assert one.metrics == two.metrics == three.metrics


@pytest.mark.parametrize(
    ("part", "options", "passes"),
    [
        ("refit_ridge", {"images": 50, "patches": 70}, 3),
        ("refit_ridge", {"images": 50, "inputs": "base"}, 1),
        ("refit_variance", {"images": 50}, 3),
        ("refit_mean", {"images": 1000}, 3),
    ],
)
def test_f8_cost_is_the_forwards_made(ctx, part, options, passes):
    """F8: one pass of the dense network, and one for each site where inputs are of the compensated one."""
    ctx._model.network.train()
    compensate(ctx, part, half_masks(ctx.sites), **options)
    images = min(options["images"], 96)
    passes += len(ctx.sites) - 2 if passes > 1 else 0
    assert in_forwards(ctx) == passes * images
    assert ctx._model.ledger.macs == passes * images * ctx._model.macs
    assert all(module.training for module in ctx._model.network.modules())


def test_f8_record_has_the_cost_and_the_calibration(make_run):
    done = verified(make_run("l1_norm+refit_ridge+refit_bn", "two_layers", "tiny", finetune__epochs=0))
    sites = len(done.structure.widths)
    images, batches = done.data.train, min(20, done.data.train // 32) * 32
    assert done.training.method_examples == {"forward": (1 + sites) * images + batches, "backward": 0}
    dense, final = done.cost.dense.macs, done.cost.final.macs
    assert done.training.method_macs == (1 + sites) * images * dense + batches * final
    assert done.training.macs == done.training.base.macs + done.training.method_macs
    said = done.training.calibration
    assert (said.parts, said.images, said.patches) == (["refit_ridge", "refit_bn"], 512, 4000)
    assert (said.inputs, said.batches) == ("now", 20)
    assert 0 < done.clock.seconds["solver"] < done.clock.seconds["method"]


# --- options and compositions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("refit_ridge", {"ridge": "-1"}, "ridge -1.0: 0 or more"),
        ("refit_ridge", {"images": "0"}, "images 0: 1 or more"),
        ("refit_mean", {"patches": "0"}, "patches 0: 1 or more"),
        ("refit_variance", {"inputs": "then"}, "not one of now, base"),
        ("refit_bn", {"batches": "0"}, "batches 0: 1 or more"),
        ("refit_mean+refit_ridge", {}, "refit_mean and refit_ridge cannot be composed: one of them compensates"),
        ("refit_bn+refit_ridge", {}, "refit_bn comes after refit_ridge"),
        ("dense+refit_ridge", {}, "refit_ridge compensates what is cut, and in dense+refit_ridge nothing is pruned"),
        ("dense+refit_bn", {}, "refit_bn compensates what is cut, and in dense"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make_method(name, options)


def test_shift_is_left_out_where_a_reader_takes_none(make_ctx):
    """The readers of a concatenation have no bias: ridge does without a constant."""
    ctx = make_ctx(arch=made("densely_connected"), shape=SHAPE)
    assert not ctx.layers["2.conv"].shifts
    compensate(ctx, "refit_ridge", half_masks(ctx.sites))
    seen = []
    ctx._now.hooks = ("compensate",)
    ctx.refit(
        "0",
        half_masks(ctx.sites)["0"],
        lambda x, missing, weight: seen.append((x, weight)) or torch.zeros(len(weight), x.shape[1]).double(),
    )
    assert [x.shape[1] - weight.shape[1] for x, weight in seen] == [0, 0, 1]


def test_refit_is_for_compensate_and_solvers_are_checked(ctx):
    mask = half_masks(ctx.sites)["0"]
    with (
        pytest.raises(RunFailed, match=r"^ctx.refit in select: only compensate may do that$"),
        ctx._now.during("select"),
    ):
        ctx.refit("0", mask, None)
    with ctx._now.during("compensate"):
        for given, said in (
            (torch.ones(3), r"\[3\]"),
            (None, "NoneType"),
            (torch.full((16, 55), torch.nan), r"\[16, 55\]"),
        ):
            with pytest.raises(RunFailed, match=rf"solve gave {said} for the reader 4, not \[16, 55\] finite numbers"):
                ctx.refit("0", mask, lambda x, missing, weight, given=given: given)
        with pytest.raises(RunFailed, match=r"ctx.refit with inputs 'then': now or base"):
            ctx.refit("0", mask, None, inputs="then")
