"""ctx.freeze: a growing prefix learns no more, costs one forward a step, resumes to the bit, ends at the prune."""

import copy

import pytest
import torch
from support.networks import GREY, conv, half_masks, head, three_sites
from support.paths import PLUGINS
from support.plans import carry_out
from support.plugins import known
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.conformance import tiny_networks
from bench.conformance.runner import examine
from bench.conformance.subject import Subject, difference
from bench.errors import RunFailed
from bench.runs.execute import execute
from bench.runs.verify import verify_file
from bench.spec.registry import add_plugin

PLUGIN = PLUGINS / "freezing.py"
PREFIXES = (["0"], ["0", "1", "2", "3", "4"], ["0", "1", "2", "3", "4", "5", "6", "7"])
"""Layers that run up to and including site ``0``, ``4`` and ``7`` of three_sites."""
EPOCHS = (Phase(3),)
PLAN = (*EPOCHS, PRUNE, Phase(1, "finetune"))


def network_of(ctx):
    return ctx._model.network


def tensors(network, layers=None):
    return {n: t.clone() for n, t in network.state_dict().items() if layers is None or n.split(".")[0] in layers}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Growing(Method):
    """Freezes up to one site more at the end of each epoch; keeps what the frozen part was."""

    def prepare(self, ctx):
        self.__dict__["frozen"] = []

    def on_epoch_end(self, ctx):
        ctx.freeze(ctx.sites[list(ctx.sites)[min(ctx.epoch, 2)]])
        self.frozen.append(tensors(network_of(ctx), PREFIXES[ctx.epoch]))


class ByHand(Method):
    """The same without the context: no gradient and running statistics for what has been frozen."""

    def on_batch_start(self, ctx):
        for layer in PREFIXES[ctx.epoch - 1] if ctx.epoch else ():
            network_of(ctx).get_submodule(layer).eval().requires_grad_(False)


def train(make_training, method, plan=EPOCHS, prune=None, **settings):
    torch.manual_seed(0)
    training = make_training(method, arch=three_sites(), shape=GREY, **settings)
    carry_out(training, plan, prune)
    return training


def prune(training):
    training.model.slice({name: mask.cpu() for name, mask in training.ctx.select().items()})


def in_hook(ctx, hook="on_epoch_end"):
    return ctx._now.during(hook)


def counted(network, layers):
    """MACs of some layers for one grey image, from the shapes of what they read and make."""
    found, network = 0, copy.deepcopy(network).eval()

    def count(layer, args, out):
        nonlocal found
        if isinstance(layer, nn.Conv2d):
            found += out[0].numel() * layer.in_channels * 9
        elif isinstance(layer, nn.BatchNorm2d):
            found += 2 * out[0].numel()
        elif isinstance(layer, nn.Linear):
            found += layer.in_features * layer.out_features
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            found += args[0][0].numel()

    for layer in layers:
        network[int(layer)].register_forward_hook(count)
    with torch.no_grad():
        nn.Sequential(*network)(torch.zeros(2, *GREY))
    return found


ALL = [str(k) for k in range(len(three_sites()))]


def test_frozen_part_keeps_its_bits_and_the_rest_learns(make_training):
    training = train(make_training, Growing(), weight_decay=0.1)
    final = training.model.network
    for layers, frozen in zip(PREFIXES, training.method.frozen, strict=True):
        assert same(frozen, tensors(final, layers))
    first, second, last = training.method.frozen
    assert not torch.equal(first["0.weight"], 0 * first["0.weight"])
    assert not torch.equal(last["7.weight"], three_sites()[7].weight)
    assert "1.running_mean" not in first and "1.running_mean" in second


def test_rest_learns_as_by_an_optimizer_of_its_own(make_training):
    """No gradient, no decay and no statistics of the frozen part; the momentum of the rest is kept."""
    found, wanted = train(make_training, Growing()), train(make_training, ByHand())
    assert same(tensors(found.model.network), tensors(wanted.model.network))
    assert found.curve == wanted.curve


def test_freezing_from_epoch_to_epoch_costs_what_a_hand_counts(make_training):
    training = train(make_training, Growing())
    network, each = three_sites(), training.examples // 3
    total = counted(network, ALL)
    assert total == training.model.macs
    parts = [0, *(counted(network, layers) for layers in PREFIXES[:2])]
    assert training.step_macs == each * sum(part + 3 * (total - part) for part in parts)
    assert training.step_macs < 3 * total * training.examples
    assert [entry["macs"] for entry in training.model.frozen.log] == [counted(network, p) for p in PREFIXES]


def with_state():
    """Layers whose buffers a forward in train mode changes, and one that draws."""
    return nn.Sequential(
        *(nn.utils.spectral_norm(conv(1, 8)), nn.BatchNorm2d(8, affine=False), nn.PReLU(8), nn.Dropout(0.5)),
        *(nn.GroupNorm(2, 8), conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(), *head(8, 10)),
    )


@pytest.mark.parametrize(("upto", "late"), [("1", ("2", "4", "5", "6", "10")), ("4", ("5", "6", "10"))])
def test_frozen_layers_of_many_kinds_have_no_gradient_and_no_change(make_ctx, upto, late):
    ctx = make_ctx(arch=with_state(), shape=GREY)
    network = network_of(ctx).train()
    with in_hook(ctx):
        ctx.freeze(upto)
    before = tensors(network)
    first, second = network[: int(upto) + 1](ctx.x), network[: int(upto) + 1](ctx.x)
    assert torch.equal(first, second)
    network(ctx.x).sum().backward()
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None} == set(late)
    changed = {name for name, tensor in tensors(network).items() if not torch.equal(tensor, before[name])}
    assert changed == {"6.running_mean", "6.running_var", "6.num_batches_tracked"}
    assert not ctx._model.ledger.crossed


class ShrinksToo(Growing):
    """Cuts units out of the frozen part, and of the rest."""

    def on_epoch_end(self, ctx):
        if ctx.phase:
            return
        ctx.freeze("4")
        self.__dict__["norm"] = tensors(network_of(ctx), ["1"])["1.running_var"]

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            self.__dict__["masks"] = half_masks(ctx.sites)
            ctx.shrink(self.masks)


def test_shrink_keeps_the_frozen_part_frozen_and_counted(make_training):
    training = train(make_training, ShrinksToo(), (Phase(1), Phase(1)))
    network, each = training.model.network, training.examples // 2
    assert network[0].out_channels < 12
    whole, rest = counted(three_sites(), ALL), counted(network, ALL)
    assert training.step_macs == each * (3 * whole + 3 * rest - 2 * counted(network, PREFIXES[1]))
    method = training.method
    assert torch.equal(method.norm[method.masks["0"]], network[1].running_var)


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", [Growing, ShrinksToo])
def test_resume_after_every_epoch_is_the_same_to_the_bit(make_training, tmp_path, monkeypatch, method):
    def start(checkpoint):
        torch.manual_seed(0)
        return make_training(method(), arch=three_sites(), shape=GREY, checkpoint=checkpoint)

    plan = (Phase(2), Phase(1), PRUNE, Phase(1, "finetune")) if method is ShrinksToo else PLAN
    whole = start(None)
    carry_out(whole, plan, prune)
    stops = 0
    while True:
        training = start(tmp_path / "c.pt")
        assert training.resume() == (stops > 0)
        monkeypatch.setattr(training.progress, "saved", lambda: (_ for _ in ()).throw(Stop))
        try:
            carry_out(training, plan, prune)
        except Stop:
            stops += 1
        else:
            break
    assert stops >= 5
    assert same(tensors(training.model.network), tensors(whole.model.network))
    assert (training.curve, training.train_macs) == (whole.curve, whole.train_macs)
    assert training.model.frozen.log == whole.model.frozen.log
    assert len(whole.model.frozen.log) == (1 if method is ShrinksToo else 3)


def test_prune_ends_it_and_everything_is_fine_tuned(make_training):
    kept = {}

    def cut(training):
        assert all(p.requires_grad for p in training.model.network.parameters())
        prune(training)
        kept.update(tensors(training.model.network))

    training = train(make_training, Growing(), PLAN, cut)
    final = training.model.network
    assert not any(torch.equal(p.detach(), kept[name]) for name, p in final.named_parameters())
    assert not torch.equal(final[1].running_mean, kept["1.running_mean"])
    assert not training.model.frozen and not training.model.ledger.frozen


def test_end_of_training_without_a_prune_ends_it(make_training):
    network = train(make_training, Growing()).model.network
    assert all(p.requires_grad for p in network.parameters())
    assert len({m.training for m in network.modules()}) == 1


@pytest.mark.parametrize("hook", ["", "prepare", "on_phase_start", "on_batch_start", "on_step_end", "select"])
def test_freeze_in_another_hook_is_refused(make_ctx, hook):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    with in_hook(ctx, hook), pytest.raises(RunFailed, match=r"only on_epoch_end, on_phase_end|outside of on_epoch_end"):
        ctx.freeze("0")
    assert all(p.requires_grad for p in network_of(ctx).parameters())


def test_freeze_of_a_module_object_is_refused_in_one_line(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    with in_hook(ctx), pytest.raises(RunFailed, match="the network has no module of this name") as error:
        ctx.freeze(network_of(ctx)[0])
    assert "\n" not in str(error.value)


def test_freeze_after_the_prune_is_refused(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    ctx._now.pruned = True
    with in_hook(ctx), pytest.raises(RunFailed, match=r"ctx\.freeze in on_epoch_end after the prune"):
        ctx.freeze("0")


def test_freezing_grows_only(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    with in_hook(ctx):
        ctx.freeze("4")
        before = ctx._model.frozen.state()
        ctx.freeze("0")
        ctx.freeze("4")
        assert ctx._model.frozen.state() == before
        ctx.freeze("5")
    assert ctx._model.frozen.parameters == {"0.weight", "1.weight", "1.bias", "4.weight", "5.weight", "5.bias"}
    assert [entry["upto"] for entry in ctx._model.frozen.log] == ["4", "5"]


def test_rewind_of_frozen_layers_is_refused(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    with in_hook(ctx):
        ctx.freeze("0")
        for tag in ("init", "fresh"):
            with pytest.raises(RunFailed, match=rf"ctx\.rewind\('{tag}'\) after ctx\.freeze"):
                ctx.rewind(tag)


class Penalised(Growing):
    """Its penalty is of the first site, which is frozen after the first epoch, and of the last."""

    def penalty(self, ctx):
        sites = list(ctx.sites.values())
        return 0.1 * (sites[0].rows().square().sum() + sites[2].rows().square().sum())


def test_penalty_acts_on_what_is_not_frozen(make_training):
    plain, training = train(make_training, Growing()), train(make_training, Penalised())
    assert same(training.method.frozen[0], tensors(training.model.network, ["0"]))
    assert not same(training.method.frozen[0], plain.method.frozen[0])  # it acted before
    assert not same(training.method.frozen[2], plain.method.frozen[2])


class Gated(Growing):
    """Gates the units of the first site, which is read inside of the prefix from the second epoch on."""

    learned = False

    def on_batch_start(self, ctx):
        gate = torch.full((12,), 0.5, requires_grad=self.learned)
        ctx.gate({"0": gate})


class Learned(Gated):
    """A gradient for its gates crosses the frozen layers behind them."""

    learned = True


def test_gates_of_frozen_sites_act_and_are_credited(make_training):
    plain, gated = train(make_training, Growing()), train(make_training, Gated())
    assert gated.step_macs == plain.step_macs
    assert gated.curve[2]["train_loss"] != plain.curve[2]["train_loss"]


def test_gradient_that_crosses_frozen_layers_costs_as_if_they_learned(make_training):
    training = train(make_training, Learned())
    network, each = three_sites(), training.examples // 3
    total, first = counted(network, ALL), counted(network, PREFIXES[0])
    # in the second epoch site 0 is frozen, and its gate behind it; in the third the gate is in front of layer 4
    assert training.step_macs == each * (9 * total - 2 * first)
    assert same(training.method.frozen[1], tensors(training.model.network, PREFIXES[1]))


class Masked(Growing):
    """Masks units of a site when it is frozen already."""

    def on_phase_end(self, ctx):
        ctx.masks = half_masks(ctx.sites)


def test_masks_of_frozen_sites_hold_and_change_no_weight(make_training):
    training = train(make_training, Masked(), (Phase(1), Phase(2)))
    assert same(training.method.frozen[0], tensors(training.model.network, ["0"]))
    assert not all(mask.all() for mask in training.model.masks.values())


class Writes(Growing):
    """Makes frozen weights smaller."""

    def on_step_end(self, ctx):
        with torch.no_grad():
            next(iter(ctx.sites.values())).weights()[0].mul_(0.99)


class Thaws(Growing):
    """Lets a frozen weight learn again."""

    def on_batch_start(self, ctx):
        next(iter(ctx.sites.values())).weights()[0].requires_grad_(True)


class Moves(Growing):
    """Lets a frozen norm count batches."""

    def on_batch_start(self, ctx):
        network_of(ctx)[1].train()


@pytest.mark.parametrize(("method", "name"), [(Writes, "0.weight"), (Thaws, "0.weight"), (Moves, "1.running_mean")])
def test_method_that_changes_what_it_froze_fails_the_run(make_training, method, name):
    with pytest.raises(RunFailed, match=rf"changes '{name}', which is frozen"):
        train(make_training, method())


def test_probe_with_batch_statistics_leaves_frozen_norms_alone(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    network_of(ctx).train()
    with in_hook(ctx):
        ctx.freeze("1")
        with ctx.probe(batch_statistics=True):
            probed = ctx.forward(ctx.x)
        assert not network_of(ctx)[1].training
        assert torch.allclose(probed, network_of(ctx)(ctx.x), atol=1e-6)


def test_method_forwards_through_frozen_layers_cost_as_steps_do(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    network, ledger = network_of(ctx), ctx._model.ledger
    total, part = counted(three_sites(), ALL), counted(three_sites(), PREFIXES[1])
    with in_hook(ctx):
        ctx.freeze("4")
        assert ledger.macs == 0  # looking for the prefix is not the method's pass
        with ctx.probe(gradients=True):
            ctx.forward(ctx.x)
    assert ledger.macs == len(ctx.x) * (3 * total - 2 * part)
    network(ctx.x.clone().requires_grad_(True))
    assert ledger.macs == len(ctx.x) * (6 * total - 2 * part)


@pytest.fixture(scope="module")
def freezing():
    with known(PLUGIN, tiny_networks.__file__):
        yield


def test_record_lists_what_was_frozen_and_verifies(make_run):
    add_plugin(str(PLUGIN))  # make_run has test plugins of its own, for one test
    spec, options = make_run("growing_prefix", arch="two_layers")
    record = execute(spec, options)
    assert record.status == "ok", record.error
    (entry,) = record.training.freeze
    assert entry.macs > 0
    assert (entry.phase, entry.epoch, entry.upto) == (0, 1, "0")
    path = next(options.out.rglob(f"{spec.id}.json"))
    assert all(line.outcome == "ok" for line in verify_file(path, options.out, options.out))
    plain = execute(*make_run("random"))
    assert plain.training.freeze is None


@pytest.mark.parametrize("name", ["growing_prefix", "freezes_between_phases"])
def test_composed_method_freezes_for_all_parts(freezing, tmp_path, name):
    subject = Subject(f"check_penalty+{name}", tmp_path)
    again = subject.run()
    assert difference(subject.standard, again) is None
    assert subject.standard.done.model.frozen.log


@pytest.mark.parametrize(
    ("name", "check"),
    [("growing_prefix", "modes"), ("growing_prefix", "resume"), ("penalised_prefix", "penalty")],
)
def test_battery_accepts_what_the_context_froze(freezing, name, check):
    (result,) = examine(name, [check]).results
    assert result.outcome == "ok", result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["growing_prefix", "freezes_between_phases", "penalised_prefix"])
def test_method_that_freezes_passes_the_whole_battery(freezing, name):
    report = examine(name)
    assert report.verdict == "PASSED", [result for result in report.results if result.outcome == "FAILED"]


@pytest.mark.parametrize(
    ("name", "check", "why"),
    [
        ("freezes_more", "modes", "on_epoch_end leaves modules in another mode, or parameters frozen"),
        ("thaws", "runs", "the method thaws changes '0.weight', which is frozen"),
    ],
)
def test_battery_refuses_what_a_method_froze_or_thawed(freezing, name, check, why):
    (result,) = examine(name, [check]).results
    assert result.outcome == "FAILED"
    assert result.detail.startswith(why)
