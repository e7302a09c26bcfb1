"""Requests become specifications: defaults, and the way back from every specification of the committed records."""

import dataclasses

import pytest
from support.paths import ROOT

from bench.errors import UsageError
from bench.records import store
from bench.runs.resolve import DEFAULT_KEEP_MACS, default_recipe, resolve
from bench.spec.recipe import recipe_names
from bench.spec.registry import DATASETS, add_plugin
from bench.spec.request import RunOptions, RunRequest
from bench.spec.spec import Budget

RECORDS = ROOT / "leaderboard" / "records"


def test_specifications_of_the_board_come_back_from_their_requests():
    known = {}
    for file in store.find(RECORDS):
        found = store.load(file)
        known.setdefault(found.spec_sha256, found.spec)
    assert len(known) > 60
    for sha256, spec in known.items():
        assert spec.sha256 == sha256  # ids are computed as ever
        assert resolve(RunRequest.from_spec(spec))[0] == [spec]


def test_defaults():
    options = RunOptions(device="cpu")
    ((spec,), after) = resolve(RunRequest("l1_norm", "resnet20", settings={"precision": "auto"}), options)
    assert (spec.dataset, spec.recipe.name, spec.seed, spec.coupling) == ("digits", "digits", 0, "inner")
    assert spec.budget == Budget(keep_macs=DEFAULT_KEEP_MACS)
    assert spec.recipe.precision in ("fp32", "bf16")
    assert spec.config == {}
    assert after == options


def test_default_ranking_is_left_out():
    asked = [RunRequest("l1_norm", "resnet20", ranking=ranking) for ranking in (None, "layer", "global")]
    plain, layer, other = (resolve(request)[0][0] for request in asked)
    assert plain == layer
    assert other.budget == Budget(keep_macs=DEFAULT_KEEP_MACS, ranking="global")


def test_every_data_set_has_a_default_recipe(plugins):
    DATASETS._plugins.clear()
    for dataset, recipe in {"cifar10": "cifar", "cifar100": "cifar", "kmnist": "mnist", "digits": "digits"}.items():
        assert default_recipe(dataset) == DATASETS.get(dataset).recipe == recipe
    for name, entry in DATASETS.entries().items():
        named = [option.default for option in entry.options if option.name == "recipe"]
        assert default_recipe(name) in recipe_names() or not named, name


def test_data_set_of_a_plugin_names_its_recipe(forgets, tmp_path):
    file = tmp_path / "shapes.py"
    file.write_text(
        "from bench.data.loading import dataset\n\n\n"
        '@dataset("shapes", shape=(1, 8, 8), classes=2, sizes=(4, 2), recipe="synthetic")\n'
        "def shapes(part, folder, download):\n    raise AssertionError\n"
    )
    add_plugin(str(file))
    assert resolve(RunRequest("l1_norm", "lenet", "shapes"))[0][0].recipe.name == "synthetic"
    assert DATASETS.get("shapes").recipe == "synthetic"


def test_seeds_share_all_else():
    specs, _ = resolve(RunRequest("random", "resnet20", seeds=(3, 1)))
    assert [spec.seed for spec in specs] == [3, 1]
    assert len({spec.sha256 for spec in specs}) == 1


def test_precision_of_another_machine_is_not_guessed():
    asked = RunRequest("l1_norm", "resnet20", settings={"precision": "auto"})
    with pytest.raises(UsageError, match="give --set precision=fp32 or bf16"):
        resolve(asked, elsewhere=True)
    resolve(dataclasses.replace(asked, settings={"precision": "bf16"}), elsewhere=True)


def test_wrong_request_names_the_value():
    for changes, said in (
        ({"method": "l1norm"}, "did you mean l1_norm"),
        ({"arch": "resnet57"}, "did you mean resnet"),
        ({"dataset": "digit"}, "did you mean digits"),
        ({"recipe": "cifra"}, "did you mean cifar"),
        ({"keep_macs": 1.5}, "--keep-macs 1.5"),
        ({"ranking": "best"}, "--ranking best"),
        ({"settings": {"train.epoch": 1}}, "did you mean train.epochs"),
        ({"options": {"power": 3}}, "has no option 'power'"),
        ({"native": True}, "does not choose its own sparsity"),
        ({"like": "nowhere.json"}, "--like"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve(dataclasses.replace(RunRequest("l1_norm", "resnet20"), **changes))
