"""What units are worth where milliseconds are the budget, and equal shares: against sums that are written out here."""

import numpy as np
import pytest
import torch
from support.fake_runtime import FakeRuntime
from support.networks import SHAPE
from torch import nn

from bench.conformance.tiny_networks import conv, head
from bench.errors import RunFailed
from bench.pruning.cost_model import CostModel
from bench.pruning.latency_choice import LatencyChoice, equal
from bench.pruning.latency_model import fitted
from bench.pruning.latency_rounds import Asked
from bench.pruning.latency_solver import choices_of
from bench.pruning.latency_terms import terms_of
from bench.pruning.site_discovery import find_sites
from bench.spec.spec import Budget

DENSE = (16, 24)
GRID = [(4, 8, 12, 16), (4, 8, 12, 16, 20, 24)]


@pytest.fixture(scope="module")
def network():
    """Cost model and terms of two convolutions and a linear layer."""
    made = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 24), nn.ReLU(), *head(24))
    sites = find_sites(made, SHAPE)
    model = CostModel(made, sites, SHAPE)
    return model, terms_of(made, sites, model, step=4)


@pytest.fixture(scope="module")
def scores(network):
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(width, generator=chance) for name, width in zip(network[0].names, DENSE)}


def asked(**more):
    return Budget(keep_latency=0.6, runtime="eager", batch=1, threads=1, **more)


def decided(model):
    """MACs of a site's own layers: those that make its units and those that read them."""
    pixels, classes = SHAPE[1] * SHAPE[2], model.macs(np.array(DENSE)) - model.macs(np.array([16, 23]))
    reads = classes - pixels * 9 * 16
    return [pixels * 9 * (3 * 16 + 16 * 24), 24 * classes], reads


def test_layer_is_the_kept_share_times_the_macs_of_the_site(network, scores):
    model, terms = network
    assert [list(widths) for widths in terms.grid] == [list(widths) for widths in GRID]
    macs, reads = decided(model)
    assert 0 < reads < 500  # the head
    found = choices_of(scores, terms, model, asked(), "layer")
    for gains, grid, score, whole in zip(found.gains, GRID, scores.values(), macs, strict=True):
        units = sorted((score.double() - score.double().min()).tolist(), reverse=True)
        assert gains == pytest.approx([whole * sum(units[:width]) / sum(units) for width in grid])
    weighed = choices_of(scores, terms, model, asked(), dict(zip(scores, (1.0, 3.0))))
    assert weighed.gains[0] == pytest.approx(found.gains[0]) and weighed.gains[1] == pytest.approx(3 * found.gains[1])


def test_global_is_the_sum_of_scores_whose_least_is_zero_or_more(network, scores):
    model, terms = network
    least = min(float(score.min()) for score in scores.values())
    for moved, given in ((least, scores), (0.0, {name: score - least + 2 for name, score in scores.items()})):
        units = [sorted((score.double() - moved).tolist(), reverse=True) for score in given.values()]
        found = choices_of(given, terms, model, asked(), "global")
        scale = sum(decided(model)[0]) / sum(map(sum, units))
        for gains, grid, best in zip(found.gains, GRID, units, strict=True):
            assert gains == pytest.approx([scale * sum(best[:width]) for width in grid], rel=1e-5)


def test_no_site_loses_more_than_it_may(network, scores):
    model, terms = network
    found = choices_of(scores, terms, model, asked(min_keep=9), "layer")
    assert [np.isfinite(gains).tolist() for gains in found.gains] == [[w >= 9 for w in widths] for widths in GRID]
    exempt = choices_of(scores, terms, model.exempting([model.names[1]]), asked(), "layer")
    assert [np.isfinite(gains).sum() for gains in exempt.gains] == [4, 1]


def test_equal_shares_are_the_largest_that_fit_each_rounded_down(network, scores):
    model, terms = network
    times = fitted(terms, FakeRuntime(terms, bias=0, noise=0, stair=4).table(terms.networks()))
    choices = choices_of(scores, terms, model, asked(), "layer")
    for share in (0.3, 0.5, 0.75, 0.9, 1.0):
        target = share * times.dense_ms
        commons = sorted({width / dense for widths, dense in zip(GRID, DENSE) for width in widths})
        rounded = [
            [max(w for w in (4, *ws) if w <= max(4, c * n + 1e-9)) for ws, n in zip(GRID, DENSE)] for c in commons
        ]
        fits = [widths for widths in rounded if times.ms(widths) <= target * (1 + 1e-9)]
        found = equal(times, choices, target * (1 + 1e-9), ())
        assert (None if found is None else found.tolist()) == (fits[-1] if fits else None)
    assert fits[-1] == list(DENSE)


def test_only_what_was_measured_may_be_cut(network, scores):
    model, terms = network
    runtime = FakeRuntime(terms, bias=0, noise=0, stair=4)
    timed = runtime.table(terms.networks())
    made = LatencyChoice(Asked(0.7, None, "0.7", "it"), terms, timed, model, asked(), runtime.measure)
    made.measures = True
    masks = made.masks(scores, "layer")
    made.require_measured(masks)
    assert runtime.measured[-1] == tuple(int(mask.sum()) for mask in masks.values())
    other = {name: torch.ones_like(mask) for name, mask in masks.items()}
    with pytest.raises(RunFailed, match=r"keeps other widths than ctx\.rank or ctx\.equal_widths gave it"):
        made.require_measured(other)
