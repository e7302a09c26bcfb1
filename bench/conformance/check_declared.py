"""Checks of what a method declares: its text, its options, its plan. Nothing is trained."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import torch

from bench.conformance.checks import Broken, check, require
from bench.conformance.subject import RECIPE, Stopped, Subject
from bench.errors import BenchError, UsageError
from bench.runs.method_factory import make_method
from bench.spec.class_scan import ROOT
from bench.spec.decode import method_config
from bench.spec.digest import canonical
from bench.spec.entries import Paper
from bench.training.checkpoint import clone_state
from bench.training.context import Context
from bench.training.guard import DECLARED_WRITERS
from bench.training.plan import Phase, check_plan
from bench.training.requirements import NEEDS

OF_THE_HARNESS = {"bench.api", "bench.archs.architecture", "bench.data.dataset"}
EXPECTED = {"torch", "math", "dataclasses", "typing", "numpy", "methods.papers", "__future__"}
DATA = {"sklearn", "torchvision", "datasets", "tensorflow_datasets", "medmnist", "PIL", "cv2", "imageio", "skimage"}
WAYS_AROUND = {"gc", "inspect", "ctypes", "importlib", "builtins", "sys", "os", "io", "pathlib", "pickle", "pkgutil"}
DYNAMIC = {"__import__", "eval", "exec", "compile", "globals", "locals", "vars"}
INSIDE = {
    *("__dict__", "__globals__", "__closure__", "__code__", "__self__", "__func__", "__subclasses__", "__builtins__"),
    *("__setattr__", "__getattribute__", "f_back", "tb_frame", "gi_frame"),
}
GLOBAL = ("register_module_", "register_optimizer_step_", "set_default_dtype", "set_num_threads")
OUTSIDE = {"socket", "urllib", "http", "requests", "subprocess", "multiprocessing", "shutil", "tempfile"}
OUTSIDE |= {"threading", "concurrent", "asyncio"}  # other threads are not watched
FILES = {"open", "write_text", "write_bytes", "mkdir", "unlink", "save", "load", "savez", "tofile", "fromfile"}
ADAPTERS = [ROOT / "methods" / "torch_pruning_adapter.py"]


def is_adapter(subject: Subject) -> str | None:
    """The suite's own bridge to another library sees more of the harness than a method does."""
    return "it is the suite's adapter of another library" if subject.sources == ADAPTERS else None


def nodes(subject: Subject) -> Iterator[tuple[Path, Any]]:
    """All syntax nodes of the method's files."""
    for file in subject.sources:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield file, node


@check("documented", "A list and a board show a method by its first line and its paper.", alone=True)
def documented(subject: Subject) -> str | None:
    """Docstring and paper."""
    for part in subject.parts:
        require(bool((type(part).__doc__ or "").strip()), f"{part.name} has no docstring")
        paper = part.paper
        if paper is None:
            return "no paper is named"
        require(isinstance(paper, Paper), f"paper of {part.name} is {type(paper).__name__}, not Paper(...)")
        whole = paper.authors and paper.title and paper.venue and 1900 < paper.year < 2100
        require(bool(whole), f"paper of {part.name} lacks authors, year, title or venue")
        require(not paper.url or paper.url.startswith("http"), f"paper of {part.name}: url {paper.url}")
    return None


@check(
    "config",
    "Options are part of a run's name: they must be frozen, have defaults, and come back from text and JSON.",
    alone=True,
)
def config(subject: Subject) -> str | None:
    """Frozen dataclass whose defaults survive the command line and the record."""
    found = 0
    for part in subject.parts:
        cls = type(part).Config
        params = getattr(cls, "__dataclass_params__", None)
        require(params is not None and params.frozen, f"{part.name}.Config is not a frozen dataclass")
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            found += 1
            require(field.default is not dataclasses.MISSING, f"option {field.name} has no default")
            try:
                decoded = getattr(method_config(cls, {field.name: str(field.default)}, part.name), field.name)
            except UsageError as error:
                raise Broken(f"the default of option {field.name} is not of its type: {error}") from error
            require(decoded == field.default, f"option {field.name} = {field.default!r} becomes {decoded!r} from text")
            require(field.name in hints, f"option {field.name} has no type")
        try:
            canonical(dataclasses.asdict(cls()))
        except (TypeError, ValueError) as error:
            raise Broken(f"the defaults of {part.name} cannot be written as JSON ({error})") from error
    return f"{found} options" if found else "no options"


@check("options", "A mistyped option must cost a line, not a night on a cluster.", alone=True)
def options(subject: Subject) -> str | None:
    """What is unknown or of the wrong type is refused with UsageError, and nothing ends in a traceback."""
    several = len(subject.parts) > 1

    def refused(part: str, key: str, value: str) -> bool:
        try:
            make_method(subject.name, {f"{part}.{key}" if several else key: value})
        except UsageError:
            return True
        except Exception as error:
            raise Broken(
                f"-p {key}={value} ends in {type(error).__name__}: raise ValueError in __post_init__"
            ) from error
        return False

    for part in subject.parts:
        require(refused(part.name, "no_such_option", "1"), "an unknown option is accepted")
        hints = get_type_hints(type(part).Config)
        for name, hint in hints.items():
            if hint is not str and "str" not in str(hint):
                require(refused(part.name, name, "no such value"), f"-p {name}='no such value' is accepted")
            for value in ("-1", "0", "1", "1000000000"):
                refused(part.name, name, value)  # either way, but in one line
    return None


@check("plan", "Epochs are counted and runs resumed by the plan alone: it must not vary.", alone=True)
def plan(subject: Subject) -> str | None:
    """Well formed, the same every time, free of side effects."""
    plans: list[Any] = []

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        if hook != "plan":
            return call()
        before, drawn, chance = clone_state(ctx._model.network), ctx.rng.get_state(), torch.get_rng_state()
        plans.extend([call(), call()])
        same = all(torch.equal(before[name], value) for name, value in ctx._model.network.state_dict().items())
        require(same, "plan changes the network's weights")
        require(torch.equal(drawn, ctx.rng.get_state()), "plan draws from ctx.rng")
        require(torch.equal(chance, torch.get_rng_state()), "plan draws from torch's generator")
        raise Stopped

    for seed in (0, 1):
        subject.stopped(watch, seed=seed)
    first = plans[0]
    try:
        check_plan(first, subject.method.prunes)
    except BenchError as error:
        raise Broken(str(error)) from error
    require(all(p == first for p in plans), "plan gives another plan when asked again, or with another seed")
    phases = [step for step in first if isinstance(step, Phase)]
    for phase in phases:
        require(phase.part in ("train", "finetune"), f"Phase part '{phase.part}': train or finetune")
        require(isinstance(phase.epochs, int) and phase.epochs >= 0, f"Phase of {phase.epochs!r} epochs")
        require(phase.rewind is None or isinstance(phase.rewind, str), f"Phase rewinds to {phase.rewind!r}")
    train, fair = int(RECIPE["train.epochs"]), int(RECIPE["train.epochs"]) + int(RECIPE["finetune.epochs"])
    total = sum(phase.epochs for phase in phases) + train * (subject.method.starts_from == "base")
    return None if total == fair else f"{total} epochs where the recipe has {fair}: not ranked with the others"


@check("starting_point", "Anything but 'init' and 'base' would silently train from the initial weights.", alone=True)
def starting_point(subject: Subject) -> str | None:
    """Class attributes have one of their values."""
    for part in subject.parts:
        require(part.starts_from in ("init", "base"), f"starts_from = {part.starts_from!r}: init or base")
        require(part.ranking in ("layer", "global"), f"ranking = {part.ranking!r}: layer or global")
        require(isinstance(part.prunes, bool), f"prunes = {part.prunes!r}: True or False")
        known: dict[str, tuple[str, ...]] = {"couplings": ("inner", "full"), "kinds": ("conv", "linear", "block")}
        for name, values in (known | {"needs": tuple(NEEDS), "writes": DECLARED_WRITERS}).items():
            given = getattr(part, name)
            valid = isinstance(given, tuple) and (bool(given) or name not in known) and set(given) <= set(values)
            require(valid, f"{name} = {given!r}: a tuple of {' and '.join(sorted(values))}")
    return None


@check("imports", "What reaches into the harness breaks with it, and can break its rules.", is_adapter, alone=True)
def imports(subject: Subject) -> str | None:
    """bench.api alone of the harness; nothing that talks to the world."""
    strange = set()
    for file, node in nodes(subject):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            from_bench = node.module.split(".")[0] == "bench" and node.module != "bench.api"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if from_bench else [node.module]
        for name in names:
            top = name.split(".")[0]
            allowed = top != "bench" or name in OF_THE_HARNESS
            require(allowed, f"{file.name}:{node.lineno} imports {name}; of the harness only bench.api is for methods")
            place = f"{file.name}:{node.lineno} imports {name}"
            require(top not in OUTSIDE, f"{place}: no files, processes or internet")
            known = top in DATA or name.startswith(("torch.utils.data", "torch.hub"))
            require(not known, f"{place}: images come from ctx.batches, other data from nowhere")
            require(top not in WAYS_AROUND, f"{place}, a way around ctx")
            if name not in EXPECTED and top not in EXPECTED | {"bench"}:
                strange.add(name)
    return f"also imports {', '.join(sorted(strange))}" if strange else None


@check(
    "context", "Names with an underscore change without notice; others a context does not have.", is_adapter, alone=True
)
def context(subject: Subject) -> str | None:
    """Only the public side of what a hook is given is used, by name."""
    for file in subject.sources:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {name.partition(".")[0] for name in bound_by_imports(tree)}
        for node in ast.walk(tree):
            found = reaching(node, imported)
            require(not found, f"{file.name}:{getattr(node, 'lineno', 0)} uses {found}")
    return None


def bound_by_imports(tree: ast.AST) -> Iterator[str]:
    """Names that a file's imports bind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def reaching(node: ast.AST, imported: set[str]) -> str | None:
    """What a piece of text reaches that is not a method's, and why it is not; None for nothing."""
    if isinstance(node, ast.Attribute):
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        name, text = getattr(root, "id", ""), ast.unparse(node)
        own = isinstance(node.value, ast.Name) and name in ("self", "cls")
        if node.attr in INSIDE or (private(node.attr) and not own and name not in imported):
            return f"{text}, which is private"
        if name == "ctx" and root is node.value and not hasattr(Context, node.attr):
            return f"{text}, which a context does not have"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        called, arguments = node.func.id, node.args
        if called in DYNAMIC:
            return f"{called}(), which no reader can follow"
        if called in ("getattr", "setattr", "delattr") and len(arguments) > 1:
            name = arguments[1].value if isinstance(arguments[1], ast.Constant) else None
            given = isinstance(arguments[0], ast.Name) and arguments[0].id in ("ctx", "site", "sites")
            if private(str(name)) or (given and name is None):
                return f"{ast.unparse(node)}, which is private"
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else [getattr(node, "attr", "")]
    return next((f"{name}, which is for the whole process" for name in names if name.startswith(GLOBAL)), None)


def private(name: str) -> bool:
    """Whether a name is one that changes without notice."""
    return name in INSIDE or (name.startswith("_") and not name.startswith("__"))


@check("device", "The same file has to run on any device: tensors belong on ctx.device.", alone=True)
def device(subject: Subject) -> str | None:
    """No device is named in the text."""
    copies = 0
    for file, node in nodes(subject):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = [k.value for k in node.keywords if k.arg == "device"]
        named += node.args[:1] if called in ("to", "device", "Generator") else []
        texts = [v.value for v in named if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        wrong = called == "cuda" or any(text.startswith(("cpu", "cuda", "mps")) for text in texts)
        require(not wrong, f"{file.name}:{node.lineno} {ast.unparse(node)} names a device; use ctx.device")
        copies += called == "cpu"
    return f"{copies} calls of .cpu(), each waits for the device" if copies else None


@check("files", "What a method reads or writes without its context is in no record.", alone=True)
def files(subject: Subject) -> str | None:
    """Nothing is opened."""
    for file, node in nodes(subject):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        require(called not in FILES, f"{file.name}:{node.lineno} {ast.unparse(node)} reads or writes a file")
    return None
