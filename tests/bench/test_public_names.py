"""The names of ``import bench``: there, documented, hidden by no module, and cheap until they are used."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import bench
from bench.moved import MODULES


def test_importing_bench_loads_no_torch():
    code = "import bench, sys; print({'torch', 'pandas'} & set(sys.modules), hasattr(bench, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"


def test_no_module_hides_a_public_name():
    """An import of ``bench.run`` would replace the function of that name."""
    for found in pkgutil.walk_packages(bench.__path__, "bench."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    former = {name.split(".")[1] for name in MODULES}
    for name in bench.__all__:
        assert name not in former
        assert not isinstance(getattr(bench, name), ModuleType)
        if name != "RULES":
            assert callable(getattr(bench, name))
            assert getattr(bench, name).__doc__


def test_all_lazy_names_are_public():
    assert set(bench.LAZY) <= set(bench.__all__)
