"""What ``bench prune`` does besides a run and its export: look at the network that it is given, and save the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.data.loading import find, load_training
from bench.deploy import saved_file
from bench.deploy.known import known_from
from bench.measure.accuracy import logits_of, quality
from bench.measure.environment import pick_device
from bench.models.build import build
from bench.models.memory_format import place
from bench.progress import Progress
from bench.runs.artifacts import RunArtifacts
from bench.spec.request import RunOptions
from bench.spec.spec import Spec

MARGIN = 0.02
"""A network whose accuracy is no further above guessing has to be trained first."""


def as_given(spec: Spec, options: RunOptions) -> tuple[float, float]:
    """Top-1 on the validation images of the network of a run before anything is trained, and that of guessing."""
    cache, progress = options.out / "cache", Progress(spec.dataset, quiet=True)
    facts = find(spec.dataset, options.data_dir, cache, progress).for_seed(spec.seed)
    device = pick_device(options.device)
    network = build(spec.arch, facts.shape, facts.classes, spec.seed, options.download)
    data = load_training(facts, options.data_dir, options.download, spec.seed, device, cache, progress)
    labels = data.val.labels
    found = quality(logits_of(place(network, device), data.val), labels)
    return float(found["top1"]), float(labels.bincount().max() / len(labels))


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
