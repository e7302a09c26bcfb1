"""Layers in the context (contract 2.2): ``ctx.layers``, ``inputs``, ``to_units``, ``samples``."""

import pytest
import torch
from support.networks import CASES, GREY, SHAPE, found, half_masks, images, in_forwards, made, three_sites
from support.plans import same, state_of
from torch import nn

from bench.errors import RunFailed
from bench.pruning.layers import find_layers
from bench.training.layer_samples import inputs, to_units

EXACT = "donot_use_mm_for_euclid_dist"


def start(make_training, arch=three_sites, **settings):
    torch.manual_seed(0)
    return make_training(arch=arch(), shape=GREY, **settings)


@pytest.fixture
def ctx(make_training):
    return start(make_training).ctx


def watched(network, x, *names):
    """What layers read, by a hook of the test's own; and the output."""
    kept, handles = {}, []
    for name in names:
        module = network.get_submodule(name)
        handles.append(module.register_forward_hook(lambda m, a, o, name=name: kept.__setitem__(name, (a[0], o))))
    output = network(x)
    for handle in handles:
        handle.remove()
    return kept, output


# --- layers --------------------------------------------------------------------------------------------------------


def test_layers_are_found_without_cost_and_follow_a_shrink(ctx):
    assert list(ctx.layers) == ["0", "4", "7", "12"]
    assert ctx.head.name == "12"
    assert in_forwards(ctx) == 0
    first = ctx.layers["4"]
    ctx.shrink(half_masks(ctx.sites))
    assert ctx.layers["4"].matrix().shape == (8, 6 * 9)
    assert first.matrix().shape == (16, 12 * 9)


@pytest.mark.parametrize("call", ["assign", "shift_"])
def test_only_a_hook_that_may_write_writes_through_a_layer(ctx, call):
    layer = ctx.layers["4"]
    before = state_of(ctx._model.network)
    given = layer.matrix() if call == "assign" else torch.ones(16)
    refused = rf"^ctx.layers\['4'\].{call} in select: only on_phase_start, .* may do that$"
    with pytest.raises(RunFailed, match=refused), ctx._now.during("select"):
        getattr(layer, call)(given)
    assert same(state_of(ctx._model.network), before)
    with ctx._now.during("on_step_end"):
        getattr(layer, call)(given + 1)
    assert not same(state_of(ctx._model.network), before)


# --- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [False, True])
def test_inputs_are_what_a_plain_hook_sees(make_ctx, gradients):
    """Contract 2.2: equal to a plain hook, bit for bit; residual streams and the head included."""
    ctx = make_ctx(arch="resnet20")
    with ctx.probe(gradients=gradients), ctx.inputs(gradients=gradients) as read:
        ctx.forward(ctx.x)
    assert in_forwards(ctx) == len(ctx.x) * (3 if gradients else 1)
    kept, _ = watched(ctx._model.network.eval(), ctx.x, *ctx.layers)
    assert list(read) == list(ctx.layers)
    assert all(torch.equal(read[name], value) for name, (value, _) in kept.items())
    assert [name for name, x in read.items() if x.requires_grad != gradients] == (["conv1"] if gradients else [])
    assert ctx.head.name in read
    streams = [n for n, layer in ctx.layers.items() if not layer.reads and layer.makes]
    assert [read[n].shape[1] for n in streams[:4]] == [16, 16, 16, 16]  # residual streams, which are no sites


def test_inputs_contain_gates_and_inserted_modules_and_end_with_the_block(ctx):
    doubling = nn.Conv2d(12, 12, 1, bias=False)
    doubling.weight.data = 2 * torch.eye(12)[..., None, None]
    with ctx.inputs(["4"]) as plain, ctx.probe():
        ctx.forward(ctx.x)
    with ctx.inputs([ctx.layers["4"]]) as read, ctx.probe():
        ctx.insert("0", doubling)
        ctx.gate({"0": torch.arange(12) % 2})
        ctx.forward(ctx.x)
    assert list(read) == ["4"]
    expected = plain["4"] * (2 * (torch.arange(12) % 2))[:, None, None]
    assert torch.equal(read["4"], expected)
    ctx.forward(2 * ctx.x)
    assert torch.equal(read["4"], expected)


def test_gradient_of_inputs_reaches_back(ctx):
    with ctx.probe(gradients=True), ctx.inputs(["4", "7"], gradients=True) as read:
        ctx.forward(ctx.x)
        (slope,) = torch.autograd.grad(read["7"].sum(), [read["4"]])
    assert slope.abs().sum() > 0


def test_unknown_layer_is_refused(ctx):
    for call in (ctx.inputs, ctx.samples):
        with pytest.raises(RunFailed, match=r"^no layer '1' runs in a forward pass; there are 0, 4, 7, 12$"):
            call(["1"])


# --- to_units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_to_units_is_the_sum_over_taps(case):
    """Contract 2.2: a loop over taps; flattened, concatenated and shared readers are among the cases."""
    network, sites = found(case)
    layers = find_layers(network, sites, images(), lambda call: None)
    with torch.no_grad(), inputs(list(layers.values()), gradients=False) as values:
        network(images(3))
    summed = to_units(sites, values)
    for name, site in sites.items():
        expected = torch.zeros(site.n_units)
        for tap in site.consumers:
            if tap.layer in values:
                value = values[tap.layer] if tap.axis == 1 else values[tap.layer].movedim(-1, 1)
                for position, unit in zip(tap.positions.tolist(), tap.units.tolist()):
                    expected[unit] += value[:, position].sum()
        assert torch.allclose(summed[name], expected, rtol=1e-4, atol=1e-4)
    assert not any(value.any() for value in to_units(sites, {}).values())


# --- samples -------------------------------------------------------------------------------------------------------


def outputs_at(ctx, name, count):
    """Outputs of a layer without its bias, all positions of the first images in the context's order."""
    x = torch.cat([x for x, _ in ctx.batches()])[:count]
    kept, _ = watched(ctx._model.network.eval(), x, name)
    module, output = ctx._model.network.get_submodule(name), kept[name][1].detach()
    flat = output.movedim(-1 if isinstance(module, nn.Linear) else 1, -1)
    return flat.reshape(-1, flat.shape[-1]) - (0 if module.bias is None else module.bias.detach())


@pytest.mark.parametrize("masked", [False, True])
def test_samples_times_matrix_are_outputs_of_the_training_images(ctx, masked):
    """Contract 2.2: ``samples @ matrix().T`` is the output at these positions; rows are drawn without repetition."""
    if masked:
        ctx.masks = half_masks(ctx.sites)
    rows = ctx.samples(["4", "12"], images=70, patches=300)
    assert {name: len(x) for name, x in rows.items()} == {"4": 300, "12": 70}
    for name, x in rows.items():
        outputs, made_of = outputs_at(ctx, name, 70), x @ ctx.layers[name].matrix().detach().T
        distance = torch.cdist(made_of, outputs, compute_mode=EXACT)
        nearest = distance.argmin(dim=1)
        assert distance.gather(1, nearest[:, None]).max() < 1e-4
        if name == "12" or not masked:
            assert nearest.diff().min() > 0  # ascending, none twice
    assert torch.equal(ctx.samples(["12"], images=70)["12"], rows["12"])


def test_samples_cost_one_forward_an_image_and_leave_nothing(ctx):
    """F8: 70 images cost 70 forwards, whatever the number of layers; at most all training images."""
    network = ctx._model.network.train()
    before, rng = state_of(network), torch.get_rng_state()
    ctx.samples(ctx.layers, images=70)
    assert in_forwards(ctx) == 70
    ctx.samples(["0"], images=1000)
    assert in_forwards(ctx) == 70 + 96
    assert same(state_of(network), before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(module.training for module in network.modules())
    for images_, patches in ((0, 4), (4, 0)):
        with pytest.raises(RunFailed, match=f"ctx.samples of {images_} images and {patches} patches: at least 1"):
            ctx.samples(["0"], images_, patches)


def test_rows_are_the_seeds_whatever_the_batches_and_the_network(make_training):
    one, two = start(make_training).ctx, start(make_training, batch_size=17).ctx
    expected = one.samples(["0"], patches=100)["0"]  # what reads the images: no network is in it
    assert torch.allclose(two.samples(["0", "4"], patches=100)["0"], expected)
    one._seed = 1
    assert not torch.allclose(one.samples(["0"], patches=100)["0"], expected)
    assert (expected == 0).any(dim=1).any()  # patches at the border have its zeros


def test_samples_of_snapshots_are_those_of_their_networks(ctx):
    """``of`` a snapshot: no mask; the rows of ``now``."""
    now, layer = ctx.samples(["4"]), ctx.layers["4"]
    ctx.snapshot("here")
    with torch.no_grad():
        ctx._model.network[0].weight.mul_(-1)
    ctx.masks = half_masks(ctx.sites)
    versions = [p._version for p in ctx._model.network.parameters()]
    assert torch.equal(ctx.samples([layer], of="here")["4"], now["4"])
    assert torch.equal(ctx.samples([layer], of="init")["4"], now["4"])
    assert not torch.equal(ctx.samples([layer])["4"], now["4"])
    assert versions == [p._version for p in ctx._model.network.parameters()]
    with pytest.raises(RunFailed, match=r"^no snapshot 'x'; there are here, init$"):
        ctx.samples([layer], of="x")


def test_base_survives_a_shrink(ctx):
    """Contract 2.2: ``of="base"`` survives shrink, at the dense widths and with their cost; later snapshots are cut."""
    model = ctx._model
    model.snapshots["base"] = state_of(model.network)
    dense, cost = ctx.samples(["4", "12"], of="base"), model.macs
    for seed in (0, 1):
        ctx.shrink(half_masks(ctx.sites, seed))
        ctx.snapshot("mine") if seed == 0 else None
        before = model.ledger.macs
        again = ctx.samples(["4", "12"], of="base")
        assert same(again, dense)
        assert model.ledger.macs - before == 96 * cost
    assert ctx.samples(["4"], of="mine")["4"].shape[1] == ctx.layers["4"].matrix().shape[1] == 3 * 9
    model.remove_hooks()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.uncut.modules())


class Twice(nn.Module):
    """A layer that runs twice, before a site."""

    def __init__(self):
        super().__init__()
        self.whole = ("stem", "mix")
        self.stem, self.mix = nn.Conv2d(1, 4, 8), nn.Linear(4, 4)
        self.hidden, self.fc = nn.Linear(4, 5), nn.Linear(5, 10)

    def forward(self, x):
        return self.fc(self.hidden(self.mix(self.mix(self.stem(x).flatten(1)).relu()).relu()).relu())


def test_layer_that_runs_twice_has_no_rows(make_ctx):
    ctx = make_ctx(arch=Twice())
    assert list(ctx.layers) == ["stem", "mix", "hidden", "fc"]
    with pytest.raises(RunFailed, match=r"^layer mix does not run once for each image"):
        ctx.samples(["mix"])
    assert len(ctx.samples(["hidden"])["hidden"]) == 96


class Windows(nn.Module):
    """Parts of an image are a batch of their own, as windows of attention are."""

    def __init__(self):
        super().__init__()
        self.mix, self.back, self.fc = nn.Linear(16, 6), nn.Linear(6, 5), nn.Linear(20, 10)

    def forward(self, x):
        return self.fc(self.back(self.mix(x.reshape(-1, 16)).relu()).reshape(len(x), -1))


def test_positions_that_are_folded_into_the_batch_are_rows(make_ctx):
    ctx = make_ctx(arch=Windows())
    assert {n: len(x) for n, x in ctx.samples(ctx.layers, images=40).items()} == {"mix": 160, "back": 160, "fc": 40}
    some = ctx.samples(["mix"], images=40, patches=30)["mix"]
    windows = torch.cat([x for x, _ in ctx.batches()])[:40].reshape(-1, 16)
    assert torch.cdist(some, windows, compute_mode=EXACT).min(dim=1).values.max() < 1e-3


def test_shapes_of_the_cases_are_sampled(make_ctx):
    ctx = make_ctx(arch=made("transposed"), shape=SHAPE)
    rows = ctx.samples(ctx.layers, images=5, patches=50)
    assert all(rows[name].shape[1] == layer.matrix().shape[1] for name, layer in ctx.layers.items())
    assert len(rows) == len(ctx.layers)


# --- readings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "coupling"), [("densely_connected", "inner"), ("conv_flatten", "inner"), ("residual_A", "full")]
)
def test_readings_of_all_sites_add_up_to_what_a_layer_computes(make_ctx, case, coupling):
    """Together with the columns that read no site; concatenated, flattened, and shared readers."""
    network = made(f"{case}_full" if coupling == "full" else case)
    ctx = make_ctx(arch=network, shape=SHAPE, coupling=coupling)
    found, samples = ctx.readings(8, 50), ctx.samples(ctx.readers, 8, 50)
    assert list(ctx.readers) == [name for name, layer in ctx.layers.items() if layer.reads]
    assert found.keys() == ctx.sites.keys()
    assert in_forwards(ctx) == 2 * 8
    for name, layer in ctx.readers.items():
        x, weight = samples[name].double(), layer.matrix().detach().double()
        readings = [reading for each in found.values() for reading in each if reading.layer.name == name]
        assert [reading.site for reading in readings] == list(layer.reads)
        free = torch.stack([layer.columns(site) < 0 for site in layer.reads]).all(dim=0)
        total = x[:, free] @ weight[:, free].T + sum(reading.x @ reading.weight for reading in readings)
        assert torch.allclose(total, x @ weight.T, atol=1e-9)
        for reading in readings:
            ones = reading.inputs[:, len(reading.weight) :]
            assert ones.shape[1] == layer.shifts and (ones == 1).all()
            for unit in range(ctx.sites[reading.site].n_units):
                own = reading.weight[reading.unit == unit].norm()
                assert reading.norms(reading.weight)[unit] == pytest.approx(own.item())
