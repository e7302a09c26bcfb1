import dataclasses
import json
from dataclasses import dataclass

import pytest

from bench.errors import UsageError
from bench.spec.decode import decode, decode_with, method_config, parse
from bench.spec.digest import canonical, derive_seed, digest, path_component
from bench.spec.recipe import Recipe, Stage
from bench.spec.registry import method_names
from bench.spec.spec import Budget, Spec


def recipe(**changes):
    return dataclasses.replace(Recipe("mine", Stage(3, 0.1), Stage(1, 0.01)), **changes)


def spec(**changes):
    return dataclasses.replace(Spec("l1_norm", "resnet20", "digits", recipe(), Budget(keep_macs=0.5)), **changes)


# --- hashes --------------------------------------------------------------------------------------------------


def test_recipe_hash_covers_only_values_other_than_defaults():
    given = recipe(momentum=0.9, nesterov=True, precision="auto")
    assert given.sha256 == recipe().sha256
    assert recipe(name="other").sha256 == recipe().sha256
    assert recipe(latency_batch=1).sha256 == recipe().sha256
    assert recipe(train=Stage(3, 0.1, "cosine", 0.0, drops=(0.5, 0.75))).sha256 == recipe().sha256


RECIPE_CHANGES = [
    {"train": Stage(4, 0.1)},
    {"train": Stage(3, 0.2)},
    {"train": Stage(3, 0.1, "step")},
    {"train": Stage(3, 0.1, warmup=0.1)},
    {"train": Stage(3, 0.1, patience=1)},
    {"train": Stage(3, 0.1, drops=(0.3,))},
    {"finetune": Stage(2, 0.01)},
    {"train": Stage(1, 0.01), "finetune": Stage(3, 0.1)},
    {"batch_size": 64},
    {"momentum": 0.8},
    {"nesterov": False},
    {"weight_decay": 0.0},
    {"label_smoothing": 0.1},
    {"augment": "shift"},
    {"precision": "fp32"},
    {"recalibrate": 0},
]
SPEC_CHANGES = [
    {"method": "random"},
    {"arch": "resnet56"},
    {"dataset": "mnist"},
    {"coupling": "full"},
    {"rules": "9.9"},
    {"config": {"strength": 0.1}},
    {"budget": None},
    {"budget": Budget(keep_macs=0.25)},
    {"budget": Budget(keep_params=0.5)},
    {"budget": Budget(keep_macs=0.5, ranking="layer")},
    {"budget": Budget(keep_macs=0.5, min_keep=2)},
    {"budget": Budget(widths=(3, 4))},
    {"units": "depth"},
    {"units": "both"},
    {"units": "both", "budget": Budget(keep_macs=0.5, keep_blocks=0.5)},
    {"units": "both", "budget": Budget(keep_macs=0.5, min_blocks=0)},
    {"units": "both", "budget": Budget(widths=(3, 1, 4), blocks=("10",))},
    {"config": {"powers": (1, 2)}},
    *({"recipe": recipe(**change)} for change in RECIPE_CHANGES),
]


def test_every_value_that_matters_changes_the_hash():
    assert {f.name for f in dataclasses.fields(Recipe)} == {k for c in RECIPE_CHANGES for k in c} | {
        "name",
        "latency_batch",
    }
    recipes = [recipe().sha256, *(recipe(**change).sha256 for change in RECIPE_CHANGES)]
    assert len(set(recipes)) == len(recipes)
    specs = [spec().sha256, *(spec(**change).sha256 for change in SPEC_CHANGES)]
    assert len(set(specs)) == len(specs)
    assert {f.name for f in dataclasses.fields(Spec)} == {k for c in SPEC_CHANGES for k in c} | {"seed"}


def test_hash_does_not_change_where_nothing_matters():
    assert spec(recipe=recipe(name="other", latency_batch=3)).sha256 == spec().sha256
    assert spec(budget=Budget(keep_macs=0.5, min_keep=1, ranking=None)).sha256 == spec().sha256
    assert spec(config={"b": 2.5, "a": 1}).sha256 == spec(config={"a": 1, "b": 2.5}).sha256
    assert spec(seed=7).sha256 == spec().sha256
    assert spec(seed=7).id == spec().sha256[:12] + "-s7"


def test_hashes_do_not_depend_on_the_process():
    """Names of records on disk: a change here orphans every record there is."""
    text = '{"a":1,"b":[true,null,"ä"]}'
    assert canonical({"b": [True, None, "ä"], "a": 1}) == text
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_specification_survives_json():
    for change in ({}, *SPEC_CHANGES, {"seed": 3}):
        before = spec(**change)
        text = json.dumps(before.as_dict())
        after = Spec.from_dict(json.loads(text))
        assert (after, after.id) == (before, before.id)
        assert json.loads(text)["recipe_sha256"] == before.recipe.sha256
    values = spec(budget=Budget(keep_macs=1.0)).as_dict()
    other = json.loads(json.dumps(values).replace('"keep_macs": 1.0', '"keep_macs": 1'))
    assert Spec.from_dict(other).id == Spec.from_dict(values).id


def test_invalid_specification_is_refused():
    good = spec().as_dict()
    for change in (
        {"extra": 1},
        {"budget": {"keep_mac": 0.5}},
        {"budget": {"keep_macs": 2.0}},
        {"budget": {"keep_macs": "half"}},
        {"recipe": {"name": "mine"}},
        {"seed": "zero"},
        {"method": None},
    ):
        with pytest.raises(UsageError):
            Spec.from_dict(good | change)
    for key in ("method", "recipe", "budget"):
        with pytest.raises(UsageError):
            Spec.from_dict({k: v for k, v in good.items() if k != key})


def test_base_is_shared_by_all_that_train_it_alike():
    base = spec().base_id()
    same = [
        {"method": "random"},
        {"budget": None},
        {"coupling": "full"},
        {"recipe": recipe(finetune=Stage(9, 0.5), recalibrate=3, latency_batch=8, name="x")},
    ]
    assert all(spec(**change).base_id() == base for change in same)
    other = [
        {"seed": 1},
        {"arch": "resnet56"},
        {"dataset": "mnist"},
        {"rules": "9"},
        {"recipe": recipe(train=Stage(4, 0.1))},
        {"recipe": recipe(batch_size=1)},
        {"recipe": recipe(augment="shift")},
        {"recipe": recipe(precision="fp32")},
        {"recipe": recipe(precision="bf16")},
    ]
    assert len({base, *(spec(**change).base_id() for change in other)}) == 1 + len(other)


def test_name_becomes_one_part_of_a_path():
    for name, part in (
        ("dropnet_model_a", "dropnet_model_a"),
        ("l1_norm+random", "l1_norm+random"),
        ("folder:c10@32#d32827c6", "folder-c10@32-d32827c6"),
        ("file:../my nets/a.py:net#0123abcd", "file-..-my-nets-a.py-net-0123abcd"),
        ("..", "-"),
        (".hidden", "-hidden"),
        ("x" * 300, "x" * 80),
    ):
        assert path_component(name) == part
    odd = spec(arch="file:a/b.py:f#00112233", dataset="folder:my images@32#00112233").base_id()
    assert odd.startswith("file-a-b.py-f-00112233-folder-my-images@32-00112233-")
    assert "/" not in odd and ":" not in odd
    assert spec(arch="a/b").base_id(arch="x") != spec(arch="a:b").base_id(arch="y")


# --- text to values --------------------------------------------------------------------------------------------


def test_parse_of_text():
    for text, kind, value in (
        ("-3", int, -3),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("0", bool, False),
        ("1", bool, True),
        ("False", bool, False),
        ("yes", bool, True),
        ("no", bool, False),
        ("0", str, "0"),
        ("none", str, "none"),
        ("none", float | None, None),
        ("null", int | None, None),
        ("0", float | None, 0.0),
        ("0", int | None, 0),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("(0.5,1)", tuple[float, ...], (0.5, 1.0)),
        ("4", tuple[int, ...], (4,)),
    ):
        found = parse(text, kind, "x")
        assert found == value
        assert type(found) is type(value)
    for text, kind in (("", int), ("1.0", int), ("x", float), ("2", bool), ("none", int), ("1,x", tuple[int, ...])):
        with pytest.raises(UsageError, match=r"x=.*: not "):
            parse(text, kind, "x")


@dataclass(frozen=True)
class Options:
    strength: float = 1.0
    active: bool = True
    rounds: int | None = 3


def test_options_of_a_method():
    assert method_config(Options, {}, "m") == Options()
    assert method_config(Options, {"strength": "0", "active": "false", "rounds": "none"}, "m") == Options(
        0.0, False, None
    )
    with pytest.raises(UsageError, match=r"method 'm' has no option 'x': it has strength=1\.0, active=True, rounds=3"):
        method_config(Options, {"x": "1"}, "m")
    with pytest.raises(UsageError, match="rounds=a: not a whole number or none"):
        method_config(Options, {"rounds": "a"}, "m")


def test_decode_takes_what_fits_and_refuses_the_rest():
    assert decode(Options, {"strength": 2}, "here") == Options(2.0)
    assert decode_with(Options, {}, {"strength": "2"}, "here") == Options(2.0)
    with pytest.raises(UsageError, match="unknown key in here 'strenght': did you mean strength"):
        decode(Options, {"strenght": 2}, "here")
    with pytest.raises(UsageError, match="here: active = 1 is not true or false"):
        decode(Options, {"active": 1}, "here")


@dataclass(frozen=True)
class Lists:
    powers: tuple[int, ...] = ()
    rates: tuple[float, ...] | None = None


def test_lists_of_json_and_toml_become_tuples():
    assert decode(Lists, {"powers": [1, 2], "rates": [0.5, 1]}, "here") == Lists((1, 2), (0.5, 1))
    assert decode(Lists, {"powers": (), "rates": None}, "here") == Lists()
    assert hash(decode(Lists, {"powers": []}, "here")) == hash(Lists())
    with pytest.raises(UsageError, match="here: powers = "):
        decode(Lists, {"powers": [1, "two"]}, "here")
    with pytest.raises(UsageError, match="here: powers = 3"):
        decode(Lists, {"powers": 3}, "here")


def test_budget_of_widths():
    budget = Budget(widths=[3, 4])
    assert budget == Budget(widths=(3, 4))
    assert str(budget) == "widths 3-4"
    assert budget.keep == 1.0
    for keep in (0, -0.5, 1.1):
        with pytest.raises(UsageError, match=f"{keep}: give the share to keep"):
            Budget(keep_macs=keep)
    for share in ({"keep_macs": 0.5}, {"keep_params": 0.5}):
        with pytest.raises(UsageError, match="--like without --keep-macs or --keep-params"):
            Budget(widths=(3, 4), **share)


def test_names_of_composed_methods():
    assert method_names("l1_norm") == ["l1_norm"]
    assert method_names("l1_norm + random") == ["l1_norm", "random"]
    with pytest.raises(UsageError, match="unknown method 'l1norm': did you mean l1_norm"):
        method_names("random+l1norm")


def test_derived_seeds_are_streams_of_their_own():
    purposes = [(), ("init",), ("shuffle",), ("shuffle", 1), ("shuffle", 2), ("shuffle", "1", "2"), ("shuffle", 12)]
    seeds = [derive_seed(seed, *purpose) for seed in range(20) for purpose in purposes]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derive_seed(seed, *purpose) for seed in range(20) for purpose in purposes]
    assert all(0 <= s < 2**63 for s in seeds)  # what torch takes
