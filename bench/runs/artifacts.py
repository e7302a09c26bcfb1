"""The networks that a finished run left behind, rebuilt on the CPU from its record and its files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.data.loading import ImageSet, TrainingData, find, labels_of_test, load_test, load_training
from bench.data.registration import Dataset
from bench.errors import RunFailed, SetupError, UsageError
from bench.measure import flops
from bench.measure.environment import versions_of
from bench.models.build import Shape, build
from bench.models.memory_format import LAYOUT
from bench.models.shared_parameters import copied
from bench.pruning.blocks import as_mask
from bench.pruning.cost_model import CostModel
from bench.pruning.latency_choice import LatencyChoice
from bench.pruning.latency_rounds import Measured
from bench.pruning.sites import Sites
from bench.records.schema import File, Finished
from bench.records.values import given
from bench.runs.identity import arch_sha256, arch_source, packed_masks
from bench.runs.latency_tables import DenseNetwork, choice_of
from bench.runs.method_factory import make_method
from bench.runs.network_trial import Situation
from bench.runs.preflight import Fit, fit
from bench.spec.registry import ARCHS, METHODS, Registry
from bench.spec.wording import plural
from bench.training import dense_baseline as bases
from bench.training.checkpoint import load_tensors
from bench.training.context import Context
from bench.training.masked_model import MaskedModel
from bench.training.plan import Phase

NETWORKS = ("final", "dense")


class NotAvailable(SetupError):
    """Something that a record speaks of is not available here (exit 3)."""


class RunArtifacts:
    """The networks and masks of an ``ok`` run, found under an output folder by its record.

    Every method raises NotAvailable for what is missing here, and RunFailed for what differs from the record.
    """

    def __init__(self, record: Finished, out: Path) -> None:
        self.record, self.out = record, out

    @property
    def shape(self) -> Shape:
        """Channels, height and width of one image."""
        return self.record.data.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.record.data.classes

    @property
    def layout(self) -> str:
        """Memory format in which the networks of the run run."""
        return self.record.training.layout or LAYOUT

    def parts(self) -> tuple[nn.Module, Sites]:
        """The dense network, with weights that mean nothing, and its sites.

        Finding sites takes seconds and many records speak of one network, so they share both: leave them as they are.
        """
        spec = self.record.spec
        network, found = self._built()
        if arch_sha256(spec.arch, network) != self.record.structure.arch_sha256:
            self._require_versions(spec.arch)
            raise RunFailed(f"architecture '{spec.arch}' is another one here than in the record")
        return network, found.sites

    def _require_versions(self, arch: str) -> None:
        """Raise NotAvailable where a package that the architecture is made with has another version here."""
        then = self.record.environment.packages
        for package, version in versions_of(arch_source(arch).packages).items():
            if then.get(package, version) != version:
                raise NotAvailable(f"architecture '{arch}' was made with {package} {then[package]}, here is {version}")

    def model(self) -> CostModel:
        """The cost of the network as a function of its sites' widths; computed once, for all callers."""
        return self._built()[1].model

    def dense_cost(self) -> tuple[int, int]:
        """MACs, counted by fvcore, and parameters of the dense network."""
        return _dense_cost(self.record.spec.arch, self.shape, self.classes)

    def _built(self) -> tuple[nn.Module, Fit]:
        """A network, and what the run found out about it."""
        spec = self.record.spec
        _require_known(ARCHS, spec.arch)
        recipe, precision = spec.recipe, self.record.training.precision
        cpu, units = torch.device("cpu"), spec.unit_kinds
        situation = Situation(self.shape, self.classes, spec.coupling, recipe, cpu, precision, units)
        return _built(spec.arch, situation)

    def masks(self) -> dict[str, Tensor]:
        """Site -> boolean mask ``[n_units]``, as chosen in the run."""
        path = self._artifact(self.record.artifacts.masks)
        masks = {name: mask.bool() for name, mask in load_tensors(path).items()}
        if packed_masks(masks) != self.record.structure.masks:
            raise RunFailed(f"{path}: the stored masks are not the recorded ones")
        return masks

    def check_latency(self) -> str:
        """Choose again what meets the budget of milliseconds; raises AssertionError where that is something else."""
        record, choice = self.record, self._latency_choice()
        found = record.latency
        assert found is not None and choice is not None
        scores = load_tensors(self._artifact(record.artifacts.scores)) if record.artifacts.scores else {}
        measured = {tuple(one.vector): Measured(one.ms, one.dense_ms, one.low, one.high) for one in found.rounds}
        masks = choice.again(scores, found.ranking, measured)
        vectors = [list(one.vector) for one in choice.rounds]
        assert vectors == [one.vector for one in found.rounds], "the rounds lead to other widths"
        stored = self.masks()
        assert all(torch.equal(mask, stored[name]) for name, mask in masks.items()), "the scores keep other units"
        return f"{plural(len(vectors), 'round')}, {choice.asked.of(choice.rounds[-1].measured):.3f} of what was asked"

    def _latency_choice(self) -> LatencyChoice | None:
        """What met a budget of milliseconds; None for another budget."""
        spec, structure = self.record.spec, self.record.structure
        if spec.budget is None or not spec.budget.of_latency:
            return None
        network, sites = self.parts()
        model = self.model().exempting(structure.exempt or ())
        dense = DenseNetwork(spec.arch, structure.arch_sha256, network, sites, model, self.layout)
        return choice_of(dense, spec.budget, spec.unit_kinds, self.out, model)

    def network(self, which: str) -> nn.Module:
        """One of ``NETWORKS``."""
        return self.final() if which == "final" else self.dense()

    def final(self) -> nn.Module:
        """The network at the end of the run, sliced."""
        file = self.record.artifacts.network
        path = self._artifact(file)
        _require_hash(path, given(file).sha256)
        network, sites = self.parts()
        return _filled(sites.slice(network, self.masks()), path)

    def dense(self) -> nn.Module:
        """The base of the run: the whole network, trained."""
        base = self.record.training.base
        path = _present(bases.paths(self.out, base.id)[0])
        _require_hash(path, base.sha256)
        return _filled(copied(self.parts()[0]), path)

    def shaped(self, which: str) -> nn.Module:
        """One of ``NETWORKS`` with the recorded widths and weights that mean nothing; needs no file of the run."""
        network, sites = self.parts()
        return copied(network) if which == "dense" else sites.slice(network, self.any_masks())

    def any_masks(self) -> dict[str, Tensor]:
        """Site -> boolean mask with the recorded blocks and as many units as are recorded; needs no file of the run."""
        structure, sites = self.record.structure, self.parts()[1]
        blocks = {name: as_mask(text) for name, text in (structure.blocks or {}).items()}
        of_blocks = {name: len(site.blocks) for name, site in sites.items() if site.blocks}
        if sites.widths != {name: before for name, (before, _) in structure.widths.items()} or (
            of_blocks != {name: len(mask) for name, mask in blocks.items()}
        ):
            raise RunFailed("the network has other sites here than in the record")
        masks = {name: torch.arange(before) < after for name, (before, after) in structure.widths.items()} | blocks
        empty = {name for name, mask in masks.items() if not mask.any() and name not in blocks}
        if sites.absent(masks) != empty:
            raise RunFailed("structure: not the sites inside of removed blocks have 0 units left")
        return masks

    def test_images(self, data_dir: Path) -> ImageSet:
        """The test images of the run, with the constants of its training images that normalise them."""
        return self.images(data_dir)[1]

    def images(self, data_dir: Path) -> tuple[ImageSet, ImageSet]:
        """The training images of the run, without those it held back, and its test images."""
        spec, facts = self.record.spec, self.record.data
        name, cache = spec.dataset, self.out / "cache"
        try:
            found = find(name, data_dir, cache).for_seed(spec.seed)
            training = load_training(found, data_dir, False, spec.seed, torch.device("cpu"), cache)
            test, digest = load_test(found, data_dir, training.train, cache)
        except (SetupError, UsageError) as error:
            raise NotAvailable(str(error)) from error
        for part, sha256 in (("train", training.facts["train_sha256"]), ("test", digest)):
            if sha256 != getattr(facts, f"{part}_sha256"):
                raise RunFailed(f"data set '{name}' in {data_dir} has other {part} images than the record")
        return training.train.laid_out(self.layout), test.laid_out(self.layout)

    def test_labels(self, data_dir: Path) -> Tensor:
        """Labels of the test images of the run, int64 ``[N]``."""
        spec, expected = self.record.spec, self.record.data.test_sha256
        try:
            found = find(spec.dataset, data_dir, self.out / "cache").for_seed(spec.seed)
            labels, sha256 = _test_labels(found, data_dir, self.out / "cache")
        except (SetupError, UsageError) as error:
            raise NotAvailable(str(error)) from error
        if sha256 != expected:
            raise RunFailed(f"data set '{spec.dataset}' in {data_dir} has other test images than the record")
        return labels

    def data_facts(self, data_dir: Path) -> dict[str, Any]:
        """What a record says of its data set, computed again from the data."""
        spec = self.record.spec
        try:
            return _data_facts(spec.dataset, spec.seed, data_dir, self.out / "cache")
        except (SetupError, UsageError) as error:
            raise NotAvailable(str(error)) from error

    def plan(self) -> tuple[list[Any], str]:
        """The plan of the method, each phase as epochs, part and rewind, and what it starts from."""
        spec = self.record.spec
        for name in spec.method.split("+"):
            _require_known(METHODS, name)
        network, sites = self.parts()
        own, cpu, no_data = copied(network), torch.device("cpu"), cast("TrainingData", None)  # plans need none
        masked = MaskedModel(own, sites.bind(own), self.model(), cpu, self.record.training.precision)
        method = make_method(spec.method, spec.config)
        ctx = Context(masked, no_data, spec.recipe, spec.budget, spec.seed)
        ctx._latency = self._latency_choice()
        plan = method.plan(ctx)
        steps = [(step.epochs, step.part, step.rewind) if isinstance(step, Phase) else "prune" for step in plan]
        return steps, method.starts_from

    def image_size(self, data_dir: Path) -> str:
        """How an image came to the size that the networks take."""
        _, height, width = self.shape
        shorter = find(self.record.spec.dataset, data_dir, self.out / "cache").shorter
        if shorter is None:
            return f"{height}x{width}, as the files are"
        return f"{height}x{width}: shorter side resized to {shorter} (bilinear, antialiased), then the centre cut out"

    def _artifact(self, file: File | None) -> Path:
        if file is None:
            raise NotAvailable(f"the record of {self.record.id} names no such file")
        return _present(self.out / "artifacts" / self.record.id / file.file)


@functools.lru_cache(maxsize=8)  # many records have one test part
def _test_labels(dataset: Dataset, data_dir: Path, cache: Path) -> tuple[Tensor, str]:
    return labels_of_test(dataset, data_dir, cache)


@functools.lru_cache(maxsize=4)
def _built(arch: str, situation: Situation) -> tuple[nn.Module, Fit]:
    network = build(arch, situation.shape, situation.classes, 0)
    return network, fit(arch, network, situation)


@functools.lru_cache(maxsize=32)
def _data_facts(name: str, seed: int, data_dir: Path, cache: Path) -> dict[str, Any]:
    found = find(name, data_dir, cache).for_seed(seed)
    training = load_training(found, data_dir, False, seed, torch.device("cpu"), cache)
    test, digest = load_test(found, data_dir, training.train, cache)
    return training.facts | {"test": len(test), "test_sha256": digest}


@functools.lru_cache(maxsize=4)
def _dense_cost(arch: str, shape: Shape, classes: int) -> tuple[int, int]:
    network = build(arch, shape, classes, 0)
    return flops.count(network, shape).total, flops.parameters(network)


def _require_known(registry: Registry, name: str) -> None:
    try:
        registry.require(name)
    except UsageError as error:
        raise NotAvailable(f"{registry.noun} '{name}' is not known here; give its file with --plugin") from error


def _present(path: Path) -> Path:
    if not path.is_file():
        raise NotAvailable(f"{path} is not here; give the folder that the run wrote to with --out")
    return path


def _require_hash(path: Path, sha256: str) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise RunFailed(f"{path}: the file is not the recorded one")


def _filled(network: nn.Module, path: Path) -> nn.Module:
    try:
        network.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise RunFailed(f"{path} does not fit the network of its record: {error}") from error
    return network
