"""The adapter to Torch-Pruning, and the library's known defects: docs/methods/torch_pruning.md lists them.

A test named ``test_defect_*`` that fails tells that a new release mends what it shows: then correct the page.
"""

import dataclasses

import pytest
import torch
import torch_pruning as tp
from support.networks import GREY, SHAPE, conv, found, head, hooks_of, images, made, randomised, three_sites
from torch import nn
from torch.nn.functional import cross_entropy

from bench.conformance.tiny_networks import conv_flatten, depthwise, narrow
from bench.errors import RunFailed, Unsupported
from bench.pruning.dependency_graph import graph_of
from bench.pruning.site_discovery import find_sites
from bench.runs.execute import execute
from bench.spec.registry import METHODS
from methods.torch_pruning_adapter import FromImages

NAMES = sorted(name for name in METHODS.entries() if name.startswith("tp_"))
NETWORKS = {
    "plain": (three_sites, GREY, "inner"),
    "resnet20": ("resnet20", GREY, "inner"),
    "resnet20 full": ("resnet20", GREY, "full"),
    "resnet20b full": ("resnet20b", GREY, "full"),
    "lenet": ("lenet", (1, 16, 16), "inner"),
    "mlp": ("mlp_40_40", GREY, "inner"),
}
NEITHER_NORM_NOR_BIAS_FREE = {"lenet", "mlp"}


def backward(network, x, y):
    cross_entropy(network(x), y).backward()


def method(name, **options):
    cls = METHODS.get(name)
    return cls(cls.Config(**({"batches": 1} | options if issubclass(cls, FromImages) else options)))


@pytest.fixture
def context(make_ctx):
    def make(case, shape=None):
        arch, usual, coupling = NETWORKS[case]
        arch = arch if isinstance(arch, str) else arch()
        ctx = make_ctx(arch=arch, shape=shape or usual, coupling=coupling, batch_size=8)
        randomised(ctx._model.network)
        return ctx

    return make


QUICK = {"plain": NAMES, "resnet20 full": NAMES[::3], "lenet": ("tp_bn_scale", "tp_l1_first"), "mlp": ("tp_obdc",)}
"""Names that are scored on each network in the fast tests; all are on all in the slow ones."""


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in NETWORKS)])
def test_every_site_has_finite_scores_or_one_line_says_why_not(case, context, request):
    slow = request.node.get_closest_marker("slow")
    for name in NAMES if slow else QUICK[case]:
        ctx = context(case)
        if case in NEITHER_NORM_NOR_BIAS_FREE and name in ("tp_bn_scale", "tp_obdc"):
            with pytest.raises(RunFailed, match=f"{name}: torch-pruning (skips|fails on) site"):
                method(name).scores(ctx)
            continue
        scores = method(name).scores(ctx)
        assert list(scores) == list(ctx.sites)
        for site, score in scores.items():
            assert score.shape == (ctx.sites[site].n_units,), (name, site)
            assert score.isfinite().all(), (name, site)
            assert score.unique().numel() > 1, (name, site)
            assert not score.requires_grad, (name, site)


@pytest.mark.parametrize("name", NAMES)
def test_scores_repeat_are_counted_and_change_nothing(name, context):
    """Neither network nor global generator; whatever state that generator is in, a seed gives the same scores."""
    found = []
    for seed in (1, 2):
        ctx, chosen = context("plain"), method(name)
        network = ctx._model.network.train()
        next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 2.0)
        before = {n: t.clone() for n, t in network.state_dict().items()}
        modules = [(n, m, m.training, sorted(vars(m))) for n, m in network.named_modules()]
        torch.manual_seed(seed)
        state, ledger = torch.get_rng_state(), ctx._model.ledger
        counted = ledger.forward, ledger.backward
        found.append(torch.cat(list(chosen.scores(ctx).values())))
        assert torch.equal(torch.get_rng_state(), state)
        assert [(n, m, m.training, sorted(vars(m))) for n, m in network.named_modules()] == modules
        assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
        assert all((p.grad == 2).all() for p in network.parameters())
        assert not hooks_of(network)
        seen = 8 if isinstance(chosen, FromImages) else 0
        once = seen if name == "tp_activation" else 0  # it needs no gradient
        spent = ledger.forward - counted[0], ledger.backward - counted[1]
        assert spent == (once, seen - once + 2)  # 2 for the trace
    assert torch.equal(*found)


REFUSED = [
    ("tp_activation", conv_flatten, "site 3: 7 reads a unit at several inputs"),
    ("tp_obdc", depthwise, "site 0: 0 has a bias"),
    ("tp_fpgm", narrow, "site 3: its one unit has no distance to others"),
    ("tp_bn_scale", conv_flatten, "site 0: it has no batch norm with a scale"),
]


@pytest.mark.parametrize(("name", "network", "why"), REFUSED)
def test_what_torch_pruning_has_no_score_for_is_refused_before_training(name, network, why):
    sites = find_sites(network(), SHAPE)
    with pytest.raises(Unsupported, match=f"^{name} does not work on {why}"):
        method(name).require(sites)
    method("tp_magnitude").require(sites)


def test_units_of_several_channels_are_refused_before_training():
    _, sites = found("grouped")
    for name in NAMES:
        with pytest.raises(
            Unsupported, match=f"^{name} does not work on site .: (torch-pruning ranks channels|it has)"
        ):
            method(name).require(sites)


def test_random_scores_differ_between_calls(context):
    ctx = context("plain")
    first, second = (method("tp_random").scores(ctx) for _ in range(2))
    assert not torch.equal(first["0"], second["0"])


@pytest.mark.parametrize("case", ["plain", "lenet", "mlp"])
def test_l1_first_is_our_l1_norm_on_inner_sites(case, context):
    ctx = context(case)
    ours, theirs = METHODS.get("l1_norm")().scores(ctx), method("tp_l1_first").scores(ctx)
    assert all(torch.equal(ours[site], theirs[site]) for site in ctx.sites)


@pytest.mark.parametrize("case", ["plain", "resnet20 full", "resnet20b full"])
def test_bn_scale_is_gamma_over_its_mean(case, context):
    ctx = context(case)
    for site, score in method("tp_bn_scale").scores(ctx).items():
        gamma = ctx.sites[site].gamma()
        torch.testing.assert_close(score, gamma / gamma.mean())


def test_magnitude_by_hand(context):
    """Mean over producer, norm and reader of the squared l2 norm of what belongs to the unit, over its mean.

    Lamp ranks a site alike, so the two differ under global ranking only.
    """
    ctx = context("resnet20")
    block = ctx._model.network.get_submodule("blocks.0")
    parts = block.conv1.weight.flatten(1), block.bn1.weight[:, None], block.conv2.weight.transpose(0, 1).flatten(1)
    size = sum(part.square().sum(dim=1) for part in parts)
    lamp, magnitude = (method(name).scores(ctx) for name in ("tp_lamp", "tp_magnitude"))
    torch.testing.assert_close(magnitude["blocks.0.conv1"], (size / size.mean()).detach())
    assert all(torch.equal(lamp[site].argsort(), magnitude[site].argsort()) for site in ctx.sites)


def test_obdc_by_hand(context):
    """Sum of weight² times the summed squared gradient of each image, at labels drawn from the prediction."""
    ctx = context("resnet20")
    state = ctx.rng.get_state()
    found = method("tp_obdc").scores(ctx)["blocks.0.conv1"]
    ctx.rng.set_state(state)
    x, _ = next(ctx.batches("train", limit=1))
    weight = ctx._model.network.get_submodule("blocks.0.conv1").weight
    fisher = torch.zeros_like(weight)
    with ctx.probe(gradients=True):
        torch.manual_seed(int(torch.randint(2**31, (), generator=ctx.rng)))
        labels = ctx._model.network(x).detach().softmax(dim=1).multinomial(1).squeeze(1)
        for image, label in zip(x.split(1), labels.split(1), strict=True):
            weight.grad = None
            backward(ctx._model.network, image, label)
            fisher += weight.grad.square()
    expected = (weight.square() * fisher).flatten(1).sum(dim=1).detach()
    torch.testing.assert_close(found, expected / expected.mean(), rtol=1e-4, atol=1e-5)


def test_a_padded_shortcut_counts_as_the_convolution_it_is_traced_as(context):
    """It belongs to the groups of both residual streams it joins; its weights are zeros and ones."""
    ctx = context("resnet20 full")
    found = graph_of(ctx._model.network, GREY)
    pad = found.network.get_submodule("blocks.3.shortcut")
    assert pad.weight.unique().tolist() == [0, 1]
    holders = [site for site in ctx.sites if any(dep.target.module is pad for dep, _ in found.group(site))]
    assert holders == [site for site in ctx.sites if len(ctx.sites[site].producers) > 1][:2]


def test_masked_units_stay_masked_on_the_copy(context):
    """Their weights get no gradient, so an importance that reads it is zero but for what it normalises by."""
    ctx = context("plain")
    ctx.masks = ctx.masks | {"0": torch.arange(12) % 2 == 0}
    score = method("tp_taylor").scores(ctx)["0"]
    assert (score[1::2] == 0).all()
    assert (score[::2] > 0).all()


def test_no_batch_is_no_option():
    with pytest.raises(ValueError, match="1 or more"):
        method("tp_taylor", batches=0)
    assert {f.name for n in NAMES for f in dataclasses.fields(METHODS.get(n).Config)} == {"batches"}


@pytest.mark.parametrize(
    ("name", "options"), [("tp_random", {}), pytest.param("tp_obdc", {"batches": "2"}, marks=pytest.mark.slow)]
)
def test_run_with_scores_of_torch_pruning(name, options, make_run):
    spec, settings = make_run(name, "two_layers" if name == "tp_random" else "resnet20", "tiny8", options=options)
    assert execute(spec, settings).status == "ok"


# --- what torch-pruning 1.6.1 does wrong -----------------------------------------------------------------------------


def traced(network, shape=SHAPE):
    return graph_of(network, shape)


LABELS = torch.arange(6) % 4


def test_defect_fpgm_does_not_see_signs():
    """Turning a filter round moves it away from the others; FPGM's distances must change, and do not."""
    found = traced(made("conv_bn"))
    before = tp.importance.FPGMImportance()(found.group("0"))
    true = torch.cdist(*[found.network[0].weight.detach().flatten(1)] * 2).sum(dim=1)
    with torch.no_grad():
        found.network[0].weight[0] *= -1
    assert torch.equal(tp.importance.FPGMImportance()(found.group("0")), before)
    assert not torch.allclose(torch.cdist(*[found.network[0].weight.detach().flatten(1)] * 2).sum(dim=1), true)


def test_defect_taylor_leaves_batch_norms_out():
    found = traced(made("conv_bn"))
    backward(found.network, images(6), LABELS)
    before = tp.importance.GroupTaylorImportance()(found.group("0"))
    found.network[1].weight.grad *= 1000
    assert torch.equal(tp.importance.GroupTaylorImportance()(found.group("0")), before)


def test_defect_hessian_keeps_the_last_image_only():
    network = traced(made("conv_bn")).network
    importance = tp.importance.GroupHessianImportance()
    for image, label in zip(images(6).split(1), LABELS.split(1), strict=True):
        network.zero_grad()
        backward(network, image, label)
        importance.accumulate_grad(network)
    assert set(importance._counter.values()) == {1}
    assert all(torch.equal(importance._accu_grad[p], p.grad.square()) for p in network.parameters())


def test_defect_activation_keeps_the_last_batch_only(context):
    ctx = context("resnet20")
    x, _ = list(ctx.batches("train", limit=2))[-1]
    with ctx.probe(), ctx.activations():
        found = {}
        handle = ctx._model.network.get_submodule("blocks.0.conv2").register_forward_pre_hook(
            lambda module, given: found.update(read=given[0].abs().mean((0, 2, 3)))
        )
        ctx._model.network(x)
        handle.remove()
    two = method("tp_activation", batches=2).scores(ctx)["blocks.0.conv1"]
    torch.testing.assert_close(two, found["read"] / found["read"].mean())


def test_defect_activation_sums_over_the_batch_for_linear_readers_and_averages_for_convolutions():
    network = nn.Sequential(conv(3, 5), *head(5))
    importance = tp.importance.ActivationImportance()
    sums = []
    for x in (images(2), images(2).repeat(3, 1, 1, 1)):
        with torch.no_grad(), importance.compute_importance(network):
            network(x)
        sums.append((network[0]._importance, network[3]._importance))
    torch.testing.assert_close(sums[1][0], sums[0][0])
    torch.testing.assert_close(sums[1][1], 3 * sums[0][1])


def test_defect_depthwise_weights_count_nowhere():
    found = traced(made("depthwise"))
    backward(found.network, images(6), LABELS)
    makers = (
        tp.importance.GroupMagnitudeImportance,
        tp.importance.FPGMImportance,
        tp.importance.GroupTaylorImportance,
        tp.importance.GroupHessianImportance,
    )
    before = [make()(found.group("0")) for make in makers]
    with torch.no_grad():
        found.network[3].weight[0] *= 100
    assert all(torch.equal(make()(found.group("0")), old) for make, old in zip(makers, before, strict=True))


def test_defect_activation_has_no_score_for_channels_that_a_linear_layer_reads_as_images(context):
    with pytest.raises(RunFailed, match="no number for each of the 50 units of site conv2"):
        method("tp_activation").scores(context("lenet", (1, 28, 28)))


def test_defect_obdc_fails_on_layers_with_a_bias(context):
    ctx = context("lenet")
    with pytest.raises(RunFailed, match=r"site conv1 .*size of tensor a \(25\) must match .* tensor b \(26\)"):
        method("tp_obdc").scores(ctx)
