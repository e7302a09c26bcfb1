"""The rooms of the code: which may import which, which outside library has which door, what loads no torch."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bench", "methods", "leaderboard", "slurm")
FLAT = {"bench", "bench.errors", "bench.files", "bench.moved", "bench.progress"}
"""What every room may import."""
ROOMS = {
    "bench.spec": (),
    "bench.models": ("bench.spec",),
    "bench.data": ("bench.spec", "bench.models"),
    "bench.measure": ("bench.spec", "bench.models"),
    "bench.pruning": ("bench.spec", "bench.models", "bench.measure"),
    "bench.records": ("bench.spec",),
    "bench.training": ("bench.spec", "bench.models", "bench.data", "bench.measure", "bench.pruning"),
    "bench.runs": (
        *("bench.spec", "bench.models", "bench.data", "bench.measure", "bench.pruning", "bench.training"),
        "bench.records",
    ),
    "bench.conformance": (
        *("bench.spec", "bench.models", "bench.data", "bench.measure", "bench.pruning", "bench.training"),
        *("bench.records", "bench.runs"),
    ),
    "leaderboard": ("bench.spec", "bench.records"),
    "slurm": ("bench.spec", "bench.records", "bench.measure", "bench.runs"),
    "methods": ("bench.api",),
    "bench.cli": None,
    "bench.api": ("bench.spec", "bench.models", "bench.data", "bench.pruning", "bench.training"),
    "bench.__main__": ("bench.cli",),
}
"""Room -> rooms that it may import; None: all."""
EXCEPTIONS = {
    ("methods.torch_pruning_adapter", "bench.pruning.dependency_graph"),
    ("bench", "bench.runs.python_api"),  # bench.run and bench.load, when they are used
}
TORCH_FREE = ("bench.spec", "bench.records", "leaderboard")
DOORS = {
    "torch_pruning": {"bench.pruning.dependency_graph", "methods.torch_pruning_adapter"},
    "fvcore": {"bench.measure.flops"},
    "submitit": {"slurm.clusters", "slurm.local"},
    "torchvision": {"bench.data.datasets", "bench.models.external", "bench.models.torchvision_variants"},
    "sklearn": {"bench.data.datasets"},
    "PIL": {"bench.data.image_files"},
    "tqdm": {"bench.progress"},
    "onnx": {"bench.measure.onnx_export"},
    "onnxruntime": {"bench.measure.onnx_export"},
    "pandas": {"leaderboard.reader.frame"},
    "scipy": {
        f"leaderboard.stats.{name}"
        for name in ("contrasts", "cross_table", "image_intervals", "reach", "statistics", "verdicts")
    },
    "jinja2": {"leaderboard.pages.templating"},
    "vl_convert": {"leaderboard.figures.draw"},
    "selenium": set(),
}
"""Outside library -> the modules that may import it."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for folder, _, files in os.walk(ROOT / package):  # rglob fails where a test beside it removes a folder
            for file in (Path(folder, file) for file in files if file.endswith(".py")):
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(name: str, annotations: bool = True) -> set[str]:
    """Every module that a module imports: at the top, in functions, and (if wanted) for annotations only."""
    tree, found = ast.parse(MODULES[name].read_text()), set()
    for_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = set() if annotations else {id(inner) for block in for_types for inner in ast.walk(block)}
    for node in (node for node in ast.walk(tree) if id(node) not in skipped):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {part if part in MODULES else node.module for part in parts}
    return found - {name}


def room(name: str) -> str:
    """The longest room that a module's name begins with; its own name for a flat module."""
    fits = [one for one in ROOMS if name == one or name.startswith(f"{one}.")]
    return max(fits, key=len, default=name)


def at_top(name: str) -> set[str]:
    """Names of the libraries that loading a module imports."""
    tree = ast.parse(MODULES[name].read_text())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_imports_have_no_circle():
    # the command line imports a command's parts when the command is called, and bench its interface when it is used
    lazy = {"bench": "bench.", "bench.cli": "bench.cli."}
    graph = {
        name: {i for i in imports(name) if i in MODULES and not (name in lazy and i.startswith(lazy[name]))}
        for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", sorted(MODULES))
def test_rooms_import_what_their_row_allows(name):
    mine = room(name)
    if name in FLAT:
        allowed: tuple[str, ...] | None = ()
    else:
        assert mine in ROOMS, f"{name} is in no room"
        allowed = ROOMS[mine]
    for imported in imports(name) & MODULES.keys():
        ok = allowed is None or imported in FLAT or room(imported) in {mine, *allowed}
        assert ok or (name, imported) in EXCEPTIONS, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_outside_libraries_have_one_door(name):
    for imported in imports(name, annotations=False):
        library = imported.split(".")[0]
        assert name in DOORS.get(library, {name}), f"{name} imports {library}"


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if room(name) in TORCH_FREE])
def test_torch_free_rooms_import_no_torch(name):
    assert not any(imported.split(".")[0] == "torch" for imported in imports(name))


def test_heavy_readers_are_imported_inside_functions():
    assert not at_top("bench.data.datasets") & {"torchvision", "sklearn"}


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith("methods.")))
def test_methods_import_the_contract_and_torch_only(name):
    adapter = {"torch_pruning", "bench.pruning.dependency_graph", "bench.errors"}
    allowed = {"bench.api", "torch", "torch.nn", "torch.nn.functional", "math", "functools", "dataclasses", "typing"}
    allowed |= {"methods.papers", "methods.transforms"}
    allowed |= adapter if name == "methods.torch_pruning_adapter" else set()
    assert imports(name) <= allowed


@pytest.mark.parametrize("command", ["import bench.cli", "from bench.cli import main; main(['list'])"])
def test_listing_and_help_need_neither_torch_nor_scipy(command):
    code = f"{command}; import sys; print([m for m in ('torch', 'scipy', 'sklearn', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
