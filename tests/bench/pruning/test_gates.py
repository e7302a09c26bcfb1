import pytest
import torch
from support.networks import CASES, SHAPE, conv, found, half_masks, hooks_of, images, made
from torch import nn

from bench.pruning.gates import Gates, randomized_copy
from bench.pruning.site_discovery import find_sites


def random_gates(sites, *batch, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(*batch, w, generator=generator, dtype=dtype) * 2 for n, w in sites.widths.items()}


class Scale(nn.Module):
    """A gate written as a module."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by.reshape(-1, *[1] * (x.dim() - 2))


@pytest.fixture
def gated():
    """Network, sites and gates of a case; whatever a test installs is taken off again."""
    opened = []

    def open_gates(case):
        network, sites = found(case)
        opened.append(Gates(network, sites))
        return network, sites, opened[-1]

    yield open_gates
    for gates in opened:
        gates.remove()
        assert not hooks_of(gates.network)


def run(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize(("case", "site", "before"), [("conv_bn", "0", 3), ("conv_flatten", "3", 6)])
def test_gate_multiplies_what_the_consumer_reads(gated, case, site, before):
    """All positions of a unit, where the map is flattened."""
    network, sites, gates = gated(case)
    x, gate = images(), torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 0.0])[: sites.widths[site]]
    gates.set({site: gate})
    plain = made(case)
    expected = run(plain[before:], run(plain[:before], x) * gate[:, None, None])
    torch.testing.assert_close(run(network, x), expected)


@pytest.mark.parametrize("case", CASES)
def test_gates_of_ones_of_samples_and_of_modules(case, gated):
    network, sites, gates = gated(case)
    before = run(network, images())
    gates.set({n: m.float() for n, m in sites.ones().items()})
    assert torch.equal(run(network, images()), before)
    seen = []
    gates.observe(lambda site, activation: seen.append((site, activation.shape[:2])))
    x, values = images(3), random_gates(sites, 3)
    gates.set(values)
    together = run(network, x)
    gates.observe(None)
    assert sorted(seen) == sorted((name, torch.Size((3, width))) for name, width in sites.widths.items())
    for k in range(3):
        gates.set({name: gate[k] for name, gate in values.items()})
        alone = run(network, x)
        torch.testing.assert_close(together[k : k + 1], alone[k : k + 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, alone, atol=1e-3)  # the last sample's gates are not everyone's
    gates.set({})
    for name, gate in values.items():
        gates.insert(name, Scale(gate[2]))
    torch.testing.assert_close(run(network, x), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["conv_bn", "conv_flatten", "densely_connected", "residual_A_full", "doubled", "mlp"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradient_of_a_gate_equals_the_finite_difference(case, batch):
    network, sites = made(case).double(), found(case)[1]
    gates, x = Gates(network, sites), images().double()
    values = {n: v.requires_grad_() for n, v in random_gates(sites, *batch, dtype=torch.float64).items()}

    def loss():
        gates.set(values)
        return network(x).square().sum()

    loss().backward()
    step = 1e-6
    for gate in values.values():
        assert gate.grad.abs().max() > 0
        flat, slopes = gate.data.view(-1), gate.grad.view(-1)
        for k in {0, len(flat) - 1}:
            middle = flat[k].item()
            flat[k] = middle + step
            above = loss().item()
            flat[k] = middle - step
            below = loss().item()
            flat[k] = middle
            assert slopes[k].item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6)


def test_an_observer_sees_activations_before_pooling_and_their_own_gate_and_after_earlier_ones(gated):
    network, _, gates = gated("conv_flatten")
    x, seen = images(), {}
    gates.set({"0": torch.zeros(6), "3": torch.zeros(5)})
    gates.observe(seen.__setitem__)
    run(network, x)
    plain = made("conv_flatten")
    torch.testing.assert_close(seen["0"], run(plain[:2], x))
    blind = run(plain[3:5], torch.zeros(2, 6, 4, 4))
    torch.testing.assert_close(seen["3"], blind)
    assert blind.abs().max() > 0
    seen.clear()
    gates.observe(None)
    run(network, x)
    assert not seen


def test_an_observer_sees_scattered_positions_unit_by_unit(gated):
    network, _, gates = gated("doubled")
    x, seen = images(), {}
    gates.observe(seen.__setitem__)
    run(network, x)
    first, second = run(made("doubled")[:3], x).split(5, dim=1)
    expected = torch.stack([first, second], dim=2)
    torch.testing.assert_close(seen["0"].sort(dim=2).values, expected.sort(dim=2).values)


def test_an_inserted_module_equals_applying_it_by_hand(gated):
    network, _, gates = gated("conv_bn")
    x, gate = images(), torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 0.0])
    torch.manual_seed(5)
    module = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh())  # mixes the units, so gate and module do not commute
    gates.insert("0", module)
    gates.set({"0": gate})
    plain = made("conv_bn")
    expected = run(plain[3:], run(module, run(plain[:3], x)) * gate[:, None, None])
    torch.testing.assert_close(run(network, x), expected)


def test_hooks_are_there_only_while_needed():
    network = made("residual_A_full")
    sites = find_sites(network, SHAPE, "full")
    before = run(network, images())
    gates = Gates(network, sites)
    gates.set({})
    gates.observe(None)
    assert not hooks_of(network)
    for _ in range(2):
        gates.set({n: m.float() for n, m in half_masks(sites).items()})
        assert len(hooks_of(network)) == sum(len(site.consumers) for site in sites.values())
        gates.insert("0.0", nn.Tanh())
        gates.observe(lambda site, activation: None)
        assert not torch.equal(run(network, images()), before)
        gates.remove()
        assert not hooks_of(network)
        assert torch.equal(run(network, images()), before)
        gates.set({n: m.float() for n, m in sites.ones().items()})  # with hooks again, but without the module
        assert torch.equal(run(network, images()), before)
        gates.remove()


def test_what_else_a_layer_has_is_random_in_the_copy_and_its_weight_is_not():
    """A gain that begins at zero would hide what depends on the layer."""
    layer = conv(2, 3)
    layer.gain = nn.Parameter(torch.zeros(3, 1, 1))
    copy = randomized_copy(layer)
    assert torch.equal(copy.weight, layer.weight.double())
    assert (copy.gain > 0.4).all()
    assert (layer.gain == 0).all()
