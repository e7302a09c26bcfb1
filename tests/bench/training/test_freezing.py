"""ctx.freeze: a growing prefix learns no more, costs one forward a step, resumes to the bit, ends at the prune."""

import pytest
import torch
from support.networks import GREY, conv, half_masks, head, three_sites
from support.paths import PLUGINS
from support.plans import carry_out, check_resume, prune, same, state_of
from support.plugins import outcomes
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.conformance.runner import examine
from bench.conformance.subject import Subject, difference
from bench.errors import RunFailed
from bench.measure import flops
from bench.runs.execute import execute
from bench.runs.verify import verify_file

PLUGIN = PLUGINS / "freezing.py"
PREFIXES = (1, 5, 8)
"""Layers that run up to and including site ``0``, ``4`` and ``7`` of three_sites."""
EPOCHS = (Phase(3),)
PLAN = (*EPOCHS, PRUNE, Phase(1, "finetune"))


def network_of(ctx):
    return ctx._model.network


def macs(network, layers=None):
    """MACs of the first layers of a network for one grey image."""
    return flops.count(network[:layers], GREY).total


class Growing(Method):
    """Freezes up to one site more at the end of each epoch; keeps what the frozen part was."""

    def prepare(self, ctx):
        self.__dict__["frozen"] = []

    def on_epoch_end(self, ctx):
        ctx.freeze(ctx.sites[list(ctx.sites)[min(ctx.epoch, 2)]])
        self.frozen.append(state_of(network_of(ctx)[: PREFIXES[ctx.epoch]]))


class ByHand(Method):
    """The same without the context: no gradient and running statistics for what has been frozen."""

    def on_batch_start(self, ctx):
        for layer in network_of(ctx)[: PREFIXES[ctx.epoch - 1] if ctx.epoch else 0]:
            layer.eval().requires_grad_(False)


def start(make_training, method, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


def train(make_training, method, plan=EPOCHS, prune=None, **settings):
    training = start(make_training, method, **settings)
    carry_out(training, plan, prune)
    return training


def in_hook(ctx, hook="on_epoch_end"):
    return ctx._now.during(hook)


@pytest.fixture
def ctx(make_ctx):
    return make_ctx(arch=three_sites(), shape=GREY)


def test_frozen_part_stays_and_the_rest_learns_as_if_alone(make_training):
    """No gradient, no decay and no statistics of the frozen part; the momentum of the rest is kept."""
    training, by_hand = (train(make_training, method(), weight_decay=0.1) for method in (Growing, ByHand))
    final = training.model.network
    for layers, frozen in zip(PREFIXES, training.method.frozen, strict=True):
        assert same(frozen, state_of(final[:layers]))
    first, second, last = training.method.frozen
    assert first["0.weight"].any()
    assert not torch.equal(last["7.weight"], three_sites()[7].weight)
    assert "1.running_mean" not in first and "1.running_mean" in second
    assert same(state_of(final), state_of(by_hand.model.network))
    assert training.curve == by_hand.curve
    assert all(p.requires_grad for p in final.parameters())  # the end of training ends it
    assert len({m.training for m in final.modules()}) == 1


def test_freezing_from_epoch_to_epoch_costs_what_a_hand_counts(make_training):
    training = train(make_training, Growing())
    network, each = three_sites(), training.examples // 3
    total = macs(network)
    assert total == training.model.macs
    parts = [0, *(macs(network, layers) for layers in PREFIXES[:2])]
    assert training.step_macs == each * sum(part + 3 * (total - part) for part in parts)
    assert training.step_macs < 3 * total * training.examples
    assert [entry["macs"] for entry in training.model.frozen.log] == [macs(network, p) for p in PREFIXES]


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
    before = state_of(network)
    first, second = network[: int(upto) + 1](ctx.x), network[: int(upto) + 1](ctx.x)
    assert torch.equal(first, second)
    network(ctx.x).sum().backward()
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None} == set(late)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"6.running_mean", "6.running_var", "6.num_batches_tracked"}
    assert not ctx._model.ledger.crossed


class ShrinksToo(Growing):
    """Cuts units out of the frozen part, and of the rest."""

    def on_epoch_end(self, ctx):
        if ctx.phase:
            return
        ctx.freeze("4")
        self.__dict__["variance"] = network_of(ctx)[1].running_var.clone()

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            self.__dict__["masks"] = half_masks(ctx.sites)
            ctx.shrink(self.masks)


def test_shrink_keeps_the_frozen_part_frozen_and_counted(make_training):
    training = train(make_training, ShrinksToo(), (Phase(1), Phase(1)))
    network, each = training.model.network, training.examples // 2
    assert network[0].out_channels < 12
    assert training.step_macs == each * (3 * macs(three_sites()) + 3 * macs(network) - 2 * macs(network, PREFIXES[1]))
    method = training.method
    assert torch.equal(method.variance[method.masks["0"]], network[1].running_var)


@pytest.mark.parametrize(
    ("method", "plan", "entries"),
    [(Growing, PLAN, 3), (ShrinksToo, (Phase(2), Phase(1), PRUNE, Phase(1, "finetune")), 1)],
)
def test_resume_after_every_epoch_is_the_same_to_the_bit(make_training, tmp_path, method, plan, entries):
    def make(checkpoint):
        return start(make_training, method(), checkpoint=checkpoint)

    assert len(check_resume(make, plan, tmp_path / "c.pt").model.frozen.log) == entries


def test_prune_ends_it_and_everything_is_fine_tuned(make_training):
    kept = {}

    def cut(training):
        assert all(p.requires_grad for p in training.model.network.parameters())
        prune(training)
        kept.update(state_of(training.model.network))

    training = train(make_training, Growing(), PLAN, cut)
    final = training.model.network
    assert not any(torch.equal(p.detach(), kept[name]) for name, p in final.named_parameters())
    assert not torch.equal(final[1].running_mean, kept["1.running_mean"])
    assert not training.model.frozen and not training.model.ledger.frozen


def test_freeze_is_refused_in_one_line(ctx):
    with in_hook(ctx), pytest.raises(RunFailed, match="the network has no module of this name") as error:
        ctx.freeze(network_of(ctx)[0])
    assert "\n" not in str(error.value)
    for hook in ("", "prepare", "on_phase_start", "on_batch_start", "on_step_end", "select"):
        with (
            in_hook(ctx, hook),
            pytest.raises(RunFailed, match=r"only on_epoch_end, on_phase_end|outside of on_epoch_end"),
        ):
            ctx.freeze("0")
    ctx._now.pruned = True
    with in_hook(ctx), pytest.raises(RunFailed, match=r"ctx\.freeze in on_epoch_end after the prune"):
        ctx.freeze("0")
    assert all(p.requires_grad for p in network_of(ctx).parameters())


def test_freezing_grows_only_and_forbids_a_rewind(ctx):
    with in_hook(ctx):
        ctx.freeze("4")
        before = ctx._model.frozen.state()
        ctx.freeze("0")
        ctx.freeze("4")
        assert ctx._model.frozen.state() == before
        ctx.freeze("5")
        for tag in ("init", "fresh"):
            with pytest.raises(RunFailed, match=rf"ctx\.rewind\('{tag}'\) after ctx\.freeze"):
                ctx.rewind(tag)
    assert ctx._model.frozen.parameters == {"0.weight", "1.weight", "1.bias", "4.weight", "5.weight", "5.bias"}
    assert [entry["upto"] for entry in ctx._model.frozen.log] == ["4", "5"]


class Penalised(Growing):
    """Its penalty is of the first site, which is frozen after the first epoch, and of the last."""

    def penalty(self, ctx):
        sites = list(ctx.sites.values())
        return 0.1 * (sites[0].rows().square().sum() + sites[2].rows().square().sum())


class Gated(Growing):
    """Gates the units of the first site, which is read inside of the prefix from the second epoch on."""

    learned = False

    def on_batch_start(self, ctx):
        ctx.gate({"0": torch.full((12,), 0.5, requires_grad=self.learned)})


class Learned(Gated):
    """A gradient for its gates crosses the frozen layers behind them."""

    learned = True


def test_penalty_and_gates_act_where_nothing_is_frozen(make_training):
    plain, penalised, gated = (train(make_training, method()) for method in (Growing, Penalised, Gated))
    assert same(penalised.method.frozen[0], state_of(penalised.model.network[:1]))
    assert not same(penalised.method.frozen[0], plain.method.frozen[0])  # it acted before
    assert not same(penalised.method.frozen[2], plain.method.frozen[2])
    assert gated.step_macs == plain.step_macs
    assert gated.curve[2]["train_loss"] != plain.curve[2]["train_loss"]


def test_gradient_that_crosses_frozen_layers_costs_as_if_they_learned(make_training):
    training = train(make_training, Learned())
    network, each = three_sites(), training.examples // 3
    # in the second epoch site 0 is frozen, and its gate behind it; in the third the gate is in front of layer 4
    assert training.step_macs == each * (9 * macs(network) - 2 * macs(network, PREFIXES[0]))
    assert same(training.method.frozen[1], state_of(training.model.network[: PREFIXES[1]]))


class Masked(Growing):
    """Masks units of a site when it is frozen already."""

    def on_phase_end(self, ctx):
        ctx.masks = half_masks(ctx.sites)


def test_masks_of_frozen_sites_hold_and_change_no_weight(make_training):
    training = train(make_training, Masked(), (Phase(1), Phase(2)))
    assert same(training.method.frozen[0], state_of(training.model.network[:1]))
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


def test_probe_with_batch_statistics_leaves_frozen_norms_alone(ctx):
    network_of(ctx).train()
    with in_hook(ctx):
        ctx.freeze("1")
        with ctx.probe(batch_statistics=True):
            probed = ctx.forward(ctx.x)
        assert not network_of(ctx)[1].training
        assert torch.allclose(probed, network_of(ctx)(ctx.x), atol=1e-6)


def test_method_forwards_through_frozen_layers_cost_as_steps_do(ctx):
    network, ledger = network_of(ctx), ctx._model.ledger
    total, part = macs(three_sites()), macs(three_sites(), PREFIXES[1])
    with in_hook(ctx):
        ctx.freeze("4")
        assert ledger.macs == 0  # looking for the prefix is not the method's pass
        with ctx.probe(gradients=True):
            ctx.forward(ctx.x)
    assert ledger.macs == len(ctx.x) * (3 * total - 2 * part)
    network(ctx.x.clone().requires_grad_(True))
    assert ledger.macs == len(ctx.x) * (6 * total - 2 * part)


def test_record_lists_what_was_frozen_and_verifies(make_run):
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


def test_composed_method_freezes_for_all_parts(folder):
    subject = Subject("check_penalty+freezes_between_phases", folder)
    assert difference(subject.standard, subject.run()) is None
    assert subject.standard.done.model.frozen.log


@pytest.mark.parametrize(("name", "check"), [("growing_prefix", "modes"), ("penalised_prefix", "penalty")])
def test_battery_accepts_what_the_context_froze(name, check):
    assert outcomes(name, check)[check][0] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["growing_prefix", "freezes_between_phases", "penalised_prefix"])
def test_method_that_freezes_passes_the_whole_battery(name):
    report = examine(name)
    assert report.verdict == "PASSED", [result for result in report.results if result.outcome == "FAILED"]


def test_battery_refuses_what_a_method_froze_by_itself():
    outcome, detail = outcomes("freezes_more", "modes")["modes"]
    assert outcome == "FAILED"
    assert detail.startswith("on_epoch_end leaves modules in another mode, or parameters frozen")
