"""Which blocks are kept, and which widths with them (B5, B6)."""

import math
from functools import cache
from itertools import product

import pytest
import torch
from support.block_networks import Added
from support.cost_models import random_scores
from support.networks import SHAPE, randomised
from torch import nn

from bench.conformance.tiny_networks import conv, conv_bn, head
from bench.errors import RunFailed, UsageError
from bench.measure import flops
from bench.models.build import build
from bench.pruning.cost_model import CostModel
from bench.pruning.selection import check_masks, cycles_needed, equal_widths, prune_worst, select
from bench.pruning.site_discovery import find_sites
from bench.spec.spec import BUDGET_TOLERANCE, Budget

SHARES = (0.75, 0.5, 0.35, 0.25)


@cache
def six_blocks():
    """Four blocks, then two of another width, all of different cost; sites, cost model, MACs of all 64 subsets."""
    first = (Added(conv(4, n), nn.ReLU(), conv(n, 4)) for n in (9, 2, 5, 7))
    second = (Added(conv(6, n), nn.ReLU(), conv(n, 6)) for n in (8, 3))
    network = randomised(nn.Sequential(*conv_bn(3, 4), *first, *conv_bn(4, 6, stride=2), *second, *head(6)))
    sites = find_sites(network, SHAPE, units="depth")
    counted = {}
    for kept in product((True, False), repeat=6):
        masks = {"3": torch.tensor(kept[:4]), "10": torch.tensor(kept[4:])}
        counted[kept] = flops.traced(sites.slice(network, masks), SHAPE).total
    return sites, CostModel(network, sites, SHAPE), counted


@cache
def resnet20(units, coupling="inner"):
    network = build("resnet20", (3, 32, 32), 10)
    sites = find_sites(network, (3, 32, 32), coupling, units)
    return sites, CostModel(network, sites, (3, 32, 32))


def greedy(scores, counted, limit, ranking):
    """Written from the rules: best of each site, then by rank whatever fits, counted on sliced networks."""
    flat, sites = [*scores["3"].tolist(), *scores["10"].tolist()], [0] * 4 + [1] * 2
    kept, queue = [False] * 6, []
    for site in (0, 1):
        mine = sorted((k for k in range(6) if sites[k] == site), key=lambda k: (-flat[k], k))
        kept[mine[0]] = True
        for rank, k in enumerate(mine[1:], 2):
            queue.append((-flat[k] if ranking == "global" else rank / len(mine), site, rank, k))
    for *_, k in sorted(queue):
        kept[k] = True
        kept[k] = counted[tuple(kept)] <= limit
    return kept


@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_blocks_are_those_of_an_independent_greedy(ranking):
    """B6: at every budget that makes a difference."""
    sites, model, counted = six_blocks()
    dense = counted[(True,) * 6]
    for seed in range(10):
        scores = random_scores(sites, seed)
        floor = counted[tuple(greedy(scores, counted, 0, ranking))]
        for cost in sorted(set(counted.values())):
            budget = Budget(keep_macs=(cost + 0.5) / (dense + 0.5))
            try:
                masks = select(scores, model, budget, ranking)
            except UsageError:
                assert cost < max(
                    counted[tuple(greedy(random_scores(sites, s), counted, 0, ranking))] for s in range(40)
                )
                continue
            assert floor <= cost
            assert [*masks["3"].tolist(), *masks["10"].tolist()] == greedy(
                scores, counted, budget.keep * dense, ranking
            ), (seed, cost)


def test_ties_keep_the_earlier_block():
    sites, model, _ = six_blocks()
    masks = select({name: torch.zeros(s.n_units) for name, s in sites.items()}, model, Budget(keep_macs=0.6), "global")
    assert masks["3"].tolist() == [True, True, False, True] or masks["3"].tolist()[0]
    shares = select(random_scores(sites), model, Budget(keep_macs=0.7), {"3": 0.1, "10": 1.0})
    assert shares["10"].all() and int(shares["3"].sum()) < 4


@pytest.mark.parametrize("what", ["keep_macs", "keep_params"])
def test_no_further_block_fits(what):
    """B5: ``depth`` is maximal."""
    sites, model = resnet20("depth")
    for share, ranking, seed in product((0.9, 0.75, 0.65), ("global", "layer"), range(4)):
        budget = Budget(**{what: share})
        vector = model.array(select(random_scores(sites, seed), model, budget, ranking))
        assert model.cost(budget, vector) <= share * model.cost(budget, model.dense)
        for place in (vector == 0).nonzero()[0]:
            more = vector.copy()
            more[place] = 1
            assert model.cost(budget, more) > share * model.cost(budget, model.dense)


@pytest.mark.parametrize(
    ("what", "coupling"), [("keep_macs", "inner"), ("keep_macs", "full"), ("keep_params", "inner")]
)
def test_blocks_and_widths_meet_the_budget(what, coupling):
    """B5: ``both`` within 0.5 %, by default with the blocks of the square root."""
    sites, model = resnet20("both", coupling)
    for share, ranking in product(SHARES, ("global", "layer")):
        budget, scores = Budget(**{what: share}), random_scores(sites)
        masks = select(scores, model, budget, ranking)
        vector, dense = model.array(masks), model.cost(budget, model.dense)
        assert 0 <= share - model.cost(budget, vector) / dense <= BUDGET_TOLERANCE
        assert sites.absent(masks) == {n for n, mask in masks.items() if not mask.any()}
        widest = model.cost(budget, model.array(sites.widths | {n: masks[n] for n in model.blocks}))
        assert share * dense <= widest
        without = [widest - model.cost(budget, model.array(sites.widths | less)) for less in one_less(masks, model)]
        may_go = [cost for cost in without if widest - cost >= share * dense]
        assert widest <= math.sqrt(share) * dense or not may_go


def one_less(masks, model):
    """The blocks of ``masks`` less one, for each that could go."""
    for name in model.blocks:
        for unit in masks[name].nonzero().flatten().tolist() if int(masks[name].sum()) > 1 else ():
            less = {n: masks[n].clone() for n in model.blocks}
            less[name][unit] = False
            yield less


def test_share_of_blocks_that_a_user_asks_for():
    sites, model = resnet20("both")
    for share, number in ((1.0, 7), (0.75, 5), (0.5, 3), (0.43, 3), (0.1, 3)):  # one of each site stays
        budget = Budget(keep_macs=0.25, keep_blocks=share)
        for ranking in ("global", "layer"):
            masks = select(random_scores(sites), model, budget, ranking)
            assert sum(int(masks[n].sum()) for n in model.blocks) == number
            assert 0 <= 0.25 - model.cost(budget, model.array(masks)) / model.macs(model.dense) <= BUDGET_TOLERANCE
    fewest = select(random_scores(sites), model, Budget(keep_macs=0.25, keep_blocks=0.3, min_blocks=0), "global")
    assert sum(int(fewest[n].sum()) for n in model.blocks) == 2
    with pytest.raises(UsageError, match=r"7 of the 7 blocks, which stay, already cost 0\.[0-9]"):
        model.require(Budget(keep_macs=0.01, keep_blocks=1.0))
    with pytest.raises(UsageError, match=r"cannot be used up: 3 of the 7 blocks, which stay, cost at most 0\.5"):
        model.require(Budget(keep_macs=0.75, keep_blocks=0.5))


def test_what_is_below_the_floor_is_refused():
    """B5: before anything is trained; fewer blocks can be asked for."""
    _, model = resnet20("depth")
    with pytest.raises(UsageError, match=r"cannot be met: 3 of the 7 blocks, which stay, already cost 0.5\d+; ask for"):
        model.require(Budget(keep_macs=0.5))
    model.require(Budget(keep_macs=0.54))
    model.require(Budget(keep_macs=0.5, min_blocks=0))
    masks = select(random_scores(resnet20("depth")[0]), model, Budget(keep_macs=0.5, min_blocks=0), "global")
    assert sum(int(mask.sum()) for mask in masks.values()) == 2


def test_blocks_go_further_where_the_least_widths_cost_too_much():
    """The square root of the budget leaves blocks whose floors exceed it."""
    sites, model = resnet20("both")
    budget = Budget(keep_macs=0.25, min_keep=7)
    masks = select(random_scores(sites), model, budget, "global")
    vector = model.array(masks)
    assert model.cost(budget, vector) <= 0.25 * model.macs(model.dense)
    plain = select(random_scores(sites), model, Budget(keep_macs=0.25), "global")
    assert sum(int(masks[n].sum()) for n in model.blocks) <= sum(int(plain[n].sum()) for n in model.blocks)


def test_widths_and_blocks_of_another_record():
    sites, model = resnet20("both")
    like = select(random_scores(sites, 1), model, Budget(keep_macs=0.4), "layer")
    texts = tuple("".join(str(int(b)) for b in like[name].tolist()) for name in sorted(model.blocks))
    budget = Budget(widths=tuple(int(like[name].sum()) for name in sorted(sites)), blocks=texts)
    masks = select(random_scores(sites, 2), model, budget, "layer")
    assert all(torch.equal(masks[name], like[name]) for name in model.blocks)
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: int(m.sum()) for n, m in like.items()}
    assert model.meets(budget, model.array(masks)) and not model.meets(budget, model.dense)
    assert model.allowed(budget) == model.macs(model.array(masks))
    for wrong in (
        Budget(widths=budget.widths[:-1], blocks=texts),
        Budget(widths=budget.widths, blocks=("1", *texts[1:])),
        Budget(widths=budget.widths, blocks=("111", "11", "11")),  # widths of 0 in blocks that stay
    ):
        with pytest.raises(UsageError, match="this network's sites have"):
            model.require(wrong)


def test_numbers_of_blocks_of_another_record():
    """Of blocks alone the number counts: which ones is the method's choice."""
    sites, model = resnet20("depth")
    budget = Budget(widths=(2, 1, 1))
    for seed in range(3):
        masks = select(random_scores(sites, seed), model, budget, "layer")
        assert [int(mask.sum()) for mask in masks.values()] == [2, 1, 1]
        best = random_scores(sites, seed)["blocks.0"].argsort(descending=True)[:2]
        assert masks["blocks.0"][best].all() and model.meets(budget, model.array(masks))
    assert not model.meets(budget, model.dense)


def test_equal_shares_of_blocks():
    sites, model = resnet20("depth")
    assert equal_widths(sites.widths, model, Budget(keep_macs=0.7)) == {"blocks.0": 2, "blocks.4": 1, "blocks.7": 1}


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("units", ["depth", "both"])
def test_pruning_in_steps_reaches_the_budget(units, ranking):
    sites, model = resnet20(units)
    scores, masks, budget = random_scores(sites), sites.ones(), Budget(keep_macs=0.6)
    generator = torch.Generator().manual_seed(0)
    steps = cycles_needed(0.2, ranking, 0.5, model, budget)
    cost, cuts = 1.0, 0
    while cost > 0.6 and cuts < 20:
        cuts += 1
        masks = check_masks(sites, prune_worst(scores, masks, 0.2, ranking, model, budget, generator))
        cost = model.macs(model.array(masks)) / model.macs(model.dense)
        assert all(masks[name].any() for name in model.blocks)
    assert abs(steps - cuts) <= (2 if ranking == "global" or units == "both" else 1)


def test_masks_of_absent_sites_may_be_empty_and_no_others():
    sites, model = resnet20("both")
    masks = sites.ones() | {"blocks.0": torch.tensor([True, False, True]), "blocks.1.conv1": torch.zeros(16) > 0}
    assert check_masks(sites, masks) == masks
    assert not sites.settled(sites.ones() | {"blocks.0": masks["blocks.0"]})["blocks.1.conv1"].any()
    with pytest.raises(RunFailed, match=r"site blocks.2.conv1 keeps 0 units; --min-keep is 1"):
        check_masks(sites, masks | {"blocks.2.conv1": torch.zeros(16) > 0})
    with pytest.raises(RunFailed, match=r"site blocks.4 keeps 0 units; --min-blocks is 1"):
        check_masks(sites, masks | {"blocks.4": torch.zeros(2) > 0}, model.least(Budget()))
