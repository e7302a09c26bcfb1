"""A masked model works without data, recipe or run: gates, held units, snapshots, slices, costs."""

import pytest
import torch
from support.networks import GREY, half_masks, hooks_of, images, three_sites
from support.plans import carry_out, check_resume

from bench.api import Method, Phase
from bench.conformance import tiny_networks
from bench.errors import RunFailed
from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.pruning.sites import Sites
from bench.training.masked_model import MaskedModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = three_sites()
    sites = find_sites(network, GREY)
    return MaskedModel(network, sites, CostModel(network, sites, GREY), torch.device("cpu"))


@pytest.fixture
def x():
    return images(4, GREY)


def eval_forward(model, x):
    with model.probe():
        return model.forward(x)


def test_masked_model_equals_its_slice_and_costs_what_it_does(model, x):
    masks = half_masks(model.sites)
    model.masks = masks
    masked, dense = eval_forward(model, x), model.macs
    model.slice(masks)
    torch.testing.assert_close(eval_forward(model, x), masked)
    model.remove_hooks()
    assert model.macs == flops.count(model.network, GREY).total < dense
    assert model.sliced_by.keys() == masks.keys()


def test_masked_units_are_held_through_steps(model, x):
    model.masks = masks = half_masks(model.sites)
    model.optimizer = torch.optim.SGD(model.network.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    before = {name: site.rows().detach().clone() for name, site in model.sites.items()}
    for _ in range(3):
        model.optimizer.zero_grad()
        model.forward(x).square().sum().backward()
        model.optimizer.step()
        assert model.busy
        model.after_step()
    for name, site in model.sites.items():
        moment = model.optimizer.state[site.weights()[0]]["momentum_buffer"].flatten(1)
        assert not moment[~masks[name]].any() and moment[masks[name]].any()
        same = (site.rows() == before[name]).all(dim=1)
        assert same[~masks[name]].all() and not same[masks[name]].any()


def test_rewind_restores_and_notifies(model):
    calls, state = [], {k: v.clone() for k, v in model.network.state_dict().items()}
    model.rewritten = lambda: calls.append(1)
    with torch.no_grad():
        next(model.network.parameters()).add_(1)
    model.rewind("init")
    assert all(torch.equal(v, state[k]) for k, v in model.network.state_dict().items())
    assert calls == [1]
    with pytest.raises(RunFailed, match="no snapshot 'late'; there are init and fresh"):
        model.rewind("late")


def test_snapshots_are_cut_when_somebody_asks(model, monkeypatch):
    """Each once, to what cutting at once gives; two slices in a row are one of both."""
    cut, dense = [], {name: t.clone() for name, t in model.network.state_dict().items()}
    whole, sites, first = model.network, model.sites, half_masks(model.sites)
    monkeypatch.setattr(Sites, "slice", lambda *given, slice=Sites.slice: cut.append(1) or slice(*given))
    model.snapshots.take("late", model.network)
    model.slice(first)
    assert len(cut) == 1 and set(model.snapshots) == {"init", "late"}
    expected = sites.slice(whole, first).state_dict()
    for _ in range(2):
        assert all(torch.equal(t, expected[name]) for name, t in model.snapshots["init"].items())
    assert len(cut) == 3
    model.slice({name: torch.arange(site.n_units) != 1 for name, site in model.sites.items()})
    both = sites.slice(whole, model.sliced_by).state_dict()
    assert all(torch.equal(t, both[name]) for tag in ("init", "late") for name, t in model.snapshots[tag].items())
    assert model.snapshots.taken["late"].masks is None
    assert all(torch.equal(t, dense[name]) for name, t in whole.state_dict().items())


def test_tracking_gives_the_former_observer_back(model, x):
    name = next(iter(model.sites))
    model.track(name, lambda a: a.mean(dim=(0, 2, 3)), 0.5)
    with model.activations() as found:
        with model.tracking():
            model.forward(x)
        assert not found
        model.forward(x)
    assert set(found) == set(model.sites)


def test_released_model_has_no_hook_and_counts_nothing(model, x):
    model.gate({name: torch.zeros(site.n_units) for name, site in model.sites.items()})
    model.remove_hooks()
    assert hooks_of(model.network) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    model.network(x)
    assert model.ledger.macs == 0


@pytest.mark.parametrize("build", [tiny_networks.chain, tiny_networks.conv_flatten, tiny_networks.mlp])
def test_weights_that_read_masked_units_stay(make_training, build):
    training = make_training(arch=build(num_classes=10), shape=tiny_networks.SHAPE, batch_size=32)
    carry_out(training, (Phase(1),))  # so that there is something to decay
    model = training.model
    model.masks = {name: torch.arange(site.n_units) != 1 for name, site in model.sites.items()}
    held = [
        (weight, cut.positions[cut.units == 1], weight.detach().clone())
        for site in model.sites.values()
        for weight, cut in site.reader_weights()
    ]
    assert len(held) == len(model.sites)
    training.position = (0, 0)
    carry_out(training, (Phase(2),))
    for weight, columns, before in held:
        assert torch.equal(weight[:, columns], before[:, columns])
        assert not torch.equal(weight, before)


class MasksOnce(Method):
    """Masks three units of each site after the first epoch."""

    def on_epoch_end(self, ctx):
        if ctx.epoch == 0:
            ctx.masks = {name: torch.arange(site.n_units) > 2 for name, site in ctx.sites.items()}


def test_masked_units_resume_to_the_bit(make_training, tmp_path):
    def start(checkpoint):
        torch.manual_seed(0)
        return make_training(MasksOnce(), arch=three_sites(), shape=GREY, checkpoint=checkpoint)

    check_resume(start, (Phase(3),), tmp_path / "c.pt")
