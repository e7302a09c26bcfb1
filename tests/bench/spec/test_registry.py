import subprocess
import sys

import pytest

from bench.errors import UsageError
from bench.spec import entries, registry
from bench.spec.entries import ROOT, Paper, papers, scan
from bench.spec.near_names import unknown
from bench.spec.registry import ARCHS, DATASETS, METHODS, Registry, add_plugin

DECORATORS = ("importance", "regularizer", "method")
GOOD = '''
"""A plugin."""
from bench.api import importance, Paper
MINE = Paper("Mine et al.", 2031, "On mine", "Mine")

@importance("{name}", paper=MINE)
def mine(site):
    """All alike.

    More of it.
    """
    return site.rows().sum(dim=1) * 0
'''


pytestmark = pytest.mark.usefixtures("forgets")


@pytest.fixture
def plugin(tmp_path):
    def write(text, name="plugin.py"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("l1norm", "did you mean l1_norm?"),
        ("resnet65", "did you mean resnet56"),
        ("zzzzzz", "known: l1_norm, resnet20, resnet56"),
    ],
)
def test_unknown_name_is_answered_with_near_ones(name, hint):
    error = unknown("thing", name, ["resnet56", "l1_norm", "resnet20"])
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"unknown thing '{name}': ")
    assert hint in str(error)


@pytest.mark.parametrize(
    ("where", "name", "near"),
    [(METHODS, "l1norm", "l1_norm"), (ARCHS, "resnet_56", "resnet56"), (DATASETS, "cifar_10", "cifar10")],
)
def test_get_answers_with_near_names(where, name, near):
    with pytest.raises(UsageError, match=f"unknown {where.noun} '{name}': did you mean .*{near}"):
        where.get(name)


@pytest.mark.parametrize(
    ("where", "some"),
    [
        (METHODS, {"l1_norm", "random", "dense", "uniform_thin"}),
        (ARCHS, {"resnet20", "resnet56b", "vgg16_bn", "lenet", "mlp_40_40"}),
        (DATASETS, {"digits", "mnist", "cifar10", "synthetic"}),
    ],
)
def test_listing_knows_what_importing_registers(where, some):
    entries = where.entries()
    assert some <= set(entries)
    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.summary
        assert "\n" not in entry.summary
        file, _, line = entry.origin.rpartition(":")
        assert (ROOT / file).read_text().splitlines()[int(line) - 1].startswith(("def ", "class "))
        assert where.get(name) is not None


def test_papers_are_read_from_the_source():
    entry = METHODS.entries()["l1_norm"]
    assert entry.kind == "importance"
    assert entry.paper == METHODS.get("l1_norm").paper
    assert str(entry.paper).endswith(str(entry.paper.year))
    assert entry.paper in papers().values()


def test_listing_and_recipes_import_no_torch():
    code = """
import sys
from bench.spec.registry import METHODS, ARCHS, DATASETS
from bench.spec.recipe import load_recipe, recipe_names
assert METHODS.entries() and ARCHS.entries() and DATASETS.entries() and load_recipe(recipe_names()[0])
import bench.records.store
bad = [m for m in ("torch", "torchvision", "fvcore", "torch_pruning", "sklearn", "scipy") if m in sys.modules]
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# --- two of one name --------------------------------------------------------------------------------------------


def test_registering_a_name_twice_names_both_places():
    METHODS.register("twice", object(), "first.py:1")
    with pytest.raises(UsageError, match=r"method 'twice' is defined twice: first\.py:1 and second\.py:2"):
        METHODS.register("twice", object(), "second.py:2")


def test_registering_again_from_the_same_place_is_a_reload():
    METHODS.register("again", 1, "first.py:1")
    METHODS.register("again", 2, "first.py:1")
    assert METHODS.get("again") == 2


def test_two_files_of_the_folder_with_one_name(tmp_path, monkeypatch):
    for module in (entries, registry):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "things").mkdir()
    for name in ("a", "b"):
        (tmp_path / "things" / f"{name}.py").write_text("\n@thing('one')\ndef f(): pass\n")
    with pytest.raises(UsageError, match=r"thing 'one' is defined twice: things/a\.py:3 and things/b\.py:3"):
        Registry("thing", ("thing",), "things").entries()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_unimportable_file_of_folder_is_named_in_one_line(tmp_path, monkeypatch, line, error):
    folder = "broken_" + error.partition(":")[0]
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.py").write_text(f"{line}\n@thing('one')\ndef f(): pass\n")
    for module in (entries, registry):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    broken = Registry("thing", ("thing",), folder)
    assert list(broken.entries()) == ["one"]
    with pytest.raises(UsageError) as caught:
        broken.get("one")
    assert str(caught.value) == f"thing 'one': {folder}/a.py:3: {error}"


# --- plugins ------------------------------------------------------------------------------------------------------


def test_plugin_is_listed_unimported_and_then_loaded(plugin):
    file = plugin(GOOD.format(name="plugged") + "\nimport sys\nsys.plugged_was_imported = True\n")
    add_plugin(str(file))
    entry = METHODS.entries()["plugged"]
    assert (entry.kind, entry.summary, entry.paper) == (
        "importance",
        "All alike.",
        Paper("Mine et al.", 2031, "On mine", "Mine"),
    )
    assert entry.origin == f"{file}:7"
    assert not hasattr(sys, "plugged_was_imported")
    assert METHODS.get("plugged").name == "plugged"
    assert sys.plugged_was_imported
    del sys.plugged_was_imported
    assert METHODS.origin("plugged").startswith(str(file))


@pytest.mark.parametrize("name", ["l1_norm", "dense"])
def test_plugin_may_not_take_a_known_name(plugin, name):
    with pytest.raises(UsageError, match=f"plugin .*plugin.py: method '{name}' is already defined in methods/.*py:"):
        add_plugin(str(plugin(GOOD.format(name=name))))


def test_two_plugins_may_not_share_a_name(plugin):
    add_plugin(str(plugin(GOOD.format(name="shared"), "one.py")))
    with pytest.raises(UsageError, match=r"'shared' is already defined in .*one\.py:7"):
        add_plugin(str(plugin(GOOD.format(name="shared"), "two.py")))


def message(act):
    with pytest.raises(UsageError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plugin_that_is_not_there(tmp_path):
    assert message(lambda: add_plugin(str(tmp_path / "none.py"))).endswith("none.py: no such file")
    message(lambda: add_plugin(str(tmp_path)))


def test_plugin_with_a_syntax_error_names_the_line(plugin):
    assert "plugin.py:2: " in message(lambda: add_plugin(str(plugin("x = 1\ndef f(:\n"))))


def test_plugin_that_is_no_text(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "plugin.py" in message(lambda: add_plugin(str(file)))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
    ],
)
def test_plugin_that_raises_when_imported(plugin, code, words):
    add_plugin(str(plugin(GOOD.format(name="raises_on_import") + code)))
    text = message(lambda: METHODS.get("raises_on_import"))
    assert "plugin.py: " in text
    assert words in text


def test_plugin_whose_decorator_is_not_ours(plugin):
    add_plugin(str(plugin("def importance(name):\n    return lambda f: f\n\n@importance('foreign')\ndef f(): pass\n")))
    assert "'foreign': " in message(lambda: METHODS.get("foreign"))


def test_scan_reads_only_calls_with_a_name(plugin):
    file = plugin(
        "@importance\ndef a(): pass\n@importance(name)\ndef b(): pass\n@other('c')\ndef c(): pass\n"
        "@method('d')\n@cached\nclass D:\n    'Dee.'\n"
    )
    assert [(e.name, e.kind, e.summary, e.paper) for e in scan(file, DECORATORS, lambda: None)] == [
        ("d", "method", "Dee.", None)
    ]


def test_methods_of_installed_packages_are_found_by_entry_point(monkeypatch):
    from importlib.metadata import EntryPoint

    from bench.spec import registry

    point = EntryPoint("theirs", "their_package.methods:Theirs", "bench.methods")
    monkeypatch.setattr(registry, "_entry_points", lambda group: [point] if group == "bench.methods" else [])
    loaded = []

    def load(self):
        loaded.append(self.name)
        registry.METHODS.register("theirs", "the method", "their_package/methods.py:1")

    monkeypatch.setattr(EntryPoint, "load", load)
    entry = registry.METHODS.entries()["theirs"]
    assert (entry.kind, entry.origin, loaded) == ("entry point", "their_package.methods:Theirs", [])
    assert registry.METHODS.get("theirs") == "the method"
    assert loaded == ["theirs"]
