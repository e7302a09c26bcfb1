"""Fixtures: small data, small networks, contexts and runs."""

import dataclasses
import gc
import os
import shutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from support import once
from support.plugins import known
from torch import nn

from bench.api import Method
from bench.data.loading import Images, TrainingData
from bench.measure import environment, flops, onnx_export
from bench.models.build import build
from bench.progress import Progress
from bench.pruning.cost_model import Budget
from bench.records import store
from bench.runs import latency_tables
from bench.runs.execute import execute
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.registry import ARCHS, DATASETS, METHODS, add_plugin
from bench.spec.request import RunOptions
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.masked_model import MaskedModel

if torch.backends.cpu.get_cpu_capability() == "AVX2":
    # on processors without AVX-512 small convolutions of oneDNN 3.13 (torch 2.15) write beyond their memory in the
    # backward pass, and the process aborts; oneDNN reads this when it is first used, in programs of tests too
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")

os.fsync = lambda handle: None  # no file of a test has to outlive the machine; each would wait for the disk


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The first process begins with the tests on SLURM, which mostly wait, each other one with long ones.

    xdist gives each process an equal part of the list; one that is done takes half of what another has left.
    """
    others = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - 1
    if not others:
        return
    waiting, slow, fast = [], [], []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        (waiting if "slurm" in marks else slow if "slow" in marks else fast).append(item)
    parts = [waiting, *(slow[len(slow) * k // others : len(slow) * (k + 1) // others] for k in range(others))]
    size, rest = len(items) // len(parts), iter(fast)
    items[:] = [item for part in parts for item in (*part, *islice(rest, max(size - len(part), 0)))]
    items += rest


def pytest_collection_finish():
    """What is imported by now stays: left out of garbage collection, each of which took 0.1 s."""
    torch.use_deterministic_algorithms(False)  # imports hundreds of modules, as the end of the first test would
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()  # else nanobind reports leaks, and hypothesis takes trio's generator for one that nobody holds


os.environ.pop("COLUMNS", None)  # pytest imports readline, which sets it: tables would be cut to its width


seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
"""The former notes a stack for each kind of device that there may be."""


@pytest.fixture(autouse=True)
def _threads_and_seed():
    torch.set_num_threads(1)
    seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _imports():
    """Folders that a test adds to the path, as a plugin's, and their modules are unknown to the next test."""
    path = [*sys.path]
    yield
    added = {os.path.realpath(folder) for folder in set(sys.path) - set(path)}
    sys.path[:] = path
    for name, module in list(sys.modules.items()) if added else []:
        if "." in name or name.startswith("bench_plugin_"):
            continue  # a module of a package, as of bench.conformance; a name that no other file takes
        file = getattr(module, "__file__", None)
        if file and _folder(file) in added:
            del sys.modules[name]


@cache
def _folder(file: str) -> str:
    return os.path.realpath(os.path.dirname(file))


COUNT_ANEW = ("measure", "models", "pruning")
"""Rooms whose tests are about counting."""


@pytest.fixture(autouse=True)
def _counts_once(monkeypatch, request):
    """Runs, and what verifies them, count the same networks and ask for the same commit again and again."""
    if request.path.parent.name not in COUNT_ANEW:
        monkeypatch.setattr(flops, "count", once.count)
        monkeypatch.setattr(flops, "traced", once.traced)
        monkeypatch.setattr(environment, "_git", once.git)


@pytest.fixture
def onnx_extra():
    """The packages of the extra ``onnx``, or the test is skipped."""
    for name in onnx_export.PACKAGES:
        pytest.importorskip(name)
    with suppress(ImportError, AttributeError):  # names may change: then each export takes 0.3 s more
        keep_operators()


@cache
def keep_operators():
    """Torch's exporter translates all of its operators for each export; here only for the first."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))


@pytest.fixture
def make_data() -> Callable[..., TrainingData]:
    """Random images of any shape, with a class pattern so that they can be learned."""

    def make(shape=(1, 8, 8), train=96, val=32, classes=10) -> TrainingData:
        generator = torch.Generator().manual_seed(7)
        patterns = torch.randint(40, 216, (classes, *shape), generator=generator)

        def part(size: int) -> Images:
            labels = torch.arange(size) % classes
            noise = torch.randint(-30, 31, (size, *shape), generator=generator)
            pixels = (patterns[labels] + noise).clamp(0, 255).to(torch.uint8)
            return Images(pixels, labels, torch.full((1, shape[0], 1, 1), 128.0), torch.full((1, shape[0], 1, 1), 60.0))

        return TrainingData(part(train), part(val), {})

    return make


@pytest.fixture
def make_training(make_data) -> Callable[..., PhaseTrainer]:
    """A training of a method on a small network, ready to run, without files."""

    def make(
        method: Method | None = None,
        arch="resnet20",
        shape=(1, 8, 8),
        keep=0.5,
        checkpoint=None,
        coupling="inner",
        units="width",
        **settings,
    ):
        overrides = {"train.epochs": "2", "finetune.epochs": "1", "batch_size": "32", "precision": "fp32"}
        overrides |= {key.replace("__", "."): str(value) for key, value in settings.items()}
        recipe = load_recipe("digits", overrides)
        network = arch if isinstance(arch, nn.Module) else build(arch, shape, 10)
        sites, model = once.sites_and_costs(network, shape, coupling, units)
        data = make_data(shape)
        budget = Budget(keep_macs=keep)
        masked = MaskedModel(network, sites, model, torch.device("cpu"), recipe.precision)
        ctx = Context(masked, data, recipe, budget, 0)
        method = method or Method()
        training = PhaseTrainer(ctx, method, data, recipe, 0, Progress("test", quiet=True), checkpoint, "test")
        training.prepare()
        ctx._now.x, ctx._now.y = next(ctx.batches())
        return training

    return make


@pytest.fixture
def make_ctx(make_training) -> Callable[..., Context]:
    """The context of :func:`make_training`."""
    return lambda *args, **settings: make_training(*args, **settings).ctx


PLUGINS = Path(__file__).parent / "plugins"


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    """What a command changes for its process, here it changes for its test: what is known, how long it waits."""
    monkeypatch.setattr(latency_tables, "MACHINE", latency_tables.MACHINE)
    with known():
        yield


@pytest.fixture
def forgets():
    """Plugins of other tests are unknown; what the suite registers is loaded."""
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins = {}
        own = registry.entries()
        for name in own:
            registry.get(name)
        registry._objects = {name: thing for name, thing in registry._objects.items() if name in own}


@pytest.fixture
def plugins():
    """The test plugins, known for one test."""
    for name in ("small", "broken", "units"):
        add_plugin(str(PLUGINS / f"{name}.py"))


@pytest.fixture
def make_run(plugins, tmp_path):
    """Specification and options of a small run."""

    def make(
        method="l1_norm",
        arch="two_layers",
        dataset="tiny",
        keep=0.5,
        seed=0,
        out=tmp_path,
        options=None,
        units="width",
        **settings,
    ):
        overrides = {"train.epochs": "1", "finetune.epochs": "1", "batch_size": "32", "latency_batch": "4"}
        overrides |= {"recalibrate": "2"} | {key.replace("__", "."): str(value) for key, value in settings.items()}
        recipe = load_recipe("synthetic", overrides)
        budget = keep if isinstance(keep, Budget) else Budget(keep_macs=keep)
        spec = make_spec(method, arch, dataset, recipe, budget, seed, "inner", options, units=units)
        return spec, RunOptions(out=out, quiet=True)

    return make


FINISHED: dict[str, Path] = {}
"""Folders of runs that :func:`finished` made, by their id."""


@pytest.fixture
def finished(make_run, tmp_path_factory):
    """Specification, record and options of a finished run: trained once a process, its files copied for each test."""

    def make(*what, **settings):
        spec, options = make_run(*what, **settings)
        if spec.id not in FINISHED:
            folder = tmp_path_factory.mktemp("finished")
            execute(spec, dataclasses.replace(options, out=folder))
            FINISHED[spec.id] = folder
        shutil.copytree(FINISHED[spec.id], options.out, dirs_exist_ok=True)
        return spec, store.load(store.path_of(options.out, spec)), options

    return make
