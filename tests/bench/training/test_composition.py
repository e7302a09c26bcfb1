"""Compositions: who decides what, the same in either order, and what a part hears when it asks."""

import pytest
import torch
from support.paths import PLUGINS
from support.plugins import outcomes

from bench.conformance.subject import Subject
from bench.errors import RunFailed, UsageError
from bench.pruning.selection import select
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from bench.runs.resolve import make_spec
from bench.spec import method_traits
from bench.spec.recipe import load_recipe
from bench.spec.registry import METHODS
from bench.spec.spec import Budget

PLUGIN = PLUGINS / "parts.py"
RECIPE = load_recipe("synthetic", {})


def spec(name, ranking=None):
    return make_spec(name, "check_chain", "check_images", RECIPE, Budget(0.5, ranking=ranking))


def pairs():
    """Each method that ranks with each that prunes and does not, in both orders, but for two that want one decision."""
    methods = {name: make_method(name, {}) for name in METHODS.entries() if not name.startswith("check_")}
    rankers = [name for name, method in methods.items() if method.bound("scores") or method.bound("select")]
    others = [name for name, method in methods.items() if name not in rankers and method.prunes]
    assert len(rankers) > 20
    assert len(others) > 4
    wanting = [{name for name, method in methods.items() if method.bound("plan")}]
    wanting.append({name for name, m in methods.items() if m.compensation or m.reestimates is not None})
    combined = [(a, b) for a in rankers for b in others if not any({a, b} <= names for names in wanting)]
    return [(ranker, name) for ranker, part in combined for name in (f"{ranker}+{part}", f"{part}+{ranker}")]


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_ranking_of_every_composition_is_the_one_asked_for(every):
    combined = pairs()
    assert len(combined) > 150
    for ranker, name in combined[::every]:
        own = make_method(ranker, {})
        other = {"layer": "global", "global": "layer"}[own.ranking]
        method, plain, changed = make_method(name, {}), spec(name), spec(name, other)
        assert (method.ranking, method.native) == (own.ranking, own.native), name
        assert method_traits.of(name) == method_traits.of_method(method), name
        assert plain.id == spec(name, own.ranking).id != changed.id, name
        assert (plain.budget.ranking, changed.budget.ranking) == (None, other), name


@pytest.mark.parametrize("name", ["dropout+wants_global", "wants_global+dropout"])
def test_ranking_of_a_part_holds_where_no_part_ranks(name):
    assert make_method(name, {}).ranking == "global"
    assert spec(name).id == spec(name, "global").id != spec(name, "layer").id


def test_plan_decides_where_a_composition_starts():
    for parts, start in {
        ("tunes_from_the_base", "dropout"): "base",  # its plan has no training from the start
        ("uniform_thin", "dropout"): "init",
        ("l1_norm", "dropout"): "init",
        ("l1_norm", "tunes_from_the_base"): "base",
        ("dense", "dropout"): "base",
    }.items():
        for order in (1, -1):
            assert make_method("+".join(parts[::order]), {}).starts_from == start, parts


@pytest.mark.parametrize("name", ["dense+l1_norm", "taylor+dense"])
def test_part_that_keeps_all_units_goes_with_no_ranker(name):
    with pytest.raises(UsageError, match=r"^dense keeps every unit: it cannot be composed with (l1_norm|taylor)$"):
        make_method(name, {})
    assert not make_method("dropout+dense", {}).prunes


def test_native_is_the_word_of_the_part_that_ranks():
    for one, two, native in (
        ("edropout", "dropout", True),
        ("dropout", "l1_penalty", True),
        ("dropout", "taylor", False),
    ):
        assert make_method(f"{one}+{two}", {}).native == make_method(f"{two}+{one}", {}).native == native


# --- what a part hears ---------------------------------------------------------------------------------------------

RANKERS = ["largest_go", "largest_go_globally", "fpgm", "bn_scale", "taylor", "random", "slimming", "wants_global"]
FAST = {("largest_go_globally", "layer"), ("random", None), ("taylor", "global")}


@pytest.mark.parametrize(
    ("ranker", "ranking"),
    [
        pytest.param(ranker, ranking, marks=[pytest.mark.slow] * ((ranker, ranking) not in FAST))
        for ranker in RANKERS
        for ranking in (None, "layer", "global")
    ],
)
def test_part_hears_the_answer_of_the_composition(ranker, ranking, folder):
    names = [ranker, "asks_in_every_way"]
    name = "+".join(names if ranking == "layer" else names[::-1])
    heard = []

    def watch(hook, ctx, call):
        if hook != "on_epoch_end":
            return call()
        state = ctx.rng.get_state()
        scores = run.method.scores(ctx)
        expected = select(scores, run.model, Budget(0.5), ranking or run.method.ranking)
        ctx.rng.set_state(state)
        call()
        (part,) = (part for part in run.method.parts if part.name == "asks_in_every_way")
        heard.append((expected, part.answers))

    run = Subject(name, folder).start(watch=watch, budget=Budget(0.5, ranking=ranking))
    run.go()
    assert heard
    for expected, answers in heard:
        assert len(answers) == 4
        for answer in answers:
            assert all(torch.equal(answer[site], mask) for site, mask in expected.items())


@pytest.mark.parametrize("ranker", ["largest_go", "first_units_stay"])
def test_soft_pruning_zeroes_what_the_composition_would_cut(ranker, folder):
    epochs = []

    def watch(hook, ctx, call):
        if hook != "on_epoch_end":
            return call()
        masks = run.method.select(ctx, ctx.budget)
        call()
        for name, mask in masks.items():
            rows = ctx.sites[name].rows()
            assert not rows[~mask].any()
            assert rows[mask].any(dim=1).all()
        epochs.append(masks)

    run = Subject(f"{ranker}+zeroes_what_goes", folder).start(watch=watch)
    run.go()
    assert len(epochs) == run.spec.recipe.train.epochs


def test_select_that_asks_itself_is_refused_in_one_line(folder):
    with pytest.raises(RunFailed, match=r"^ctx\.select in select: it would ask itself$"):
        Subject("asks_itself", folder).run()


@pytest.mark.parametrize("name", ["zeroes_what_goes", "largest_go"])
def test_battery_compares_the_answers_of_parts(name):
    outcome, detail = outcomes(name, "composition")["composition"]
    assert (outcome, detail[:3]) == ("ok", "as ")


def test_composition_has_options_by_part_and_starts_from_init(make_run):
    done = execute(*make_run("dropout+l1_norm", "all_kinds", "tiny8", options={"dropout.p": "0.1"}))
    assert done.spec.config == {"dropout.p": 0.1}
    assert done.training.starts_from == "init"
    with pytest.raises(UsageError, match="cannot be composed"):
        make_run("l1_norm+random")
    with pytest.raises(UsageError, match="say whose it is"):
        make_run("dropout+l1_norm", options={"p": "0.1"})
