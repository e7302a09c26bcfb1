"""A request becomes specifications: names and options are checked, and what was not asked gets its default.

Names and options are read from source, so torch is loaded only where a default is not a literal or a GPU may be there.
The command line adds what a request needs to know, but decides no default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from bench.errors import UsageError
from bench.measure.processor import precision_without_torch
from bench.progress import Progress
from bench.records import store
from bench.records.consistency import unreadable
from bench.records.schema import finished
from bench.spec import method_traits
from bench.spec.known_images import TEST_SHA256, why_not_published
from bench.spec.method_traits import Traits
from bench.spec.recipe import Recipe, load_recipe
from bench.spec.registry import ARCHS, DATASETS, add_plugin, method_names, model_name
from bench.spec.request import BUDGETS, RunOptions, RunRequest
from bench.spec.spec import WIDTH, Budget, Spec

if TYPE_CHECKING:
    from bench.data.registration import Dataset

FOLDER = "folder:"
DEFAULT_KEEP_MACS = 0.5
HERE = RunOptions()


def resolve(
    request: RunRequest, options: RunOptions = HERE, *, elsewhere: bool = False, writes: bool = True
) -> tuple[list[Spec], RunOptions]:
    """The specifications that a request means, one a seed, and the options to carry them out with.

    Args:
        request: what to run.
        options: where and how; its plugins are made known.
        elsewhere: the runs are carried out on another machine, or are those of a plan: precision may not depend on
            this one.
        writes: facts about a folder of images may be kept below ``options.out``.

    Returns:
        Specifications, and ``options`` with the folder that a data set ``folder:PATH`` is in.

    Raises:
        UsageError: a name, an option or a value is unknown or invalid, or they do not go together.
        SetupError: device, data or runtime are not there.
    """
    for file in options.plugins:
        add_plugin(file)
    method_names(request.method)
    arch = model_name(request.arch)
    ARCHS.require(arch)
    dataset = request.dataset
    if dataset.startswith(FOLDER):
        from bench.data.image_folder import resolve as folder_name

        dataset, data_dir = folder_name(dataset, options.data_dir)
        options = dataclasses.replace(options, data_dir=data_dir)
    else:
        DATASETS.require(dataset)
    name = request.recipe or default_recipe(dataset, options, writes)
    recipe = load_recipe(name, request.settings)
    if elsewhere and recipe.precision == "auto":
        raise UsageError(
            f"recipe {recipe.name}: precision auto depends on the machine, which neither a job nor a plan may: "
            "give --set precision=fp32 or bf16"
        )
    first = make_spec(
        *(request.method, arch, dataset, recipe, budget_of(request)),
        *(request.seeds[0], request.coupling, request.options, options.device, request.units),
    )
    if first.budget is not None and first.budget.of_latency:
        from bench.runs.latency_tables import with_table

        first = with_table(first, request.latency_table, options, writes)
    return [dataclasses.replace(first, seed=seed) for seed in request.seeds], options


def make_spec(
    method: str,
    arch: str,
    dataset: str,
    recipe: Recipe,
    budget: Budget | None,
    seed: int = 0,
    coupling: str = "inner",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    units: str = WIDTH,
) -> Spec:
    """A specification with method and options checked; raises UsageError.

    Without a budget the method chooses its own sparsity (the native track), which not every method can. The precision
    ``auto`` becomes that of ``device``, so that the run's id says which one it is; raises SetupError where the device
    is not there.
    """
    names = method_names(method)
    if recipe.precision == "auto":
        recipe = dataclasses.replace(recipe, precision=precision_of(device))
    traits = _traits(names, options or {})
    method = "+".join(names)
    if budget is None and traits.prunes and not traits.native:
        raise UsageError(f"method '{method}' does not choose its own sparsity: give --keep-macs, not --native")
    if budget and budget.ranking == traits.ranking:
        budget = dataclasses.replace(budget, ranking=None)
    kinds: Any = UNSET if units == WIDTH else units
    budget = budget if traits.prunes else None
    spec = Spec(method, arch, dataset, recipe, budget, seed, coupling, traits.config, units=kinds)
    if problem := next(unreadable(spec), None):
        raise UsageError(f"{problem}; choose another")
    return spec


def default_recipe(dataset: str, options: RunOptions = HERE, writes: bool = True) -> str:
    """Name of the recipe of a data set that is known; that of a folder of images depends on their size."""
    if not dataset.startswith(FOLDER):
        declared = {option.name: option.default for option in DATASETS.entries()[dataset].options}
        return declared.get("recipe", dataset)
    from bench.data.loading import find

    cache = options.out / "cache" if writes else None
    found: Dataset = find(dataset, options.data_dir, cache, Progress(dataset, options.quiet))
    return found.recipe


def budget_of(request: RunRequest) -> Budget | None:
    """The budget that is asked for, or the default one; None for the native track. Raises UsageError."""
    if request.native:
        return None
    keep_macs, widths = request.keep_macs, None
    blocks: tuple[str, ...] | UnsetType = UNSET
    if request.like is not None:
        try:
            like = store.load(Path(request.like))
        except store.RecordError as error:
            raise UsageError(f"--like: {error}") from error
        if not finished(like):
            raise UsageError(f"--like {request.like}: that run {like.status}")
        if like.spec.unit_kinds != request.units:
            raise UsageError(f"--like {request.like}: that run has --units {like.spec.unit_kinds}")
        widths = tuple(after for _, (_, after) in sorted(like.structure.widths.items()))
        if request.units == "both":  # widths belong to blocks; of blocks alone the number counts
            blocks = tuple(text for _, text in sorted((like.structure.blocks or {}).items()))
    elif not any(request.asks(name) for name in BUDGETS):
        keep_macs = DEFAULT_KEEP_MACS
    more = {name: value for name in ("keep_blocks", "min_blocks") if (value := getattr(request, name)) is not None}
    more |= {"round_to": request.round_to}
    if request.asks("keep_latency") or request.asks("latency_ms"):
        more |= {name: getattr(request, name) for name in ("keep_latency", "latency_ms") if request.asks(name)}
        more |= {"runtime": request.runtime, "batch": request.batch, "threads": request.runtime_threads}
    return Budget(keep_macs, request.keep_params, request.ranking, request.min_keep, widths, blocks=blocks, **more)


def require_published_images(dataset: str, options: RunOptions) -> None:
    """Raise UsageError for images that no published number is about, whatever the data set is called here."""
    found = TEST_SHA256.get(dataset)
    if dataset.startswith(FOLDER):
        from bench.data.image_folder import test_files_sha256

        found = test_files_sha256(dataset, options.data_dir)
    if why := why_not_published(found):
        raise UsageError(f"data set '{dataset}': {why}")


def precision_of(device: str) -> Any:
    """What precision ``auto`` becomes on a device, as a user names it; raises SetupError where it is not there."""
    known = precision_without_torch(device)
    if known is not None:
        return known
    from bench.measure import environment

    return environment.pick_precision("auto", environment.pick_device(device))


def _traits(names: list[str], options: Mapping[str, Any]) -> Traits:
    """What a method, or a composition, is with these options: read from its source, else off the method itself."""
    text = "+".join(names)
    found = method_traits.of(text, options)
    if found is not None:
        return found
    from bench.runs.method_factory import make_method

    return method_traits.of_method(make_method(text, options))
