"""Sites that a method exempts keep all units, whatever chooses; the others meet the budget (contract 2.4, exempt)."""

import pytest
import torch
from support.paths import PLUGINS
from support.plans import carry_out, prune
from support.plugins import known

from bench.api import PRUNE, Budget, Method, Phase
from bench.cli import main
from bench.errors import RunFailed, Unsupported
from bench.records import store
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.verify import verify_file

PLUGIN = PLUGINS / "declaring.py"


@pytest.fixture(autouse=True, scope="module")
def _declaring():
    with known(PLUGIN):
        yield


def exempting(ctx, *sites):
    """The context of a method that exempts these sites."""
    ctx._model.costs = ctx._model.costs.exempting(sites)
    return ctx


def lenet(make_ctx, keep=0.5, **settings):
    """LeNet, whose linear site ``fc1`` is exempt."""
    return exempting(make_ctx(arch="lenet", shape=(1, 16, 16), keep=keep, **settings), "fc1")


def widths(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


@pytest.mark.parametrize("ranking", ["layer", "global", {"conv1": 1.0, "conv2": 0.5, "fc1": 0.1}])
def test_rank_keeps_all_of_an_exempt_site_and_the_others_meet_the_budget(make_ctx, ranking):
    ctx = lenet(make_ctx)
    scores = {name: torch.rand(width) for name, width in ctx.sites.widths.items() if name != "fc1"}
    kept = widths(ctx.rank(scores, ranking))
    assert kept["fc1"] == ctx.sites["fc1"].n_units
    assert ctx.fits(kept)
    for name in ("conv1", "conv2"):
        assert kept[name] < ctx.sites[name].n_units
    assert not all(ctx.fits(kept | {name: kept[name] + 1}) for name in ("conv1", "conv2"))


def test_equal_widths_are_those_of_the_other_sites_alone(make_ctx):
    """By hand: the largest common share of the two convolutions at which the whole network is within the budget."""
    ctx = lenet(make_ctx)
    found, all_units = ctx.equal_widths(), ctx.sites.widths
    assert found["fc1"] == all_units["fc1"]
    shares = sorted({k / width for n, width in all_units.items() if n != "fc1" for k in range(1, width + 1)})
    rounded = [{n: max(1, int(s * w + 1e-9)) if n != "fc1" else w for n, w in all_units.items()} for s in shares]
    best = max((w for w in rounded if ctx.fits(w)), key=lambda w: (w["conv1"], w["conv2"]))
    assert all(found[name] >= best[name] for name in found)
    assert ctx.fits(found)


def test_cuts_and_cycles_leave_an_exempt_site_out(make_ctx):
    for native, ranking in ((False, "layer"), (False, "global"), (True, "layer"), (True, "global")):
        ctx = lenet(make_ctx, keep=0.4)
        ctx._budget = None if native else ctx._budget
        units = sum(w for n, w in ctx.sites.widths.items() if n != "fc1")
        cycles = ctx.cycles(0.3, ranking, 0.2)
        assert cycles > 1
        for cycle in range(cycles):
            scores = {n: torch.rand(w) - 5 * (n == "fc1") for n, w in ctx.sites.widths.items()}
            ctx.masks = ctx.prune_worst(scores, 0.3, ranking)
            kept = widths(ctx.masks)
            assert kept["fc1"] == ctx.sites["fc1"].n_units
            if ranking == "global" and not cycle:
                assert kept["conv1"] + kept["conv2"] == units - int(0.3 * units + 1e-9)  # a share of what may go
        if native:
            assert kept["conv1"] + kept["conv2"] <= max(0.2 * units, 2)
        elif ranking == "layer":
            assert ctx.fits(kept)


def test_repaired_states_keep_an_exempt_site(make_ctx):
    for native in (False, True):
        ctx = lenet(make_ctx)
        ctx._budget = None if native else ctx._budget
        states = torch.rand(7, sum(ctx.sites.widths.values())) < 0.3
        repaired = ctx.split(ctx.repair(states))
        assert repaired["fc1"].all()
        assert not repaired["conv2"].all()


def test_masks_that_cut_an_exempt_site_are_refused(make_ctx):
    ctx = lenet(make_ctx)
    cut = ctx.sites.ones() | {"fc1": torch.arange(ctx.sites["fc1"].n_units) > 0}
    why = r"mask for site fc1 keeps \d+ units of \d+: it is exempt"
    with pytest.raises(RunFailed, match=why):
        ctx.masks = cut
    with pytest.raises(RunFailed, match=why):
        ctx.shrink(cut)
    ctx._method = type("Cuts", (Method,), {"select": lambda self, ctx, budget: cut})()
    with pytest.raises(RunFailed, match=why):
        ctx.select()


def test_exempt_site_needs_no_scores_and_another_does(make_ctx):
    ctx = lenet(make_ctx)
    scores = {name: torch.rand(width) for name, width in ctx.sites.widths.items()}
    one = ctx.rank({n: s for n, s in scores.items() if n != "fc1"}, "global")
    two = ctx.rank(scores, "global")
    assert all(torch.equal(one[n], two[n]) for n in one)
    with pytest.raises(RunFailed, match="no scores for site conv1"):
        ctx.rank({"conv2": scores["conv2"]}, "layer")


def test_model_without_exempt_sites_has_the_floors_of_before(make_ctx):
    costs = lenet(make_ctx)._model.costs
    plain = costs.exempting(())
    budget = Budget(keep_macs=0.5, min_keep=3)
    assert [*plain.floors(budget).values()] == [3, 3, 3]
    assert [*costs.floors(budget).values()] == [3, 3, costs.dense[2]]
    assert plain.exempt == frozenset()


def test_run_keeps_exempt_sites_and_says_so(make_run):
    """In the record, which verifies; the function of the importance is not called for them."""
    spec, options = make_run("convs_alone", "lenet", keep=0.6)
    done = execute(spec, options)
    assert done.structure.exempt == ["fc1"]
    assert done.structure.widths["fc1"][0] == done.structure.widths["fc1"][1]
    assert done.structure.widths["conv2"][1] < done.structure.widths["conv2"][0]
    lines = verify_file(store.path_of(options.out, spec), options.out, options.data_dir)
    assert {line.outcome for line in lines} == {"ok"}
    assert execute(*make_run("l1_norm", "lenet", keep=0.6)).structure.exempt is None


def test_budget_below_the_exempt_sites_is_refused_before_training(make_run, tmp_path):
    """With the least share that can be met."""
    with pytest.raises(Unsupported) as refused:
        execute(*make_run("convs_alone", "lenet", keep=Budget(keep_params=0.01)))
    said = str(refused.value)
    assert "1 unit(s) in each of the 2 sites and all of the exempt fc1 already cost 0." in said
    least = float(said.partition("already cost ")[2].partition(";")[0])
    done = execute(*make_run("convs_alone", "lenet", keep=Budget(keep_params=least + 1e-4)))
    assert {name: after for name, (_, after) in done.structure.widths.items()}["conv1"] == 1
    assert refused.value.exit_code == 2


def test_widths_that_cut_an_exempt_site_are_refused(make_run):
    like = Budget(widths=(2, 2, 2))
    with pytest.raises(Unsupported, match="cannot be met"):
        execute(*make_run("convs_alone", "lenet", keep=like))


def test_method_that_exempts_every_site_is_refused(make_run):
    with pytest.raises(Unsupported, match=r"convs_alone exempts every site of this network \(1, 3\)"):
        execute(*make_run("convs_alone", "mlp_40_40"))


def test_supports_is_not_asked_of_an_exempt_site(make_ctx):
    """``maps`` as a need: a linear site has none."""
    sites = make_ctx(arch="lenet", shape=(1, 16, 16)).sites
    make_method("maps_where_convolutions", {}).require(sites)
    with pytest.raises(
        Unsupported, match="maps_only does not work on site fc1: its activations are no maps, it is of kind"
    ):
        make_method("maps_only", {}).require(sites)


def test_composition_exempts_what_its_ranking_exempts(make_ctx):
    """Without a part that ranks what any part exempts."""
    conv, _, linear = make_ctx(arch="lenet", shape=(1, 16, 16)).sites.values()
    for name, expected in (
        ("convs_alone", (False, True)),
        ("dropout+convs_alone", (False, True)),
        ("convs_penalty+l1_norm", (False, False)),
        ("convs_penalty+dropout", (False, True)),
    ):
        method = make_method(name, {})
        assert (method.exempt(conv), method.exempt(linear)) == expected, name


def test_regularizer_has_no_penalty_on_exempt_sites(make_ctx):
    ctx, method = make_ctx(arch="lenet", shape=(1, 16, 16)), make_method("convs_penalty", {})
    method.penalty(ctx).backward()
    touched = {n for n, p in ctx._model.network.named_parameters() if p.grad is not None}
    assert touched == {"conv1.weight", "conv2.weight"}


def test_shrunken_network_keeps_its_exempt_sites(make_training):
    """Through a cut between phases, and another at the PRUNE."""

    class Cuts(Method):
        def on_phase_end(self, ctx):
            ctx.shrink(ctx.prune_worst(self.scores(ctx), 0.3, "layer"))

    training = make_training(Cuts(), arch="lenet", shape=(1, 16, 16), keep=0.3)
    exempting(training.ctx, "fc1")
    before = training.ctx.sites.widths
    carry_out(training, (Phase(1), PRUNE, Phase(0, "finetune")), prune)
    after = training.ctx.sites.widths
    assert after["fc1"] == before["fc1"]
    assert after["conv2"] < 0.7 * before["conv2"]


def test_list_of_what_a_command_refuses(plugins, tmp_path, capsys):
    words = ["run", "--plugin", str(PLUGIN), "--method", "convs_alone", "--arch", "mlp_40_40", "-d", "tiny8", "-q"]
    assert main([*words, "--recipe", "synthetic", "--out", str(tmp_path)]) == 2
    assert "exempts every site" in capsys.readouterr().err
