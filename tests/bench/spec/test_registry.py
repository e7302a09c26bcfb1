import sys
from importlib.metadata import EntryPoint

import pytest

from bench.errors import UsageError
from bench.spec import entries, registry
from bench.spec.class_scan import ROOT
from bench.spec.entries import Paper, papers, scan
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


def test_unknown_name_is_answered_with_near_ones():
    for name, hint in (
        ("l1norm", "did you mean l1_norm?"),
        ("resnet65", "did you mean resnet56"),
        ("zzzzzz", "known: l1_norm, resnet20, resnet56"),
    ):
        error = unknown("thing", name, ["resnet56", "l1_norm", "resnet20"])
        assert isinstance(error, UsageError)
        assert str(error).startswith(f"unknown thing '{name}': ")
        assert hint in str(error)
    for where, name, near in (
        (METHODS, "l1norm", "l1_norm"),
        (ARCHS, "resnet_56", "resnet56"),
        (DATASETS, "cifar_10", "cifar10"),
    ):
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


# --- two of one name --------------------------------------------------------------------------------------------


def test_name_registered_at_two_places_is_refused():
    METHODS.register("twice", 1, "first.py:1")
    with pytest.raises(UsageError, match=r"method 'twice' is defined twice: first\.py:1 and second\.py:2"):
        METHODS.register("twice", object(), "second.py:2")
    METHODS.register("twice", 2, "first.py:1")  # a reload
    assert METHODS.get("twice") == 2


def test_two_files_of_the_folder_with_one_name(tmp_path, monkeypatch):
    for module in (entries, registry):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "things").mkdir()
    for name in ("a", "b"):
        (tmp_path / "things" / f"{name}.py").write_text("\n@thing('one')\ndef f(): pass\n")
    with pytest.raises(UsageError, match=r"thing 'one' is defined twice: things/a\.py:3 and things/b\.py:3"):
        Registry("thing", ("thing",), "things").entries()


def test_unimportable_file_of_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_things").mkdir()
    (tmp_path / "broken_things" / "a.py").write_text("raise ValueError('first\\nlast')\n@thing('one')\ndef f(): pass\n")
    for module in (entries, registry):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    broken = Registry("thing", ("thing",), "broken_things")
    assert list(broken.entries()) == ["one"]
    assert message(broken.get, "one") == "thing 'one': broken_things/a.py:3: ValueError: first last"


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


def test_plugin_may_not_take_a_known_name(plugin):
    for name in ("l1_norm", "dense"):
        with pytest.raises(UsageError, match=f"plugin .*plugin.py: method '{name}' is already defined in methods/"):
            add_plugin(str(plugin(GOOD.format(name=name))))
    add_plugin(str(plugin(GOOD.format(name="shared"), "one.py")))
    with pytest.raises(UsageError, match=r"'shared' is already defined in .*one\.py:7"):
        add_plugin(str(plugin(GOOD.format(name="shared"), "two.py")))


def message(act, *words):
    with pytest.raises(UsageError) as caught:
        act(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unreadable_plugin_is_named(plugin, tmp_path):
    assert message(add_plugin, str(tmp_path / "none.py")).endswith("none.py: no such file")
    message(add_plugin, str(tmp_path))
    assert "plugin.py:2: " in message(add_plugin, str(plugin("x = 1\ndef f(:\n")))
    (tmp_path / "plugin.py").write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "plugin.py" in message(add_plugin, str(tmp_path / "plugin.py"))


FOREIGN = "def importance(name):\n    return lambda f: f\n\n@importance('foreign')\ndef f(): pass\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("divides", GOOD + "1 / 0", "plugin.py: ZeroDivisionError: division by zero"),
        ("lacks", GOOD + "import no_such", "plugin.py: ModuleNotFoundError: No module named 'no_such'"),
        ("two_lines", GOOD + "raise ValueError('first\\nsecond')", "plugin.py: ValueError: first"),
        ("foreign", FOREIGN, "'foreign': "),
    ],
)
def test_plugin_that_cannot_be_imported_is_named(plugin, name, text, words):
    add_plugin(str(plugin(text.replace("{name}", name))))
    for _ in range(2):  # the second time too, though the file registers the name before it fails
        assert words in message(METHODS.get, name)


def test_scan_reads_only_calls_with_a_name(plugin):
    file = plugin(
        "@importance\ndef a(): pass\n@importance(name)\ndef b(): pass\n@other('c')\ndef c(): pass\n"
        "@method('d')\n@cached\nclass D:\n    'Dee.'\n"
    )
    assert [(e.name, e.kind, e.summary, e.paper) for e in scan(file, DECORATORS, lambda: None)] == [
        ("d", "method", "Dee.", None)
    ]


def test_methods_of_installed_packages_are_found_by_entry_point(monkeypatch):
    point = EntryPoint("theirs", "their_package.methods:Theirs", "bench.methods")
    monkeypatch.setattr(registry, "_entry_points", lambda group: [point] if group == "bench.methods" else [])
    loaded = []

    def load(self):
        loaded.append(self.name)
        METHODS.register("theirs", "the method", "their_package/methods.py:1")

    monkeypatch.setattr(EntryPoint, "load", load)
    entry = METHODS.entries()["theirs"]
    assert (entry.kind, entry.origin, loaded) == ("entry point", "their_package.methods:Theirs", [])
    assert METHODS.get("theirs") == "the method"
    assert loaded == ["theirs"]


def test_arguments_of_a_paper_are_literals(plugin):
    text = 'TITLE = "On mine"\n' + GOOD.format(name="mine").replace('"On mine"', "TITLE")
    with pytest.raises(UsageError, match=r"plugin.py:5: the arguments of Paper must be plain strings and numbers$"):
        scan(plugin(text), DECORATORS, lambda: None)
