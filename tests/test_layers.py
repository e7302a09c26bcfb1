"""The house: imports point one way, outside libraries have one door, listing needs no torch."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bench", "methods", "leaderboard", "slurm")
DOORS = {
    "torch_pruning": {"bench.torch_pruning_graph", "methods.torch_pruning_adapter"},
    "fvcore": {"bench.measure.flops"},
    "submitit": {"slurm.clusters"},
    "torchvision": {"bench.data.sets", "bench.archs.outside", "bench.archs.classic"},
    "sklearn": {"bench.data.sets"},
    "PIL": {"bench.data.files"},
    "tqdm": {"bench.progress"},
    "onnx": {"bench.export"},
    "onnxruntime": {"bench.export"},
    "pandas": {"leaderboard.frame"},
    "scipy": {"leaderboard.statistics", "leaderboard.views"},
    "orjson": {"leaderboard.extract", "leaderboard.frame", "leaderboard.processes", "leaderboard.rows"},
    "jinja2": {"leaderboard.templating"},
    "vl_convert": {"leaderboard.figures"},
    "selenium": set(),
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for folder, _, files in os.walk(ROOT / package):  # rglob fails where a test beside it removes a folder
            for file in (Path(folder, file) for file in files if file.endswith(".py")):
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = file
    return found


def imports(file: Path) -> set[tuple[str, bool]]:
    """Imported module and whether it is imported when the file is loaded (not inside a function)."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
        if inner is not node
    }
    found = set()
    known = modules()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [part if part in known else node.module for part in parts]
        found |= {(name, id(node) not in inside) for name in names}
    return found


def test_imports_have_no_circle():
    known = modules()
    graph = {}
    for name, file in known.items():
        ours = {imported for imported, _ in imports(file) if imported in known and imported != name}
        # a package may load its own parts inside functions: commands are imported when they are called
        graph[name] = {i for i in ours if not (name == "bench.cli" and i.startswith("bench.cli."))}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", sorted(modules()))
def test_outside_libraries_have_one_door(name):
    for imported, _ in imports(modules()[name]):
        library = imported.split(".")[0]
        assert name in DOORS.get(library, {name}), f"{name} imports {library}"


def test_heavy_readers_are_imported_inside_functions():
    top = {library for library, at_top in imports(ROOT / "bench" / "data" / "sets.py") if at_top}
    assert not any(library.startswith(("torchvision", "sklearn")) for library in top)


@pytest.mark.parametrize("name", sorted(n for n in modules() if n.startswith("methods.")))
def test_methods_import_the_contract_and_torch_only(name):
    adapter = {"torch_pruning", "bench.torch_pruning_graph", "bench.errors"}
    allowed = {"bench.api", "torch", "torch.nn", "torch.nn.functional", "math", "functools", "dataclasses", "typing"}
    allowed |= {"methods.papers", "methods.transforms"}
    allowed |= adapter if name == "methods.torch_pruning_adapter" else set()
    assert {imported for imported, _ in imports(modules()[name])} <= allowed


@pytest.mark.parametrize("name", [n for n in sorted(modules()) if n.startswith("leaderboard")])
def test_leaderboard_knows_no_torch_and_no_method(name):
    assert not any(i.startswith(("torch", "methods", "bench.run")) for i, _ in imports(modules()[name]))


@pytest.mark.parametrize("command", ["import bench.cli", "from bench.cli import main; main(['list'])"])
def test_listing_and_help_need_neither_torch_nor_scipy(command):
    code = f"{command}; import sys; print([m for m in ('torch', 'scipy', 'sklearn', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
