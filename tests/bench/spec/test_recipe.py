"""Recipes: the shipped ones, values given with the command, files of users."""

import dataclasses

import pytest

from bench.errors import UsageError
from bench.spec.recipe import Recipe, Stage, load_recipe, recipe_names


def test_shipped_recipes_load():
    assert {"digits", "mnist", "cifar", "synthetic"} <= set(recipe_names())
    for name in recipe_names():
        found = load_recipe(name)
        assert found.name == name
        assert min(found.train.epochs, found.train.lr, found.finetune.lr) > 0


def test_overrides_win_also_where_they_are_zero_or_false():
    plain = load_recipe("digits")
    for key, text, value in (
        ("nesterov", "false", False),
        ("weight_decay", "0", 0.0),
        ("recalibrate", "0", 0),
        ("train.epochs", "0", 0),
        ("finetune.lr", "0", 0.0),
        ("train.schedule", "step", "step"),
        ("batch_size", "7", 7),
    ):
        found, rest = load_recipe("digits", {key: text}), plain
        *stages, name = key.split(".")
        for stage in stages:
            assert dataclasses.replace(found, **{stage: getattr(plain, stage)}) == plain
            found, rest = getattr(found, stage), getattr(rest, stage)
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is type(value)
        assert dataclasses.replace(found, **{name: getattr(rest, name)}) == rest  # all else stays
    for order in (("momentum", "nesterov"), ("nesterov", "momentum")):  # each alone would be refused
        found = load_recipe("digits", {key: {"momentum": "0", "nesterov": "false"}[key] for key in order})
        assert (found.momentum, found.nesterov) == (0.0, False)


def test_invalid_overrides_are_refused():
    for key, text, match in (
        ("batchsize", "1", r"unknown key in recipe.* 'batchsize': did you mean .*batch_size"),
        ("train.epoch", "1", r"unknown key in recipe.*epoch': did you mean .*epochs"),
        ("train", "1", r"unknown key in recipe.* 'train': did you mean .*train\."),
        ("batch_size.x", "1", r"unknown key in recipe.* 'batch_size\.x'"),
        ("batch_size", "1.5", "batch_size=1.5: not a whole number"),
        ("nesterov", "maybe", "nesterov=maybe: not true or false"),
        ("weight_decay", "small", "weight_decay=small: not a number"),
        ("train.schedule", "cosin", "schedule.*cosin.*onecycle"),
        ("augment", "rotate", "augment.*rotate.*none.*shift.*crop_flip"),
        ("precision", "fp8", "precision.*fp8.*fp32"),
        ("train.epochs", "-1", "epochs = -1"),
        ("train.patience", "-1", "patience = -1"),
        ("train.drops", "0.5,1.5", "drops = 1.5: at least 0 and at most 1"),
        ("train.drops", "early", "drops=early"),
        ("train.lr", "nan", "lr.*nan"),
        ("train.lr", "inf", "lr=inf: not a number"),
        ("batch_size", "0", "batch_size = 0"),
        ("weight_decay", "-0.1", "weight_decay = -0.1"),
        ("momentum", "0", "nesterov needs momentum"),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            load_recipe("digits", {key: text})
        assert "\n" not in str(caught.value)


def test_unknown_recipe():
    with pytest.raises(UsageError, match="unknown recipe 'digit': did you mean digits"):
        load_recipe("digit")
    with pytest.raises(UsageError, match=r"recipe no/such\.toml: no such file"):
        load_recipe("no/such.toml")


GOOD = "batch_size = 8\n[train]\nepochs = 2\nlr = 1\n[finetune]\nepochs = 1\nlr = 0.1\n"


def test_recipe_from_a_file(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("description = 'mine'\n" + GOOD)
    found = load_recipe(str(file))
    assert found == Recipe("own", Stage(2, 1.0), Stage(1, 0.1), batch_size=8, precision="fp32")
    assert isinstance(found.train.lr, float)


def test_invalid_recipe_file_is_refused(tmp_path):
    file = tmp_path / "own.toml"
    for text, match in (
        ("batch_size =", r"own\.toml"),
        ("\udcff", r"own\.toml"),  # a byte that is no text
        (GOOD.replace("epochs = 2\n", ""), "train: epochs missing"),
        (GOOD.partition("[finetune]")[0], "finetune missing"),
        (GOOD.replace("batch_size", "batchsize"), "unknown key in recipe own 'batchsize': did you mean batch_size"),
        (GOOD.replace("= 8", "= '8'"), "batch_size = '8' is not a whole number"),
        (GOOD.replace("= 8", "= true"), "batch_size = True is not a whole number"),
        (GOOD.replace("= 8", "= 8.0"), "batch_size = 8.0 is not a whole number"),
        (GOOD.replace("lr = 1", "lr = true"), "lr = True is not a number"),
        (GOOD.replace("lr = 1", "lr = 1\nschedule = 'cosin'"), "schedule.*cosin.*onecycle"),
        ("train = 3\n" + GOOD.partition("[train]")[0] + "[finetune]\nepochs = 1\nlr = 0.1\n", r"train.*table"),
    ):
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(UsageError, match=match) as caught:
            load_recipe(str(file))
        assert "\n" not in str(caught.value)
