"""Source hashes: every local module that is imported counts, and nothing else."""

import hashlib
import importlib
import json
import re
import shutil

import pytest

from bench.runs.method_factory import make_method, method_digest
from bench.spec import source_hash
from bench.spec.class_scan import ROOT
from bench.spec.registry import add_plugin

METHODS = ROOT / "methods"


def write(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()


# --- files ------------------------------------------------------------------------------------------------------

TWO_FILES = {"plugin.py": "import helper\n", "helper.py": "x = 1\n", "unused.py": "y = 1\n"}
CHAIN = {
    "plugin.py": "def f():\n    from one import x\n",
    "one.py": "from two import y as x\n",
    "two.py": "y = 1\n",
    "unused.py": "import plugin\n",
}
CIRCLE = {"plugin.py": "import one\n", "one.py": "import plugin, two\n", "two.py": "", "unused.py": ""}
PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/plugin.py": "from . import near\nfrom .deep.inner import z\nfrom pkg.far import w\nimport pkg.plain\n",
    "pkg/near.py": "",
    "pkg/deep/__init__.py": "",
    "pkg/deep/inner.py": "from ..up import u\n",
    "pkg/up.py": "u = 1\n",
    "pkg/far/__init__.py": "from pkg.far.w import w\n",
    "pkg/far/w.py": "w = 1\n",
    "pkg/plain.py": "",
    "pkg/unused.py": "",
    "pkg/deep/unused.py": "",
}


@pytest.mark.parametrize("case", ["two files", "chain", "circle", "package", "installed package"])
def test_source_hash_covers_exactly_what_is_imported(tmp_path, case):
    files = {"two files": TWO_FILES, "chain": CHAIN, "circle": CIRCLE}.get(case, PACKAGE)
    root = tmp_path / ("site-packages" if case == "installed package" else ".")  # as an entry point's
    start = root / ("pkg/plugin.py" if files is PACKAGE else "plugin.py")
    write(root, files)
    before = source_hash.of_files(start)
    for name, text in files.items():
        write(root, {name: text + "# an edit\n"})
        changed = source_hash.of_files(start).sha256 != before.sha256
        assert changed == ("unused" not in name), name
        write(root, {name: text})
    assert source_hash.of_files(start) == before


def test_source_hash_of_one_file_is_that_of_its_bytes(tmp_path):
    write(tmp_path, {"plugin.py": "import math, torch\nfrom bench.api import Method\n"})
    found = source_hash.of_files(tmp_path / "plugin.py")
    assert found.sha256 == hashlib.sha256((tmp_path / "plugin.py").read_bytes()).hexdigest()
    assert found.packages == {"torch"}
    write(tmp_path, {"plugin.py": "import helper\n", "helper.py": "import numpy.linalg\nfrom tqdm import tqdm\n"})
    assert source_hash.of_files(tmp_path / "plugin.py").packages == {"numpy", "tqdm"}


def test_source_finds_modules_on_the_path(tmp_path, monkeypatch):
    write(tmp_path, {"here/plugin.py": "import elsewhere_lies\n", "there/elsewhere_lies.py": "x = 1\n"})
    monkeypatch.syspath_prepend(tmp_path / "there")
    before = source_hash.of_files(tmp_path / "here" / "plugin.py")
    write(tmp_path, {"there/elsewhere_lies.py": "x = 2\n"})
    assert source_hash.of_files(tmp_path / "here" / "plugin.py").sha256 != before.sha256


def test_source_of_a_file_of_the_suite_is_that_file_and_its_packages():
    """A record says at which commit the suite was; all of it would have to be read for each run of a check."""
    file = ROOT / "bench" / "conformance" / "tiny_networks.py"
    assert "from bench." in file.read_text()
    parts = [
        ["__init__.py", hashlib.sha256((folder / "__init__.py").read_bytes()).hexdigest()]
        for folder in file.parents[:2]
    ]
    expected = sorted([*parts, [file.name, hashlib.sha256(file.read_bytes()).hexdigest()]])
    found = source_hash.of_files(file)
    assert (found.sha256, found.packages) == (
        hashlib.sha256(json.dumps(expected).encode()).hexdigest(),
        {"numpy", "torch"},
    )


# --- methods ----------------------------------------------------------------------------------------------------


def test_method_hash_covers_the_modules_that_its_file_imports(tmp_path):
    folder = tmp_path / "methods"
    shutil.copytree(METHODS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(folder.glob("*.py"))
    starts = [file for file in files if "import" in file.read_text()]
    before = {start: source_hash.of_files(start).sha256 for start in starts}
    for file in files:
        text = file.read_text()
        file.write_text(text + "\n# an edit\n")
        for start in starts:
            imported = re.findall(r"^from methods\.(\w+)", start.read_text(), re.M)
            counted = {start.name, "__init__.py", *(f"{name}.py" for name in imported)}
            assert (source_hash.of_files(start).sha256 != before[start]) == (file.name in counted), (start, file)
        file.write_text(text)


PLUGIN = """
from bench.api import importance
from {helper} import weight

@importance("{name}")
def score(site):
    return site.rows().abs().sum(dim=1) * weight
"""


@pytest.mark.usefixtures("forgets")
def test_method_hash_of_composition_covers_files_of_all_parts(tmp_path):
    for part in ("a", "b"):
        write(tmp_path, {f"of_{part}.py": PLUGIN.format(helper=f"helper_of_{part}", name=f"of_{part}")})
        write(tmp_path, {f"helper_of_{part}.py": "weight = 1\n"})
        add_plugin(str(tmp_path / f"of_{part}.py"))
    asked = ["of_a", "of_b", "dropout+of_a", "dropout+of_b", "dropout+l1_norm"]
    before = {name: method_digest(make_method(name, {})) for name in asked}
    assert len(set(before.values())) == len(asked)
    write(tmp_path, {"helper_of_a.py": "weight = 2\n"})
    changed = [name for name in asked if method_digest(make_method(name, {})) != before[name]]
    assert changed == ["of_a", "dropout+of_a"]


# --- definitions ------------------------------------------------------------------------------------------------

BASE = '''"""Parts."""
SCALE = 2


def twice(x):
    """Its double."""
    return SCALE * x  # for sure


class Root:
    def start(self):
        return 1
'''
NET = '''"""Networks."""
from {package}.parts import Root, twice


class Net(Root):
    """One."""

    def forward(self, x: int) -> int:
        """Shape."""
        return twice(x) + self.start()

    def units(self):
        return 3


class Other:
    pass


def make(depth):
    """A network."""
    return Net()
'''


@pytest.fixture
def defined(tmp_path, monkeypatch):
    """The source of ``make`` in a package of two files with these texts; every call makes another package."""
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(100))

    def source(net=NET, parts=BASE, more="", **options):
        package = f"nets_{tmp_path.name.replace('-', '_')}_{next(count)}"
        write(tmp_path / package, {"__init__.py": "", "parts.py": parts, "net.py": net.replace("{package}", package)})
        write(tmp_path / package, {"more.py": more.replace("{package}", package)})
        module = importlib.import_module(f"{package}.net")
        return source_hash.of_definitions(module.make, folder=tmp_path / package, **options)

    return source


def test_definition_hash_covers_what_runs(defined):
    before = defined().sha256
    for file, old, new in (
        ("net", "twice(x) + self", "twice(-x) + self"),
        ("net", "return Net()", "return Net() or None"),
        ("net", "def make(depth)", "def make(depth, width=3)"),
        ("net", "return Net()", "return Other()"),
        ("parts", "SCALE = 2", "SCALE = 2.5"),
        ("parts", "SCALE * x", "SCALE / x"),
        ("parts", "return 1", "return 0"),
    ):
        text = {"net": NET, "parts": BASE}[file]
        assert old in text
        assert defined(**{file: text.replace(old, new)}).sha256 != before, new


MOVED = NET.replace("from {package}.parts import Root, twice", "from {package}.more import Net").replace(
    NET[NET.index("class Net") : NET.index("class Other")], ""
)
REGISTERED = NET.replace("def make", "@decorated('x', 3)\ndef make").replace(
    "class Net", "decorated = lambda *_: lambda f: f\n\n\nclass Net"
)
PLACE = "from {package}.parts import Root, twice\n\n\n" + NET[NET.index("class Net") : NET.index("class Other")]


def test_definition_hash_leaves_out_what_does_not_run(defined):
    without = {"without": ("units", "decorated")}
    before = defined(**without).sha256
    for kind, change in {
        "docs": {"net": NET.replace('"""One."""', '"""Another text."""')},
        "remark": {"net": NET.replace('"""A network."""\n', '"""A network."""\n    # a remark\n')},
        "types": {"net": NET.replace("x: int", "x: float").replace("-> int", "-> float")},
        "unused class": {"net": NET.replace("    pass", "    size = 9")},
        "units": {"net": NET.replace("return 3", "return 4")},
        "registered": {"net": REGISTERED},
        "moved": {"net": MOVED, "more": PLACE},
    }.items():
        assert change["net"] != NET, kind
        assert defined(**change, **without).sha256 == before, kind


def test_definitions_name_installed_packages(defined):
    inside = NET.replace("    return Net()", "    from PIL import Image\n    return Net()")
    outside = NET.replace('"""Networks."""', '"""Networks."""\nfrom torch import nn').replace(
        "(Root)", "(Root, nn.Module)"
    )
    assert defined().packages == set()
    assert defined(net=inside).packages == {"PIL"}
    assert defined(net=outside).packages == {"torch"}
