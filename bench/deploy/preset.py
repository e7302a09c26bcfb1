"""What ``bench prune`` does besides a run and its export: look at the network that it is given, and save the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.image_set import ImageSet
from bench.data.loading import find, load_training
from bench.deploy import saved_file
from bench.deploy.known import known_from
from bench.measure.accuracy import logits_of, quality
from bench.measure.environment import pick_device
from bench.models.build import build
from bench.models.memory_format import place
from bench.progress import Progress
from bench.runs.artifacts import RunArtifacts
from bench.runs.network_trial import BATCH, Situation
from bench.runs.preflight import fit
from bench.spec.registry import ARCHS
from bench.spec.request import RunOptions
from bench.spec.spec import Spec

MARGIN = 0.02
"""A network whose accuracy is no further above guessing has to be trained first; of few images, two deviations."""

WEIGHTS_AFTER = {"torchvision": ":", "timm": "."}
"""Prefix of a network -> what is between its name and that of its weights."""


@dataclass(frozen=True)
class Seen:
    """A network before anything is trained, on the validation images.

    Attributes:
        top1: share of the images.
        guess: share of the largest class.
        images: how many there are.
        images_as: their size, and how they are normalised, as a clause.
    """

    top1: float
    guess: float
    images: int
    images_as: str = ""

    @property
    def trained(self) -> bool:
        """Whether it knows the images."""
        deviation = math.sqrt(self.guess * (1 - self.guess) / self.images)
        return self.top1 >= self.guess + max(MARGIN, 2 * deviation)


def as_given(spec: Spec, options: RunOptions) -> Seen:
    """How good the network of a run is before anything is trained; raises UsageError where it cannot be run."""
    cache, progress = options.out / "cache", Progress(spec.dataset, quiet=True)
    facts = find(spec.dataset, options.data_dir, cache, progress).for_seed(spec.seed)
    device = pick_device(options.device)
    network = build(spec.arch, facts.shape, facts.classes, spec.seed, options.download)
    data = load_training(facts, options.data_dir, options.download, spec.seed, device, cache, progress)
    situation = Situation(
        *(facts.shape, facts.classes, spec.coupling, spec.recipe, device, spec.recipe.precision, spec.unit_kinds)
    )
    fit(spec.arch, network, situation, data.val.first(BATCH))  # as the run does, which finds it known
    labels = data.val.labels
    found = quality(logits_of(place(network, device), data.val), labels)
    images_as = f"images of {'x'.join(map(str, facts.shape))} are normalised with {_normal(data.val)}"
    return Seen(float(found["top1"]), float(labels.bincount().max() / len(labels)), len(labels), images_as)


def random_weights(arch: str) -> bool:
    """Whether a network has no trained weights for certain; of a user's own nobody knows."""
    prefix, _, rest = arch.partition(":")
    if prefix in WEIGHTS_AFTER:
        return WEIGHTS_AFTER[prefix] not in rest
    entry = ARCHS.entries().get(arch)
    return entry is not None and entry.origin.startswith("bench/models")


def normalisation(stored: RunArtifacts, data_dir: Path) -> str:
    """Mean and deviation of the images of a run, for pixels in 0..1, as a clause."""
    return _normal(stored.test_images(data_dir))


def _normal(images: ImageSet) -> str:
    mean, std = (
        ", ".join(f"{value / 255:.4f}" for value in values.flatten().tolist()) for values in (images.mean, images.std)
    )
    return f"mean {mean} and std {std} of pixels in 0..1"


def save(stored: RunArtifacts, path: Path) -> None:
    """Write the final network of a run as a file of :meth:`bench.PrunedNetwork.save`.

    Raises SetupError where a file of the run is missing or this one cannot be written, RunFailed where one is damaged.
    """
    known = known_from(*stored.parts(), stored.model(), {}, stored.shape)
    saved_file.save(path, stored.final().eval(), known.cut(stored.masks()), facts_of(stored))


def facts_of(stored: RunArtifacts) -> dict[str, Any]:
    """What the file says of the network."""
    record = stored.record
    spec = record.spec
    return {
        "record": record.id,
        "record_sha256": record.record_sha256,
        "arch": spec.arch,
        "dataset": spec.dataset,
        "method": {"name": spec.method, "options": dict(spec.config), "seed": spec.seed},
        "widths": {site: list(pair) for site, pair in record.structure.widths.items()},
        "masks": record.structure.masks,
        "coupling": spec.coupling,
        "shape": list(stored.shape),
        "top1": record.metrics.final.top1,
    }
