"""Recipes that follow a paper: every value has its source, and docs/presets.md says what the files say."""

import dataclasses
import re
import tomllib

import pytest
from support.paths import ROOT

from bench.spec.recipe import RECIPES, load_recipe
from bench.training.lr_schedule import schedule

PAGE = (ROOT / "docs" / "presets.md").read_text()
PRESETS = re.findall(r"^## `(\w+)`$", PAGE, re.M)


def section(name):
    return PAGE.split(f"\n## `{name}`\n")[1].split("\n## ")[0]


def values(name):
    """``(key, value, source)`` of every line of a recipe's file that sets one, as text."""
    table, found = "", []
    for line in (RECIPES / f"{name}.toml").read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1] + "."
        elif (setting := re.fullmatch(r"(\w+) = (.+?)(?:\s+# (.+))?", line)) and setting[1] != "description":
            found.append((table + setting[1], *setting.group(2, 3)))
    return found


def test_these_papers_have_a_preset():
    assert PRESETS == ["ddrop", "dropnet", "edropout", "l1l2", "li2017", "slimming"]


def test_every_value_has_its_source_and_is_on_the_page():
    spoken = {"batch_size", "momentum", "nesterov", "weight_decay", "label_smoothing", "augment"}
    spoken |= {f"{stage}.{key}" for stage in ("train", "finetune") for key in ("epochs", "lr", "schedule")}
    for name in PRESETS:
        lines = values(name)
        assert [k for k, _, source in lines if not re.match(r"(paper|abstract|code|ours)\b", source or "")] == [], name
        table = tomllib.loads((RECIPES / f"{name}.toml").read_text())
        keys = {f"{k}.{inner}" for k, v in table.items() if isinstance(v, dict) for inner in v}
        keys |= {k for k, v in table.items() if not isinstance(v, dict)} - {"description"}
        assert {key for key, _, _ in lines} == keys >= spoken, name
        rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \|$", section(name), re.M)
        assert rows == [(key, value.strip('"'), source) for key, value, source in lines], name


def test_what_is_not_set_is_the_default():
    """The page says this of all other keys."""
    for name in PRESETS:
        recipe, given = load_recipe(name), {key for key, _, _ in values(name)}
        for field in dataclasses.fields(recipe):
            if field.default is not dataclasses.MISSING and field.name not in given:
                assert getattr(recipe, field.name) == field.default


HASHES = {
    "cifar": "122e255b54ca9d3d0042784e5d10b0a362daf7ebb7c000090ca0cdfc0d381bb2",
    "digits": "1efdce8aae95ed515e51abe37f0bae1f27e9c3abf1926896c4c98c853aa514b9",
    "mnist": "379a5650038f0a52d0a3b1322ae0a2761c208cfef278cd314af113df9a1fc849",
    "dropnet": "a74c738a06ba57810b7213f628e5a5797f793597634645bea019418bdf3f3c79",
}
"""Of the first three with the precision that the machine chooses; of the last as its file has it."""


def test_recipes_of_existing_records_are_the_same():
    for name, sha256 in HASHES.items():
        chosen_by_machine = {} if name == "dropnet" else {"precision": "auto"}
        assert load_recipe(name, chosen_by_machine).sha256 == sha256, name
    for name in ("digits", "mnist", "synthetic", "folder_small", "dropnet"):
        assert load_recipe(name).precision == "fp32", name


def test_ddrop_is_the_suites_cifar_but_for_the_decay():
    ddrop, cifar = load_recipe("ddrop"), load_recipe("cifar")
    assert dataclasses.replace(ddrop, name="cifar", weight_decay=5e-4) == cifar
    assert ddrop.weight_decay == 4e-3


def test_edropouts_rate_falls_every_50_of_200_epochs():
    stage = load_recipe("edropout").train
    factors = [schedule(stage, (epoch + 0.5) / stage.epochs) for epoch in range(stage.epochs)]
    assert [factors[k] for k in (0, 49, 50, 99, 100, 149, 150, 199)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_what_is_not_trained_further_has_no_epochs_for_it():
    assert {name for name in PRESETS if not load_recipe(name).finetune.epochs} == {"dropnet", "edropout", "l1l2"}
