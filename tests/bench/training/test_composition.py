"""Compositions: who decides what, the same in either order, and what a part hears when it asks."""

import pytest
import torch
from support.paths import PLUGINS
from support.plugins import known

from bench.conformance import tiny_networks
from bench.conformance.runner import examine
from bench.conformance.subject import Subject
from bench.errors import RunFailed, UsageError
from bench.pruning.selection import select
from bench.runs.method_factory import make_method
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.registry import METHODS
from bench.spec.spec import Budget

PLUGIN = PLUGINS / "parts.py"
OWN = ["largest_go", "largest_go_globally", "first_units_stay", "zeroes_what_goes", "asks_in_every_way"]
OWN += ["tunes_from_the_base", "wants_global"]


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    with known(PLUGIN, tiny_networks.__file__):
        yield


def ranks(name):
    method = make_method(name, {})
    return bool(method.bound("scores") or method.bound("select"))


def plans(name):
    return bool(make_method(name, {}).bound("plan"))


RECIPE = load_recipe("synthetic", {})


def spec(name, ranking=None):
    return make_spec(name, "check_chain", "check_images", RECIPE, Budget(0.5, ranking=ranking))


def test_ranking_of_every_composition_is_the_one_asked_for():
    names = [*(n for n in METHODS.entries() if not n.startswith("check_")), *OWN]
    rankers = [name for name in names if ranks(name)]
    others = [name for name in names if name not in rankers and make_method(name, {}).prunes]
    assert len(rankers) > 20
    assert len(others) > 4
    composed = 0
    for ranker in rankers:
        own = make_method(ranker, {}).ranking
        other = {"layer": "global", "global": "layer"}[own]
        for part in others:
            for name in (f"{ranker}+{part}", f"{part}+{ranker}"):
                if plans(ranker) and plans(part):
                    continue
                composed += 1
                method, plain = make_method(name, {}), spec(name)
                assert method.ranking == own
                assert method.native == make_method(ranker, {}).native
                changed = spec(name, other)
                assert plain.id == spec(name, own).id != changed.id
                assert (plain.budget.ranking, changed.budget.ranking) == (None, other)
    assert composed > 150


@pytest.mark.parametrize("name", ["dropout+wants_global", "wants_global+dropout"])
def test_ranking_of_a_part_holds_where_no_part_ranks(name):
    assert make_method(name, {}).ranking == "global"
    assert spec(name).id == spec(name, "global").id != spec(name, "layer").id


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("parts", "start"),
    [
        (("tunes_from_the_base", "dropout"), "base"),  # its plan has no training from the start
        (("uniform_thin", "dropout"), "init"),
        (("l1_norm", "dropout"), "init"),
        (("l1_norm", "tunes_from_the_base"), "base"),
        (("dense", "dropout"), "base"),
    ],
)
def test_plan_decides_where_a_composition_starts(parts, start, order):
    assert make_method("+".join(parts[::order]), {}).starts_from == start


@pytest.mark.parametrize("name", ["dense+l1_norm", "taylor+dense"])
def test_part_that_keeps_all_units_goes_with_no_ranker(name):
    with pytest.raises(UsageError, match=r"^dense keeps every unit: it cannot be composed with (l1_norm|taylor)$"):
        make_method(name, {})
    assert not make_method("dropout+dense", {}).prunes


@pytest.mark.parametrize(
    ("name", "native"), [("edropout+dropout", True), ("dropout+l1_penalty", True), ("dropout+taylor", False)]
)
def test_native_is_the_word_of_the_part_that_ranks(name, native):
    assert make_method(name, {}).native == native
    assert make_method("+".join(name.split("+")[::-1]), {}).native == native


# --- what a part hears ---------------------------------------------------------------------------------------------

RANKERS = ["largest_go", "largest_go_globally", "fpgm", "bn_scale", "taylor", "random", "slimming", "wants_global"]


@pytest.mark.parametrize(
    ("ranker", "ranking"),
    [
        pytest.param(ranker, ranking, marks=[pytest.mark.slow] * ((i + j) % 3 > 0 and ranker != RANKERS[0]))
        for i, ranker in enumerate(RANKERS)
        for j, ranking in enumerate((None, "layer", "global"))
    ],
)
def test_part_hears_the_answer_of_the_composition(ranker, ranking, tmp_path):
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

    run = Subject(name, tmp_path).start(watch=watch, budget=Budget(0.5, ranking=ranking))
    run.go()
    assert heard
    for expected, answers in heard:
        assert len(answers) == 4
        for answer in answers:
            assert all(torch.equal(answer[site], mask) for site, mask in expected.items())


@pytest.mark.parametrize("ranker", ["largest_go", "fpgm", "first_units_stay", "largest_go_globally"])
def test_soft_pruning_zeroes_what_the_composition_would_cut(ranker, tmp_path):
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

    run = Subject(f"{ranker}+zeroes_what_goes", tmp_path).start(watch=watch)
    run.go()
    assert len(epochs) == run.spec.recipe.train.epochs


def test_select_that_asks_itself_is_refused_in_one_line(tmp_path):
    with pytest.raises(RunFailed, match=r"^ctx\.select in select: it would ask itself$"):
        Subject("asks_itself", tmp_path).run()


@pytest.mark.parametrize("name", ["zeroes_what_goes", "largest_go", "asks_in_every_way"])
def test_battery_compares_the_answers_of_parts(name):
    (result,) = examine(name, ["composition"]).results
    assert (result.outcome, result.detail[:3]) == ("ok", "as ")
