"""The fit test: what a run would meet is met before it, in the network or in single sites."""

import random

import numpy as np
import pytest
import torch
from support.networks import GREY, conv, head, images
from support.paths import PLUGINS
from torch import nn
from torch.nn import functional as F

from bench.cli import main
from bench.conformance.architecture_check import Request, examine
from bench.errors import UsageError
from bench.records import store
from bench.runs import preflight
from bench.runs.execute import execute
from bench.runs.network_trial import Situation
from bench.runs.preflight import fit
from bench.runs.verify import verify_file
from bench.spec.recipe import load_recipe
from bench.spec.registry import add_plugin
from leaderboard.render.record_summary import details


@pytest.fixture
def unusual(plugins):
    add_plugin(str(PLUGINS / "unusual.py"))


def situation(coupling="inner", precision="fp32", **settings):
    recipe = load_recipe("digits", {key: str(value) for key, value in settings.items()})
    return Situation(GREY, 10, coupling, recipe, torch.device("cpu"), precision)


def fitted(network, given=None, **settings):
    preflight._known.clear()
    return fit("net", network, situation(**settings), given)


def refusal(network, given=None, **settings):
    with pytest.raises(UsageError) as caught:
        fitted(network, given, **settings)
    assert caught.value.blame == "architecture"
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Net(nn.Module):
    """Sites ``one`` and ``two``; what is done with their maps is a function's."""

    def __init__(self, end=lambda net, x: net.fc(x.mean((2, 3))), features=5):
        super().__init__()
        self.one, self.norm, self.two = conv(1, 6), nn.BatchNorm2d(6), conv(6, 5)
        self.fc, self.other, self.end = nn.Linear(features, 10), nn.Linear(6, 10), end

    def first(self, x):
        return self.norm(self.one(x)).relu()

    def forward(self, x):
        return self.end(self, self.two(self.first(x)).relu())


# --- memory format ----------------------------------------------------------------------------------------------------

POOL = nn.MaxPool2d(2)
VIEWS = {
    "rows by size": (lambda net, x: net.fc(POOL(x).view(x.size(0), -1)), 80),
    "columns": (lambda net, x: net.fc(POOL(x).view(-1, 80 if x.shape[1] == 5 else 16 * x.shape[1])), 80),
    "after permute": (
        lambda net, x: net.fc(
            x.flatten(2).permute(0, 2, 1).contiguous().view(-1, x.shape[1]).view(len(x), 64, -1).mean(1)
        ),
        5,
    ),
}


def test_fit_falls_back_to_channels_first_for_view():
    for how in ("rows by size", "columns"):
        found = fitted(Net(*VIEWS[how]))
        assert found.layout == "channels_first"
        assert "view size is not compatible" in found.note
        assert "test_preflight.py:" in found.note
        assert set(found.sites) == {"one", "two"}


def test_fit_stays_channels_last_where_view_allows_it():
    for end in (
        lambda net, x: net.fc(x.view(len(x), x.shape[1], -1).mean(2)),
        lambda net, x: net.fc(x.view(len(x), 1, x.shape[1], 8, 8).mean((1, 3, 4))),
        lambda net, x: net.fc(x.mean((2, 3), keepdim=True).view(len(x), -1)),
        VIEWS["after permute"][0],
    ):
        found = fitted(Net(end))
        assert (found.layout, found.note) == ("channels_last", "")
        assert "one" in found.sites


# --- training mode ----------------------------------------------------------------------------------------------------


class Uses(Net):
    """Uses the maps of site ``one`` in a way of its own while training."""

    def __init__(self, use):
        super().__init__()
        self.use, self.late = use, conv(6, 6)

    def forward(self, x):
        first = self.first(x)
        logits = self.fc(self.two(first).relu().mean((2, 3)))
        return self.use(self, first, logits) if self.training else logits


def test_fit_rejects_site_that_only_training_reads():
    for use, layer in (
        (lambda net, x, y: y + net.other(x.mean((2, 3))), "layer other (Linear)"),
        (lambda net, x, y: y + net.late(x).mean(), "layer late (Conv2d)"),
        (lambda net, x, y: y + F.linear(x.mean((2, 3)), net.other.weight), "fails while training with RuntimeError"),
    ):
        found = fitted(Uses(use))
        assert set(found.sites) == {"two"}
        why = found.sites.rejected["one"]
        assert layer in why
        assert ("layer" in layer) == why.startswith("a layer that only training uses reads it: RuntimeError: ")


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.rand])
def test_fit_draws_several_times_from_any_generator(draw):
    """One of five forwards uses a layer that reads the site: two steps alone would seldom meet it."""
    found = fitted(Uses(lambda net, x, y: y + net.other(x.mean((2, 3))) if draw() < 0.2 else y))
    assert found.sites.rejected["one"].startswith("a layer that only training uses reads it")


def test_fit_refuses_network_that_cannot_be_trained():
    for use, said in (
        (lambda net, x, y: (y, y), "gives a tuple of (4, 10) and (4, 10) for 4 images while training"),
        (lambda net, x, y: {"logits": y, "maps": x}, "gives a dict of logits, maps for 4 images while training"),
        (lambda net, x, y: y.detach(), "fails while training with RuntimeError: element 0 of tensors does not require"),
        (lambda net, x, y: y * float("nan"), "its loss is nan before any training"),
        (lambda net, x, y: y.exp().add_(0) * y.exp_(), "fails while training with RuntimeError: one of the variables"),
    ):
        assert said in refusal(Uses(use))


def test_fit_refuses_network_that_cannot_be_evaluated():
    for end, said in (
        (lambda net, x: (net.fc(x.mean((2, 3))), x), "gives a tuple of (4, 10) and (4, 5, 8, 8) for 4 images in eval"),
        (lambda net, x: net.fc(x.mean((2, 3)))[:, :7], "gives (4, 7) for 4 images in eval mode, not logits (4, 10)"),
        (lambda net, x: net.fc(x.mean((2, 3))).expand(4, -1)[:4], "gives (4, 10) for one image, not 10 logits"),
        (lambda net, x: net.fc(F.dropout(x, 0.5).mean((2, 3))), "two passes over the same images give different"),
        (lambda net, x: net.absent(x), "fails in eval mode with AttributeError: 'Net' object has no attribute"),
    ):
        assert said in refusal(Net(end))


def test_fit_allows_one_image_without_batch_axis():
    found = fitted(Net(lambda net, x: net.fc(x.mean((2, 3)).squeeze())))
    assert set(found.sites) == {"one", "two"}


def test_fit_refuses_norm_over_a_batch_of_one():
    network = nn.Sequential(conv(1, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6), *head(6, 10))
    said = refusal(network, batch_size=1)
    assert "while training with batch_size=1" in said
    assert "Expected more than 1 value per channel when training" in said
    assert set(fitted(network, batch_size=2).sites) == {"0"}


class Counts(Net):
    """Shifts its logits by what it has counted, in a buffer that is not saved."""

    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=persistent)

    def forward(self, x):
        self.seen += self.training
        return super().forward(x) + self.seen * torch.arange(10)


class ExtraState(Net):
    """Keeps something in its state_dict that is no tensor."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_fit_refuses_state_that_no_file_keeps():
    assert "saved and loaded again it gives other logits" in refusal(Counts(persistent=False))
    assert fitted(Counts(persistent=True)).layout == "channels_last"
    assert "its state_dict has a dict, _extra_state: only tensors are saved" in refusal(ExtraState())


# --- other images -----------------------------------------------------------------------------------------------------


class Chooses(Net):
    """Takes another way for some images."""

    def __init__(self, when, other):
        super().__init__()
        self.when, self.otherwise, self.late = when, other, conv(6, 6)

    def forward(self, x):
        first = self.first(x)
        if self.when(x):
            return self.otherwise(self, first)
        return self.fc(self.two(first).relu().mean((2, 3)))


def test_fit_refuses_cost_that_depends_on_the_images():
    def other(net, x):
        return net.other(x.mean((2, 3)))

    for when in (lambda x: x.mean() > 0.2, lambda x: x.min() < -1.5, lambda x: x.std() > 0.9):
        assert "MACs for some images and" in refusal(Chooses(when, other))
    given = images(4, GREY).fill_(7)
    assert "MACs for some images" in refusal(Chooses(lambda x: bool((x == 7).any()), other), given)


def test_fit_rejects_site_read_on_a_rare_branch():
    """The way costs the same, so that the network can be run."""
    weight = torch.randn(10, 6)
    network = Chooses(
        lambda x: x.mean() > 1,
        lambda net, x: net.fc(net.two(x).relu().mean((2, 3))) + (x.mean((2, 3))[..., None] * weight.T).sum(1),
    )
    found = fitted(network)
    assert set(found.sites) == {"two"}
    assert found.sites.rejected["one"].startswith("without half of its units it fails in eval mode with RuntimeError")


# --- shared memory ----------------------------------------------------------------------------------------------------


def test_fit_refuses_two_parameters_in_one_memory():
    network = Net()
    network.other.weight = nn.Parameter(network.fc.weight.data.T)
    assert "fc.weight and other.weight share their memory: make them one Parameter" in refusal(network)
    network.other.weight = network.fc.weight
    assert set(fitted(network).sites) == {"one"}


# --- the test itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fit_leaves_network_and_random_state_alone(precision):
    network = Net().train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    strict = torch.are_deterministic_algorithms_enabled()
    fitted(network, precision=precision)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.are_deterministic_algorithms_enabled() == strict
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_fit_is_reused_for_the_next_seed_only(monkeypatch):
    first, second = Net(), Net()
    found = fitted(first)
    monkeypatch.setattr(Net, "forward", lambda *_: pytest.fail("tested again"))
    again = fit("net", second, situation(batch_size=32))  # more than is used in the test
    assert again.sites.widths == found.sites.widths
    assert again.sites["one"].network is second
    assert found.sites["one"].network is first
    monkeypatch.undo()
    second.two = conv(6, 4)
    second.fc = nn.Linear(4, 10)
    assert fit("net", second, situation()).sites.widths == {"one": 6, "two": 4}


def test_fit_rejects_sites_that_fail_only_together():
    def end(net, x):
        if net.training and x.shape[1] < 5 and net.one.out_channels < 6:
            raise ValueError("too small")
        return net.fc(x.mean((2, 3)))

    said = refusal(Net(end))
    assert "the network has no site" in said
    assert "ValueError: too small" in said


# --- whole runs -------------------------------------------------------------------------------------------------------

RUNS = {
    "by_view": {"first.0", "second.0"},
    "volumes": {"deep", "plane", "line"},
    "two_names": {"first.0", "second.0"},
    "tied": {"first.0"},
    "weight_normed": {"first.0"},
    "helped": {"second.0"},
    "random_depth": {"first.0", *(f"blocks.{k}.0.0" for k in range(3))},
}
QUICK = ("by_view", "volumes", "tied", "helped")
REFUSED = {
    "several_outputs": "it gives a tuple of (4, 10) and (4, 10) for 4 images while training",
    "early_exit": "MACs for some images",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name not in QUICK]


@pytest.mark.parametrize("arch", [*QUICK, *SLOW])
def test_run_of_unusual_network_verifies(unusual, make_run, arch):
    spec, options = make_run("l1_norm", arch, "tiny8", keep=0.8)
    done = execute(spec, options)
    assert RUNS[arch] <= set(done.structure.widths)
    path = store.path_of(options.out, spec)
    assert {check.outcome for check in verify_file(path, options.out, options.data_dir)} == {"ok"}
    layout = "channels_first" if arch == "by_view" else None
    assert done.training.layout == layout
    assert (", fp32 channels_first; seconds" in details(done)) == (arch == "by_view")


@pytest.mark.parametrize("arch", REFUSED)
def test_run_refuses_unfit_network_before_writing(unusual, make_run, arch):
    spec, options = make_run("l1_norm", arch, "tiny8")
    with pytest.raises(UsageError) as caught:
        execute(spec, options)
    assert REFUSED[arch] in str(caught.value)
    assert "l1_norm" not in str(caught.value)
    assert not [file for file in options.out.rglob("*") if file.suffix in (".json", ".safetensors", ".pt")]


def test_architecture_check_and_list_find_what_run_finds(unusual, capsys):
    request = Request(shape=(1, 8, 8), recipe=load_recipe("digits"))
    for arch in ("by_view", "helped", *REFUSED):
        finding = examine(arch, request)
        assert finding.outcome == ("pass" if arch in RUNS else "skipped"), arch
        assert REFUSED.get(arch, "") in finding.why
        assert ("channels_first" in finding.why) == (arch == "by_view")
    for arch, code, said in (
        ("helped", 0, "first.0: a layer that only training uses reads it"),
        ("by_view", 0, "it runs in channels_first memory format"),
        ("several_outputs", 2, "several_outputs"),
    ):
        assert main(["list", "sites", "-a", arch, "-d", "digits"]) == code
        assert said in "".join(capsys.readouterr())
