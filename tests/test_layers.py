"""The rooms of the code: which may import which, which outside library has which door, what loads no torch."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
    "bench.deploy": (
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
}
TORCH_FREE = ("bench.spec", "bench.records", "leaderboard")
CONTRACT = {"bench.api", "torch", "torch.nn", "torch.nn.functional", "math", "functools", "dataclasses", "typing"}
CONTRACT |= {"torch.func", "methods.inf_fs", "methods.norms", "methods.papers", "methods.refit", "methods.transforms"}
"""What a method may import; and what the adapter may in addition."""
ADAPTER = {"torch_pruning", "bench.pruning.dependency_graph", "bench.errors"}
DOORS = {
    "torch_pruning": {"bench.pruning.dependency_graph", "methods.torch_pruning_adapter"},
    "fvcore": {"bench.measure.flops"},
    "submitit": {"slurm.clusters", "slurm.local"},
    "torchvision": {"bench.data.datasets", "bench.models.external", "bench.models.torchvision_variants"},
    "sklearn": {"bench.data.datasets"},
    "PIL": {"bench.data.image_files"},
    "tqdm": {"bench.progress"},
    "onnx": {"bench.measure.int8", "bench.measure.onnx_export", "bench.measure.onnx_file"},
    "onnxruntime": {"bench.measure.int8", "bench.measure.onnx_export"},
    "openvino": {"bench.measure.runtimes"},
    "pandas": {"leaderboard.reader.board_frame", "leaderboard.reader.frame"},
    "scipy": {"bench.records.latency"}
    | {f"bench.pruning.latency_{name}" for name in ("model", "rounds", "solver")}
    | {
        f"leaderboard.stats.{name}"
        for name in ("contrasts", "cross_table", "image_intervals", "rank_agreement", "reach", "statistics", "verdicts")
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


def test_imports_have_no_circle():
    # the command line imports a command's parts when the command is called, and bench its interface when it is used
    lazy = {"bench": "bench.", "bench.cli": "bench.cli."}
    graph = {
        name: {i for i in imports(name) if i in MODULES and not (name in lazy and i.startswith(lazy[name]))}
        for name in MODULES
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def forbidden(name: str) -> Iterator[str]:
    """Imports of a module that no rule allows."""
    every, mine = imports(name), room(name)
    libraries = {imported.split(".")[0] for imported in every}
    if name not in FLAT and mine not in ROOMS:
        yield f"{name} is in no room"
    allowed = () if name in FLAT else ROOMS.get(mine)
    for imported in every & MODULES.keys():
        ok = allowed is None or imported in FLAT or room(imported) in {mine, *allowed}
        if not ok and (name, imported) not in EXCEPTIONS:
            yield f"{name} imports {imported}"
    for library in {imported.split(".")[0] for imported in imports(name, annotations=False)}:
        if name not in DOORS.get(library, {name}):
            yield f"{name} imports {library}, whose doors are {DOORS[library]}"
    if mine in TORCH_FREE and "torch" in libraries:
        yield f"{name} imports torch"
    if mine == "methods" and name != "methods":
        extra = ADAPTER if name == "methods.torch_pruning_adapter" else set()
        yield from (f"{name} imports {imported}" for imported in every - CONTRACT - extra)


def test_modules_import_what_their_room_allows():
    assert [line for name in sorted(MODULES) for line in forbidden(name)] == []


def test_every_rule_finds_a_forbidden_import(monkeypatch):
    for name, imported in (
        ("bench.spec.spec", "bench.models.build"),
        ("bench.errors", "bench.spec.spec"),
        ("bench.runs.execute", "pandas"),
        ("leaderboard.stats.statistics", "torch"),
        ("methods.dropnet", "bench.pruning.selection"),
        ("methods.dropnet", "numpy"),
    ):
        monkeypatch.setitem(globals(), "imports", lambda *_, found=imported, **__: {found})
        assert [line for line in forbidden(name) if line.startswith(f"{name} imports {imported}")], (name, imported)


def test_heavy_readers_are_imported_inside_functions():
    for node in ast.parse(MODULES["bench.data.datasets"].read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not re.search(r"\b(torchvision|sklearn)\b", ast.unparse(node))


@pytest.mark.parametrize("command", ["import bench.cli", "from bench.cli import main; main(['list'])"])
def test_listing_and_help_need_neither_torch_nor_scipy(command):
    code = f"{command}; import sys; print([m for m in ('torch', 'scipy', 'sklearn', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
