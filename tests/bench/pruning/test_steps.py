"""Widths in steps of several channels: aligned, within the budget, and no further step fits."""

import contextlib
import hashlib
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from support.cost_models import family, random_scores, widths_of
from support.networks import SHAPE, randomised
from support.records import SPEC
from torch import nn

from bench.conformance.tiny_networks import conv, conv_bn, head
from bench.errors import UsageError
from bench.pruning.cost_model import CostModel
from bench.pruning.selection import cycles_needed, equal_widths, prune_worst, repair, select
from bench.pruning.site_discovery import find_sites
from bench.pruning.steps import ladder, round_up, unit_step
from bench.spec.spec import Budget, place_of_ms, step_of, stepless

SHARES = [0.05 * k for k in range(4, 21)]


@cache
def four_sites():
    """Sites of 12, 6, 20 and 9 units: multiples of 4 and not, narrower than 8, with an odd last step."""
    layers = [*conv_bn(3, 12), nn.ReLU(), conv(12, 6), nn.ReLU(), *conv_bn(6, 20, stride=2), nn.ReLU(), conv(20, 9)]
    network = randomised(nn.Sequential(*layers, nn.ReLU(), *head(9)))
    sites = find_sites(network, SHAPE)
    assert list(sites.widths.values()) == [12, 6, 20, 9]
    return sites, CostModel(network, sites, SHAPE)


def allowed_widths(dense, step, least=1):
    """Written from the rule: multiples of the step, and the full width."""
    return [
        width for width in range(1, dense + 1) if (width % step == 0 or width == dense) and width >= min(least, dense)
    ]


def every_choice(model, budget):
    return np.array([*product(*(allowed_widths(int(n), budget.step, budget.min_keep) for n in model.dense))])


# --- what a step is ------------------------------------------------------------------------------------------------


def test_a_step_is_of_channels_in_every_layer():
    assert unit_step(8, [1]) == 8
    assert unit_step(8, [12]) == unit_step(8, [12, 4]) == 2
    assert unit_step(8, [64]) == unit_step(1, [3]) == 1
    assert unit_step(8, [1, 49]) == unit_step(8, [1, 4]) == 8
    assert [round_up(width, 8, 20) for width in (1, 8, 9, 17, 20)] == [8, 8, 16, 20, 20]
    assert [round_up(width, 16, 10) for width in (1, 10)] == [10, 10]
    assert ladder(8, 20, 8, 20).tolist() == [8, 16, 20]
    assert ladder(8, 18, 8, 20).tolist() == [8, 16]  # of a site that has shrunk
    assert ladder(6, 6, 8, 6).tolist() == [6]


@pytest.mark.parametrize("name", ["grouped_twice", "encoder", "conv_flatten"])
def test_units_of_several_channels_are_counted_in_channels(name):
    """Groups of a convolution, heads of attention, maps that a linear layer reads."""
    _, sites, model, _ = family(name)
    steps = model.steps(Budget(keep_macs=0.9, round_to=8))
    for site in sites:
        made = [len(cut.positions) // sites[site].n_units for cut in sites[site].cuts]
        assert steps[site] == next(n for n in range(1, 9) if all(n * each % 8 == 0 for each in made))
    assert min(steps.values()) == (8 if name == "conv_flatten" else 2)


# --- select --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranking", ["layer", "global", "shares"])
@pytest.mark.parametrize("what", ["keep_macs", "keep_params"])
@pytest.mark.parametrize(("step", "min_keep"), [(2, 1), (4, 1), (4, 5), (8, 1)])
def test_no_further_step_fits(step, min_keep, what, ranking):
    """At every budget: aligned, the best units, within it; of all choices of widths none has one step more."""
    sites, model = four_sites()
    shares = {site: 0.3 + 0.2 * k for k, site in enumerate(sites)} if ranking == "shares" else ranking
    choices = every_choice(model, Budget(keep_macs=0.5, round_to=step, min_keep=min_keep))
    for k, share in enumerate(SHARES):
        budget, scores = Budget(**{what: share}, round_to=step, min_keep=min_keep), random_scores(sites, k)
        costs, limit = model.costs(budget, choices), share * model.whole(budget)
        if costs.min() > limit:
            least = costs.min() / model.whole(budget)
            with pytest.raises(
                UsageError, match=f"in steps of {step} channels cannot be met: .* already cost {least:.4f}"
            ):
                select(scores, model, budget, shares)
            continue
        masks = select(scores, model, budget, shares)
        kept = widths_of(model, masks)
        assert model.misfit(budget, masks) is None
        assert model.cost(budget, kept) <= limit
        assert kept.tolist() in choices.tolist()
        larger = (choices >= kept).all(axis=1) & (choices > kept).any(axis=1)
        assert (costs[larger] > limit).all()
        for site, mask in masks.items():
            assert mask.all() or scores[site][mask].min() >= scores[site][~mask].max()


def test_shares_are_the_largest_common_one_rounded_down_and_more():
    sites, model = four_sites()
    dense = model.dense.tolist()
    may = [allowed_widths(units, 2) for units in dense]
    for share in (0.3, 0.5, 0.7, 0.9):
        budget = Budget(keep_macs=share, round_to=2)
        kept = [*equal_widths(sites.widths, model, budget).values()]
        commons = sorted({width / units for units, widths in zip(dense, may) for width in widths})
        rounded = [[max([w for w in ws if w <= c * n + 1e-9] or ws[:1]) for n, ws in zip(dense, may)] for c in commons]
        largest = [down for down in rounded if model.cost(budget, np.array(down)) <= model.allowed(budget)][-1]
        assert all(width >= down for width, down in zip(kept, largest))


def test_global_ranking_takes_steps_in_the_order_of_their_last_units():
    _, _, model, _ = family("parallel")  # two sites of ten units, all of the same cost
    first, even = [9.0, 9, 9, 9], [2.0, 2, 2, 2]
    uneven = torch.tensor([*first, 8, 8, 8, 1, 0, 0])
    scores = {"left.0": uneven, "right.0": torch.tensor([*first, *even, 0, 0])}
    kept = {step: select(scores, model, Budget(keep_macs=0.6, round_to=step), "global") for step in (1, 4)}
    assert [int(mask.sum()) for mask in kept[1].values()] == [7, 5]
    assert [int(mask.sum()) for mask in kept[4].values()] == [4, 8]


@pytest.mark.parametrize(("step", "shares"), [(16, (0.9, 0.8, 0.7, 0.6)), (8, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4))])
def test_resnet56_is_at_most_a_hundredth_below(step, shares):
    _, sites, model, _ = family("resnet56")
    for share in shares:
        budget = Budget(keep_macs=share, round_to=step)
        widths = equal_widths(sites.widths, model, budget)
        assert all(width % step == 0 or width == sites.widths[site] for site, width in widths.items())
        assert 0 <= share - model.cost(budget, model.array(widths)) / model.whole(budget) <= 0.01


def test_step_and_milliseconds_of_a_board():
    where = {"runtime": "eager", "batch": 1, "threads": 1}
    spec = replace(SPEC, budget=Budget(keep_latency=0.5, round_to=8, **where))
    assert (step_of(spec.prunable), stepless(spec.prunable)) == (8, "inner")
    assert place_of_ms(f"{spec.prunable} on a chip") == "eager batch 1 threads 1 on a chip"
    assert (step_of("inner step 16"), step_of("inner"), step_of(None), place_of_ms("inner step 16")) == (16, 1, 1, "")


def test_step_of_one_is_no_step():
    """Not in the specification, and the masks are those without it; nor does a step of one cut them otherwise."""
    assert Budget(keep_macs=0.5, round_to=1) == Budget(keep_macs=0.5)
    assert "round_to" not in Budget(keep_macs=0.5, round_to=1).given()
    assert Budget(keep_macs=0.5, round_to=8).given()["round_to"] == 8
    for wrong in (0, -8):
        with pytest.raises(UsageError, match=f"--round-to {wrong}: at least 1"):
            Budget(keep_macs=0.5, round_to=wrong)
    with pytest.raises(UsageError, match="without --round-to"):
        Budget(widths=(3,), round_to=8)


def test_masks_without_steps_are_those_before_there_were_any():
    """Bit for bit, of rankings and of what is pruned step by step, as version 463d582 made them."""
    found = hashlib.sha256()
    for name, share, ranking in product(("resnet8_full", "lenet", "encoder"), (0.75, 0.37, 0.1), ("layer", "global")):
        _, sites, model, _ = family(name)
        budget, scores = Budget(keep_macs=share), random_scores(sites, 7)
        left = {name: torch.ones(width, dtype=torch.bool) for name, width in sites.widths.items()}
        generator = torch.Generator().manual_seed(3)
        with contextlib.suppress(UsageError):
            for masks in (
                select(scores, model, budget, ranking),
                *(left := prune_worst(scores, left, 0.2, ranking, model, budget, generator) for _ in range(3)),
            ):
                found.update(b"".join(bytes(mask.tolist()) for mask in masks.values()))
            found.update(bytes([cycles_needed(0.2, ranking, 0, model, budget)]))
    assert found.hexdigest()[:16] == "efb03589a706c227"


# --- fewer at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_worst_are_pruned_in_whole_steps_until_the_budget(ranking):
    sites, model = four_sites()
    budget, scores = Budget(keep_macs=0.4, round_to=4), random_scores(sites, 3)
    masks = {name: torch.ones(width, dtype=torch.bool) for name, width in sites.widths.items()}
    generator, planned = torch.Generator().manual_seed(0), cycles_needed(0.25, ranking, 0, model, budget)
    count = 0
    while not model.meets(budget, model.array(masks)):
        before, masks = masks, prune_worst(scores, masks, 0.25, ranking, model, budget, generator)
        count += 1
        assert model.misfit(budget, masks) is None
        assert any((before[name] & ~mask).any() for name, mask in masks.items())
        for name, mask in masks.items():
            assert not (mask & ~before[name]).any()
            assert mask.all() or scores[name][mask].min() >= scores[name][~mask].max()
        if not model.meets(budget, model.array(masks)):
            gone = sum(int((before[n] & ~m).sum()) for n, m in masks.items())
            assert ranking == "layer" or gone <= max(0.25 * sum(int(m.sum()) for m in before.values()), 4)
    assert 1 < count <= 9
    assert planned == count if ranking == "layer" else abs(planned - count) <= 2


def test_repaired_states_have_whole_steps():
    sites, model = four_sites()
    budget, generator = Budget(keep_macs=0.5, round_to=4), torch.Generator().manual_seed(0)
    kept = equal_widths(sites.widths, model, budget)
    states = torch.rand(7, sum(sites.widths.values()), generator=generator) < 0.5
    repaired = repair(states, sites.widths, kept, generator)
    for part in repaired.split(list(sites.widths.values()), dim=1):
        assert len(set(part.sum(dim=1).tolist())) == 1
    assert model.misfit(budget, kept) is None


def test_exempt_sites_stay_whole():
    sites, model = four_sites()
    first = next(iter(sites))
    widths = equal_widths(sites.widths, model.exempting([first]), Budget(keep_macs=0.7, round_to=4))
    assert widths[first] == 12
    assert all(width % 4 == 0 or width == sites.widths[name] for name, width in widths.items())
    assert sum(widths.values()) < sum(sites.widths.values())


def test_site_that_has_shrunk_keeps_whole_steps():
    """20 units of which 17 are left: 16 or less, as 20 are not there any more."""
    sites, model = four_sites()
    have = dict(zip(sites, (12, 6, 17, 9)))
    for share in (0.95, 0.6):
        kept = equal_widths(have, model, Budget(keep_macs=share, round_to=8))
        assert [*kept.values()][2] in (8, 16)


def test_masks_in_other_steps_are_named():
    sites, model = four_sites()
    budget = Budget(keep_macs=0.9, round_to=4)
    first = next(iter(sites))
    assert model.misfit(budget, sites.widths) is None
    assert model.misfit(budget, sites.widths | {first: 7}) == (
        f"site {first} keeps 7 of 12 units; --round-to 4 asks for a multiple of 4"
    )
    assert model.misfit(Budget(keep_macs=0.9), sites.widths | {first: 7}) is None
