"""ctx.freeze(upto, cache=K): outputs of frozen layers for K views of each image replace their forward in steps."""

import pytest
import torch
from support.networks import GREY, conv, half_masks, head, three_sites
from support.paths import PLUGINS
from support.plans import carry_out, check_resume, same, state_of
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.errors import RunFailed
from bench.measure import flops
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.training import prefix_cache

PLUGIN = PLUGINS / "freezing.py"
ENDS = (3, 6, 9)
"""Layers up to the activation functions behind the three sites of three_sites."""


def macs(layers=None):
    """MACs of the first layers of three_sites for one grey image."""
    return flops.count(three_sites()[:layers], GREY).total


class Keeps(Method):
    """Freezes after the first epoch up to the first activation, keeps the outputs of some views."""

    views, upto = 2, "2"

    def on_epoch_end(self, ctx):
        if ctx.epoch == 0 and ctx.phase == 0:
            ctx.freeze(self.upto, cache=self.views)


class Grows(Keeps):
    """Freezes a further site after each epoch."""

    views = 1

    def on_epoch_end(self, ctx):
        ctx.freeze(str(ENDS[min(ctx.epoch, 1)] - 1), cache=self.views)


def start(make_training, method, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


def train(make_training, method, plan, cut=None, **settings):
    training = start(make_training, method, **settings)
    carry_out(training, plan, cut)
    return training


@pytest.fixture
def seen(monkeypatch):
    """For each step that is served: logits with the cache, logits of a full forward of the same images, and those."""
    found = []
    objective = Method.objective

    def watched(self, ctx, logits):
        cache = self.__dict__["trainer"].cache
        if cache._kept is not None:
            with ctx.probe(batch_statistics=True), ctx._model.ledger.paused():
                found.append((logits.detach(), ctx.forward(ctx.x), ctx.x))
        return objective(self, ctx, logits)

    return watched, found


@pytest.mark.parametrize("method", [Keeps, Grows])
@pytest.mark.parametrize("augment", ["none", "shift"])
def test_cached_forward_is_the_full_one(make_training, seen, method, augment):
    """MR 6(g)1: to 1e-5 of the full forward of the same images, also where the cache grows."""
    watched, found = seen
    cls = type("Watched", (method,), {"objective": watched})
    training = start(make_training, cls(), augment=augment)
    training.method.__dict__["trainer"] = training
    carry_out(training, (Phase(3),))
    assert len(found) == 2 * 3
    for cached, full, _ in found:
        assert torch.allclose(cached, full, atol=1e-5)
    assert not any(vars(m).get("forward") for m in training.model.network.modules())


@pytest.mark.parametrize(("views", "augment"), [(1, "shift"), (3, "shift"), (2, "none")])
def test_images_of_a_step_are_augmented_views(make_training, seen, views, augment):
    watched, found = seen
    cls = type("Watched", (Keeps,), {"objective": watched, "views": views})
    training = start(make_training, cls(), augment=augment)
    training.method.__dict__["trainer"] = training
    carry_out(training, (Phase(5),))
    distinct = torch.cat([x for *_, x in found]).flatten(1).unique(dim=0)
    plain = torch.cat([x for x, _ in training.data.train.batches(96)]).flatten(1).unique(dim=0)
    assert len(plain) == 96
    if augment == "none":
        assert torch.equal(distinct, plain)
    else:
        assert 96 <= len(distinct) <= 96 * views and (len(distinct) > 96) == (views > 1)
        assert not torch.equal(distinct[:96], plain)
    assert len(training.curve) == 5


@pytest.mark.parametrize("views", [1, 2])
def test_frozen_part_stays_to_the_bit_and_the_rest_learns(make_training, views):
    """MR 6(g)2: parameters and statistics of the frozen part."""

    class Notes(Keeps):
        def on_epoch_end(self, ctx):
            super().on_epoch_end(ctx)
            self.__dict__.setdefault("kept", []).append(state_of(ctx._model.network))

    Notes.views = views
    training = train(make_training, Notes(), (Phase(3),), weight_decay=0.1)
    first, _, last = training.method.kept
    for name in first:
        assert torch.equal(first[name], last[name]) == (int(name.split(".")[0]) < ENDS[0]), name


@pytest.mark.parametrize("views", [0, 1, 2])
def test_ledger_is_the_count_by_hand(make_training, views):
    """MR 6(g)3: prefix + 3 suffix for an example, with a cache 3 suffix, and views x images x prefix once."""
    method = type("Views", (Keeps,), {"views": views})()
    training = train(make_training, method, (Phase(4),))
    total, part, images = macs(), macs(ENDS[0]), 96
    first, later = 3 * total, 3 * (total - part) + (0 if views else part)
    assert training.step_macs == images * (first + 3 * later)
    assert training.model.ledger.macs_by["cache"] == views * images * part
    assert training.train_macs == training.step_macs + views * images * part
    dense = 3 * 4 * images * total
    assert training.train_macs <= dense + views * images * part
    expected = {("cache", "2"): (views * images, views * images * part)} if views else {}
    assert training.model.ledger.extras == expected
    assert [entry.get("views", 0) for entry in training.model.frozen.log] == [views]


def test_growing_cache_costs_each_layer_once(make_training):
    """MR 6(g)3: it never exceeds the dense ledger and one pass; outputs are made from those that are there."""
    training = train(make_training, Grows(), (Phase(3),))
    total, parts, images = macs(), [0, macs(ENDS[0]), macs(ENDS[1])], 96
    assert training.step_macs == sum(3 * images * (total - part) for part in parts)
    assert training.model.ledger.extras == {
        ("cache", "2"): (images, images * parts[1]),
        ("cache", "5"): (images, images * (parts[2] - parts[1])),
    }
    assert training.train_macs <= 3 * 3 * images * total + images * parts[2]


def test_cache_made_from_another_is_the_one_made_at_once(make_training, monkeypatch):
    one, made = train(make_training, Grows(), (Phase(3),)), prefix_cache.PrefixCache._made
    monkeypatch.setattr(prefix_cache.PrefixCache, "_made", lambda self, key, before: made(self, key, None))
    two = train(make_training, Grows(), (Phase(3),))
    assert same(state_of(one.model.network), state_of(two.model.network))


class Cuts(Keeps):
    """Cuts units out of the frozen part, and masks others, between phases."""

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            ctx.shrink(half_masks(ctx.sites))
        if ctx.phase == 1:
            ctx.masks = half_masks(ctx.sites, seed=1)


PLANS = {
    Keeps: (Phase(3), PRUNE, Phase(1, "finetune")),
    Grows: (Phase(4), PRUNE, Phase(1, "finetune")),
    Cuts: (Phase(2), Phase(2), Phase(1), PRUNE, Phase(1, "finetune")),
}


@pytest.mark.parametrize("method", PLANS)
def test_resume_after_every_epoch_is_the_same_to_the_bit(make_training, tmp_path, method):
    """The cache is made again, and counted once."""
    whole = check_resume(lambda c: start(make_training, method(), checkpoint=c), PLANS[method], tmp_path / "c.pt")
    assert whole.model.ledger.macs_by["cache"] > 0
    assert whole.cache._kept is None and not whole.model.frozen


def test_cut_or_masked_units_make_another_cache(make_training):
    """That of the smaller network; masks make it anew."""
    training, networks = start(make_training, Cuts()), []
    carry_out(training, PLANS[Cuts][:4], lambda trainer: networks.append(trainer.model.network))
    half = flops.count(networks[0][: ENDS[0]], GREY).total
    assert half < macs(ENDS[0])
    assert training.model.ledger.extras == {("cache", "2"): (3 * 2 * 96, 2 * 96 * (macs(ENDS[0]) + 2 * half))}


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def ctx(make_ctx):
    return make_ctx(arch=three_sites(), shape=GREY)


def freeze(ctx, upto, cache=1):
    with ctx._now.during("on_epoch_end"):
        return ctx.freeze(upto, cache=cache)


def test_more_than_a_quarter_of_the_free_memory_is_refused(ctx, monkeypatch):
    """Outputs are 12 x 8 x 8 floats, images 64 bytes; 96 images."""
    needed = 3 * 96 * (4 * 12 * 64 + 64)
    monkeypatch.setattr(prefix_cache, "free_bytes", lambda device: 4 * needed - 4)
    with pytest.raises(RunFailed, match=r"^ctx\.freeze\('2', cache=3\) would keep \d+ MiB for 96 images, of \d+ MiB"):
        freeze(ctx, "2", cache=3)
    assert not ctx._model.frozen
    monkeypatch.setattr(prefix_cache, "free_bytes", lambda device: 4 * needed)
    assert freeze(ctx, "2", cache=3) == "2"
    assert isinstance(prefix_cache.free_bytes(torch.device("cpu")), int)


class Skip(nn.Module):
    """Adds its input to what its layers make of it."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


def skipping():
    block = Skip(conv(6, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    return nn.Sequential(conv(1, 6), nn.ReLU(), block, conv(6, 8), nn.ReLU(), *head(8, 10))


def test_what_is_read_past_its_output_is_refused(make_ctx):
    """Freezing it is allowed, since what goes past it has no gradient."""
    for cache in (1, 0):
        ctx = make_ctx(arch=skipping(), shape=GREY)
        if cache:
            with pytest.raises(
                RunFailed, match=r"what runs later reads more than its output; name the module in which"
            ):
                freeze(ctx, "2.layers.0")
            assert not ctx._model.frozen
        assert freeze(ctx, "2.layers.0", cache=0) == "2.layers.0"
    assert freeze(make_ctx(arch=skipping(), shape=GREY), "2") == "2"


def test_of_several_the_last_that_can_be_is_frozen(make_ctx):
    names = ["0", "1", "2.layers.0", "2.layers.1", "nowhere", "8"]
    ctx = make_ctx(arch=skipping(), shape=GREY)
    assert freeze(ctx, names[:1], cache=1) == "0"
    assert freeze(ctx, names[:3], cache=1) == "2"  # the block ends with its only layer
    assert freeze(ctx, names, cache=0) == "2"
    assert freeze(ctx, ["nowhere", "8"], cache=0) is None
    assert freeze(ctx, [], cache=0) is None


def test_gates_and_layers_inside_a_cached_part_are_refused(ctx):
    freeze(ctx, "5")
    ctx.gate({"4": torch.ones(16)})
    for call in (
        lambda: ctx.gate({"0": torch.ones(12)}),
        lambda: ctx.keep_at_random({"0": torch.ones(12)}),
        lambda: ctx.insert("0", nn.Identity()),
    ):
        with pytest.raises(RunFailed, match=r"site 0 is read by frozen layers, whose outputs are kept"):
            call()


def test_tracked_site_in_a_cached_part_is_refused(ctx):
    ctx.track("4", lambda a: a.mean(dim=(0, 2, 3)), 0.9)
    freeze(ctx, "2")
    with pytest.raises(RunFailed, match=r"site 4 is tracked, which needs its layers to run"):
        freeze(ctx, "5")


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = conv(1, 5), conv(5, 4), nn.ReLU()
        self.same, self.last = conv(4, 4), nn.Linear(4, 10)

    def forward(self, x):
        x = self.same(self.same(self.second(self.relu(self.first(x)))))
        return self.last(x.mean(dim=(2, 3)))


class Pairs(nn.Module):
    """Its first module gives two tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu, self.last = Both(), conv(4, 6), nn.ReLU(), nn.Linear(6, 10)

    def forward(self, x):
        a, b = self.first(x)
        return self.last(self.relu(self.second(a * b)).mean(dim=(2, 3)))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(1, 4)

    def forward(self, x):
        x = self.conv(x)
        return x, x + 1


@pytest.mark.parametrize(
    ("network", "upto", "said"),
    [(Twice, "same", "it runs 2 times"), (Pairs, "first", "what first gives is no tensor with a row for each image")],
)
def test_output_that_is_no_single_tensor_is_refused(make_ctx, network, upto, said):
    with pytest.raises(RunFailed, match=said):
        freeze(make_ctx(arch=network(), shape=GREY), upto)


def test_record_of_a_cache_adds_up_and_verifies(make_run):
    spec, options = make_run("keeps_outputs", "two_layers", train__epochs=3)
    record = execute(spec, options)
    path = next(options.out.rglob(f"{spec.id}.json"))
    checks = verify_file(path, options.out, options.out)
    assert all(line.outcome == "ok" for line in checks), checks
    by, (entry,) = record.training.macs_by, record.training.freeze
    assert by["cache"] == entry.views * record.data.train * entry.macs > 0
    assert [(extra.what, extra.name) for extra in record.training.extras] == [("freeze", "0"), ("cache", "0")]
