"""Choosing cycle by cycle in a context: cuts, how many of them, random states, repairs and widths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import GREY, three_sites
from support.plans import same

from bench.errors import RunFailed
from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.masked_model import MaskedModel

HALF = Budget(keep_macs=0.5)
MADE = []


@pytest.fixture(scope="module")
def make():
    """Contexts of the same small network (widths 12, 16, 12), without data, at any budget; None: native track."""
    torch.manual_seed(0)
    network = three_sites()
    sites = find_sites(network, GREY)
    model, recipe = CostModel(network, sites, GREY), load_recipe("digits")

    def context(budget=HALF, seed=0):
        MADE.append(Context(MaskedModel(network, sites, model, torch.device("cpu")), None, recipe, budget, seed))
        return MADE[-1]

    return context


@pytest.fixture(autouse=True)
def _release():
    """Contexts of one test leave no gate on the network of the next."""
    yield
    while MADE:
        MADE.pop()._model.remove_hooks()


def scores(ctx, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(s.n_units, generator=generator) for n, s in ctx.sites.items()}


def widths(masks):
    return {n: int(m.sum()) for n, m in masks.items()}


# --- above a threshold, random numbers -----------------------------------------------------------------------------


def test_native_track_keeps_what_is_above_and_the_best_of_each_site(make):
    worth = {"0": torch.linspace(-1, 1, 12), "4": torch.zeros(16) - 1, "7": torch.ones(12)}
    worth["4"][3] = -0.5
    native = make(None)
    assert widths(native.rank(worth, "layer", above=0.1)) == {"0": 5, "4": 1, "7": 12}
    assert native.rank(worth, "layer", above=0.1)["4"][3]
    assert widths(native.rank(worth, "layer")) == native.sites.widths
    native._model.costs = native._model.costs.exempting(["4"])
    del worth["4"]
    assert widths(native.rank(worth, "layer", above=2.0)) == {"0": 1, "4": 16, "7": 12}
    matched, worth = make(), scores(native)
    assert same(matched.rank(worth, "layer", above=0.9), matched.rank(worth, "layer"))


def test_draws_are_uniform_or_normal_and_repeat_with_the_seed(make):
    uniform, normal = make().draw(2000)["0"], make().draw(2000, normal=True)["0"]
    assert uniform.shape == normal.shape == (2000, 12)
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1
    assert (normal.mean().abs(), (normal.std() - 1).abs()) < (4 / 24000**0.5, 4 / 48000**0.5)
    assert torch.equal(make().draw(2000, normal=True)["0"], normal)


# --- cuts --------------------------------------------------------------------------------------------------------


def test_scores_of_dropped_units_do_not_matter(make):
    """Units that are masked are neither dropped again nor counted, however bad they look."""
    ctx = make(None)
    worth = scores(ctx)
    ctx.masks = first = ctx.prune_worst(worth, 0.25, "global")
    bad = {n: torch.where(first[n], w, torch.full_like(w, -5)) for n, w in worth.items()}
    good = {n: torch.where(first[n], w, torch.full_like(w, 5)) for n, w in worth.items()}
    for changed in (worth, bad, good):
        second = ctx.prune_worst(changed, 0.25, "global")
        best = torch.cat([w[first[n]] for n, w in worth.items()]).sort(descending=True).values
        assert sum(widths(second).values()) == 30 - 7  # 40 - 10, then a quarter of what is left, rounded down
        assert all(torch.equal(second[n], first[n] & (worth[n] >= best[22])) for n in ctx.sites)


def test_layer_drops_take_the_share_of_each_site(make):
    ctx = make(None)
    assert list(widths(ctx.prune_worst(scores(ctx), 0.2, "layer")).values()) == [10, 13, 10]
    assert list(widths(ctx.prune_worst(scores(ctx), 0, "layer")).values()) == [11, 15, 11]
    assert sum(widths(ctx.prune_worst(scores(ctx), 0, "global")).values()) == 39


def test_a_drop_moves_no_other_generator_and_is_the_same_for_the_same_seed(make):
    flat = {n: torch.zeros(s.n_units) for n, s in make().sites.items()}
    rng = torch.get_rng_state()
    found = [make(None, seed).prune_worst(flat, 0.3, "global") for seed in (1, 1, 2)]
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(found[0][n], found[1][n]) for n in flat)
    assert any(not torch.equal(found[0][n], found[2][n]) for n in flat)


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_min_keep_stays(make, ranking):
    ctx = make(Budget(keep_macs=0.2, min_keep=4))
    worth = scores(ctx) | {"0": torch.arange(12.0) - 100}
    for _ in range(30):
        ctx.masks = ctx.prune_worst(worth, 0.3, ranking)
    assert min(widths(ctx.masks).values()) >= 4
    assert ctx.masks["0"][-4:].all()


@pytest.mark.parametrize(
    ("keep", "ranking"),
    [({"keep_macs": 0.5}, "layer"), ({"keep_params": 0.3}, "global"), ({"keep_macs": 0.9}, "global")],
)
def test_cuts_end_at_the_budget_and_never_below_what_it_allows(make, keep, ranking):
    """The last cut is replaced by the best masks within the budget, among what was still there."""
    ctx, worth = make(Budget(**keep)), scores(make())
    for _ in range(100):
        before = ctx.masks
        ctx.masks = after = ctx.prune_worst(worth, 0.1, ranking)
        assert all(not (after[n] & ~before[n]).any() for n in after)
        if ctx.fits(widths(after)):
            break
    assert ctx.fits(widths(after))
    assert not ctx.fits(widths(before))
    allowed = ctx.rank(worth, ranking)
    assert sum(widths(after).values()) >= sum(widths(allowed).values()) - len(ctx.sites)


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_the_last_cut_brings_nothing_back_whatever_its_scores(make, ranking):
    ctx = make(Budget(keep_macs=0.5))
    best_gone = {n: torch.arange(s.n_units) >= s.n_units // 4 for n, s in ctx.sites.items()}
    ctx.masks = best_gone
    worth = {n: -torch.arange(float(s.n_units)) for n, s in ctx.sites.items()}
    after = ctx.prune_worst(worth, 0.6, ranking)
    assert ctx.fits(widths(after))
    assert all(not (after[n] & ~best_gone[n]).any() for n in after)
    assert all(m.any() for m in after.values())
    equal = {n: torch.zeros(s.n_units) for n, s in ctx.sites.items()}
    best = ctx.rank({n: mask.float() for n, mask in best_gone.items()}, ranking)  # pruned units are the worst of equals
    after = ctx.prune_worst(equal, 0.6, ranking)
    assert all(torch.equal(after[n], best[n] & best_gone[n]) for n in after)


def test_the_users_ranking_wins(make):
    asked, own = make(Budget(keep_macs=0.5, ranking="global")), make()
    worth = scores(own) | {"0": torch.arange(12.0) + 5}
    one, two, layer = (
        asked.prune_worst(worth, 0.2, "layer"),
        own.prune_worst(worth, 0.2, "global"),
        own.prune_worst(worth, 0.2, "layer"),
    )
    assert widths(one) == widths(two) != widths(layer)
    assert widths(one)["0"] == 12
    assert asked.cycles(0.1, "layer", 1) == own.cycles(0.1, "global", 1)


def test_scores_of_a_cut_are_checked(make):
    ctx = make()
    for change, match in (
        ({"0": torch.full((12,), float("nan"))}, "for site 0 are not finite"),
        ({"0": torch.zeros(3)}, r"shape \[3\], not \[12\]"),
    ):
        with pytest.raises(RunFailed, match=match):
            ctx.prune_worst(scores(ctx) | change, 0.2, "layer")
    with pytest.raises(RunFailed, match="no scores for site 0"):
        ctx.prune_worst({n: s for n, s in scores(ctx).items() if n != "0"}, 0.2, "global")


# --- how many drops ------------------------------------------------------------------------------------------------


def test_cycles_are_the_cuts_it_takes(make):
    """By layer under a budget, and in either ranking in the native mode."""
    budgets = [(Budget(keep_macs=0.9), 0.0), (HALF, 0.1), (Budget(keep_macs=0.2), 0.2), (Budget(keep_macs=0.2), 0.5)]
    natives = [(0.0, "layer", 0.8), (0.2, "global", 0.5), (0.2, "layer", 0.1), (0.5, "global", 0.02)]
    cases = [*((budget, share, "layer", 0.0) for budget, share in budgets), *((None, *case) for case in natives)]
    for budget, share, ranking, left in cases:
        ctx = make(budget)
        expected = ctx.cycles(share, ranking, left)
        for count in range(1, 200):
            before = ctx.masks
            ctx.masks = ctx.prune_worst(scores(ctx, count), share, ranking)
            assert widths(before) != widths(ctx.masks)
            met = ctx.fits(widths(ctx.masks)) if budget else ctx.units_left <= left
            if met or max(widths(ctx.masks).values()) == 1:
                break
        assert expected == count, (budget, share, ranking, left)


def test_cycles_of_a_budget_ranked_globally_are_about_right(make):
    """Equal losses of all sites are what scores without a preference give."""
    for share in (0.0, 0.1, 0.3):
        ctx = make(Budget(keep_macs=0.5))
        expected = ctx.cycles(share, "global", 0.0)
        worth = {n: torch.arange(float(s.n_units)) / s.n_units for n, s in ctx.sites.items()}
        count = 0
        while not ctx.fits(widths(ctx.masks)):
            ctx.masks, count = ctx.prune_worst(worth, share, "global"), count + 1
        assert abs(expected - count) <= 1, share


def test_cycles_do_not_change_while_the_network_does(make):
    ctx = make()
    before = ctx.cycles(0.2, "layer", 0.0)
    ctx.shrink(ctx.prune_worst(scores(ctx), 0.2, "layer"))
    assert ctx.cycles(0.2, "layer", 0.0) == before


def test_units_left_counts_masked_and_removed_units(make):
    ctx = make()
    assert ctx.units_left == 1
    ctx.masks = {"0": torch.arange(12) < 6, "4": torch.arange(16) < 16, "7": torch.arange(12) < 8}
    assert ctx.units_left == 30 / 40
    ctx.shrink(ctx.masks)
    assert ctx.units_left == 30 / 40
    ctx.masks = {"0": torch.arange(6) < 3, "4": torch.arange(16) < 1, "7": torch.arange(8) < 8}
    assert ctx.units_left == 12 / 40


# --- states ------------------------------------------------------------------------------------------------------


def test_flat_and_split_are_inverse(make):
    ctx = make()
    values = ctx.draw(3, 2)
    assert {n: v.shape for n, v in values.items()} == {n: (3, 2, w) for n, w in ctx.sites.widths.items()}
    flat = ctx.flat(values)
    assert flat.shape == (3, 2, 40)
    assert all(torch.equal(v, values[n]) for n, v in ctx.split(flat).items())
    shuffled = dict(reversed(list(values.items())))
    assert torch.equal(ctx.flat(shuffled), flat)  # the order is that of the sites


def test_draws_are_uniform_and_the_methods_own(make):
    ctx, rng = make(), torch.get_rng_state()
    drawn = ctx.flat(ctx.draw(1000))
    assert torch.equal(rng, torch.get_rng_state())
    assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * (1 / 12 / drawn.numel()) ** 0.5)
    assert torch.equal(drawn, make().flat(make().draw(1000)))
    assert not torch.equal(drawn, ctx.flat(ctx.draw(1000)))
    assert make().draw()["0"].shape == (12,)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 100), st.sampled_from([None, 0.15, 0.5, 0.9]), st.sampled_from([1, 3]))
def test_repair_meets_the_widths_with_as_few_flips_as_possible(make, chance, seed, keep, min_keep):
    """In the native mode it only adds what is missing."""
    ctx = make(keep and Budget(keep_macs=keep, min_keep=min_keep))
    states = torch.rand(5, 40, generator=torch.Generator().manual_seed(seed)) < chance
    before = states.clone()
    repaired = ctx.repair(states)
    assert torch.equal(states, before)
    assert repaired.dtype == torch.bool
    for name, after in ctx.split(repaired).items():
        old = ctx.split(states)[name]
        count = old.sum(dim=1)
        wanted = torch.full_like(count, ctx.equal_widths()[name]) if keep else count.clamp(min=1)
        assert torch.equal(after.sum(dim=1), wanted)
        assert torch.equal((after != old).sum(dim=1), (count - wanted).abs())
    assert keep is None or ctx.fits(ctx.equal_widths())


def test_repairs_are_random_among_the_equally_good(make):
    ctx = make(Budget(keep_macs=0.5))
    repaired = ctx.split(ctx.repair(torch.ones(400, 40, dtype=torch.bool)))["4"].float()
    share = ctx.equal_widths()["4"] / 16
    assert (repaired.mean(dim=0) - share).abs().max() < 4.5 * (share * (1 - share) / 400) ** 0.5


# --- widths and shares ---------------------------------------------------------------------------------------------


def test_equal_widths_keep_the_same_share_of_each_site(make):
    ctx = make(Budget(keep_macs=0.5, ranking="global"))
    found = ctx.equal_widths()
    shares = [found[n] / s.n_units for n, s in ctx.sites.items()]
    assert max(shares) - min(shares) <= 2 / 12  # within one unit of each site
    assert ctx.fits(found)
    assert widths(make(Budget(widths=(3, 9, 4))).rank(scores(ctx), "layer")) == {"0": 3, "4": 9, "7": 4}
    assert make(Budget(widths=(3, 9, 4))).equal_widths() == {"0": 3, "4": 9, "7": 4}


@settings(derandomize=True, max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(1, 16), st.integers(1, 12))
def test_share_is_that_of_the_sliced_network(make, a, b, c):
    ctx = make(Budget(keep_macs=0.5))
    kept = {"0": a, "4": b, "7": c}
    sliced = ctx.sites.slice(ctx._model.network, {n: torch.arange(s.n_units) < kept[n] for n, s in ctx.sites.items()})
    share = flops.count(sliced, GREY).total / flops.count(ctx._model.network, GREY).total
    assert ctx.share(kept) == pytest.approx(share, rel=1e-12)
    assert ctx.fits(kept) == (share <= 0.5)
