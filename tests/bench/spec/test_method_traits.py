"""What is read from a method's source is what the method is; what cannot be read is left to the import."""

import itertools
import subprocess
import sys

import pytest
from support.paths import ROOT

from bench.cli import main
from bench.errors import UsageError
from bench.measure import processor
from bench.records import store
from bench.runs.method_factory import make_method
from bench.runs.resolve import make_spec
from bench.spec import method_traits
from bench.spec.recipe import load_recipe
from bench.spec.registry import METHODS, add_plugin
from bench.spec.spec import Budget

OPTIONS = {
    "ddrop": ({}, {"schedule": "linear", "p_max": "0.5"}),
    "dense": ({}, {"epochs": "3"}),
    "dropnet": ({}, {"metric": "minimum", "p": "0.5"}, {"metric": "random_layer", "kappa": "none"}),
    "taylor": ({}, {"batches": "2"}),
    "l1l2": ({}, {"share": "30"}),
    "slimming": ({}, {"strength": "0.001"}),
    "random": ({},),
    "tp_taylor": ({}, {"batches": "3"}),
    "dropout+l1_norm": ({}, {"dropout.p": "0.1"}),
    "l1_penalty+dropout": ({}, {"l1_penalty.strength": "0.1"}),
    "uniform_thin+dropout": ({},),
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


def test_traits_from_source_equal_those_of_the_class():
    for name in METHODS.entries():
        assert method_traits.of(name) == method_traits.of_class(METHODS.get(name)), name


def test_traits_with_options_are_those_of_the_method():
    for name, options in CASES:
        made, found = make_method(name, options), method_traits.of(name, options)
        for key in method_traits.ATTRIBUTES:
            assert getattr(found, key) == getattr(made, key), (name, options, key)


def test_spec_from_source_equals_spec_from_import(monkeypatch):
    budgets = (Budget(0.5), Budget(0.5, ranking="global"), Budget(0.3, ranking="layer", min_keep=2))
    for (name, options), recipe, budget in itertools.product(CASES, ("digits", "cifar"), budgets):
        asked = (name, "lenet", "digits", load_recipe(recipe), budget, 3, "inner", options, "cpu")
        read = make_spec(*asked)
        with monkeypatch.context() as patched:
            patched.setattr(method_traits, "of", lambda *_: None)
            assert read == make_spec(*asked)


WRONG = [
    *(("ddrop", options) for options in ({"p_mni": "1"}, {"p_min": "x"}, {"p_min": "0.9", "p_max": "0.3"})),
    *(("dropout+l1_norm", options) for options in ({"p": "0.1"}, {"dropout.q": "0.1"}, {"dropout.p": "2"})),
    *((name, {}) for name in ("l1_norm+taylor", "dropnet+edropout", "dense+l1_norm")),
]


def test_what_is_wrong_has_the_message_of_the_method():
    for name, options in WRONG:
        with pytest.raises(UsageError) as expected:
            make_method(name, options)
        with pytest.raises(UsageError) as caught:
            method_traits.of(name, options)
        assert str(caught.value) == str(expected.value)


ODD = '''
import math
from dataclasses import dataclass
from bench.api import Method, method, importance

LIMIT = 3
SUPPORTED = dict(ranking="global")


@method("own_constant")
class OwnConstant(Method):
    """Its Config uses a name of its file."""
    @dataclass(frozen=True)
    class Config:
        limit: int = LIMIT


@method("own_call")
class OwnCall(Method):
    """Its ranking is computed by a function."""
    ranking = property(lambda self: max(("layer", "global"), key=len))


@method("two_bases")
class TwoBases(OwnCall, Method):
    """It derives from two classes."""


@method("inherits")
class Inherits(OwnConstant):
    """Its options come from a class above it."""
    native = True


@method("plain")
class Plain(Method):
    """Nothing of its own."""
    starts_from = "base"


@importance("mathematical")
def mathematical(site, power=2):
    """A default in the function, none in the decorator."""
    return site.rows().abs().pow(power).sum(1)
'''


@pytest.fixture
def odd(plugins, tmp_path):
    file = tmp_path / "odd_methods.py"
    file.write_text(ODD)
    add_plugin(str(file))


def test_traits_are_read_from_source_or_left_to_the_import(odd):
    for name in ("own_constant", "own_call", "two_bases", "inherits"):
        assert method_traits.of(name) is None
        assert make_spec(name, "lenet", "digits", load_recipe("digits"), Budget(0.5)).method == name
    for name in ("plain", "mathematical"):
        assert method_traits.of(name) == method_traits.of_class(METHODS.get(name))


def test_precision_is_known_without_torch_where_no_gpu_can_be(monkeypatch, tmp_path):
    for gpu, device, known in ((False, "auto", True), (True, "auto", False), (True, "cpu", True)):
        monkeypatch.setattr(processor, "GPUS", (str(tmp_path),) if gpu else (str(tmp_path / "none"),))
        assert (processor.precision_without_torch(device) is not None) == (known and sys.platform == "linux")
        assert processor.precision_without_torch("cuda") is None


LIGHT = [
    ["status", "SWEEP"],
    ["page", "dropnet"],
    ["check", "--list"],
    ["run", "-m", "ddrop", "-a", "resnet56", "-p", "schedule=linear", "--seeds", "0-4", "--dry-run"],
    ["run", "-m", "dense", "-a", "resnet20", "-d", "cifar10", "--device", "cpu", "--dry-run"],  # in bf16
    ["sweep", "SWEEP", "--cluster", "inline", "--dry-run"],
    ["reproduce", "dropnet-mnist", "--dry-run"],
    ["list"],
    ["list", "runs"],
    ["show", "RECORD"],
    ["board", "RECORDS"],
    ["board", "RECORDS", "--plan", "PLAN"],
]
RUN_ALL = """
import sys
from bench.cli import main
for words in {commands}:
    code = main(words)
    heavy = [m for m in ("torch", "torch_pruning", "torchvision", "timm", "fvcore", "sklearn") if m in sys.modules]
    assert (code, heavy) == (0, []), (words, code, heavy)
"""


def test_commands_that_need_no_torch_do_not_import_it(tmp_path):
    sweep = tmp_path / "sweep.toml"
    runs = '[[runs]]\narch = "lenet"\nmethod = ["random", "dropout+l1_norm", "dropnet"]\ndataset = "mnist"\n'
    sweep.write_text(runs)
    (plan := tmp_path / "plan.toml").write_text('[plan]\nreferences = ["random"]\n' + runs)
    records = ROOT / "leaderboard" / "records"
    places = {"SWEEP": sweep, "PLAN": plan, "RECORDS": records, "RECORD": next(store.find(records))}
    code = RUN_ALL.format(commands=[[str(places.get(word, word)) for word in words] for words in LIGHT])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_loading_torch_is_announced_before_anything_else(tmp_path):
    """Before any other module of the suite that needs it; the line is there long before torch is."""
    code = (
        "import sys; from bench.cli import main\n"
        "class Stop:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': raise SystemExit(77)\n"
        "sys.meta_path.append(Stop()); sys.path_importer_cache.clear()\n"
        "import importlib.machinery; sys.meta_path.remove(importlib.machinery.PathFinder)\n"
        "sys.meta_path.append(importlib.machinery.PathFinder)\n"
        "main(['list', 'sites', '-a', 'lenet', '-d', 'digits'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (77, "", "bench: loading torch\n")


def test_loading_is_not_announced_when_quiet_or_loaded(capsys):
    assert main(["list", "sites", "-a", "two_layers", "-d", "digits"]) in (0, 2)
    assert "loading torch" not in capsys.readouterr().err
