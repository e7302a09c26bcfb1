"""Loading data sets: small ones as uint8 tensors in device memory, large ones decoded on demand.

Training and test images are loaded by two calls, so that a method, which runs before the second one is made,
cannot reach the test set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.cache import Cache
from bench.data.duplicates import require_one_class_each
from bench.data.file_hashes import labelled
from bench.data.image_files import DECODING, Files, inspected
from bench.data.image_folder import PREFIX, find_folder, resolve
from bench.data.image_set import Images, ImageSet, moments
from bench.data.image_stream import Stream, decode_all, workers_for
from bench.data.registration import Dataset, Raw, dataset, fold_of_each
from bench.errors import SetupError
from bench.progress import Progress
from bench.spec.registry import DATASETS

__all__ = [
    "Dataset",
    "ImageSet",
    "Images",
    "Raw",
    "Stream",
    "TrainingData",
    "dataset",
    "find",
    "load_test",
    "load_training",
    "resolve",
    "validation_split",
]

VALIDATION_SHARE = 0.1
SAMPLE = 2000
"""Training images of a streamed data set from which its mean and deviation are estimated."""
SILENT = Progress("", quiet=True)


@dataclass(frozen=True)
class TrainingData:
    """What a method may see: training and validation images. There is no test split in here."""

    train: ImageSet
    val: ImageSet
    facts: dict[str, Any]

    def laid_out(self, layout: str) -> TrainingData:
        """The same images in batches of a memory format."""
        return TrainingData(self.train.laid_out(layout), self.val.laid_out(layout), self.facts)


def find(name: str, data_dir: Path, cache: Path | None = None, progress: Progress = SILENT) -> Dataset:
    """The facts of the data set ``name``: a registered one, or ``folder:NAME`` in ``data_dir``.

    Args:
        name: on the command line, or in a record.
        data_dir: data sets.
        cache: folder of the cache; None: nothing is cached.
        progress: where to report.

    Raises UsageError for an unknown name, SetupError for a folder that is not what its name says, and for one class.
    """
    found = find_folder(name, data_dir, Cache(cache), progress) if name.startswith(PREFIX) else DATASETS.get(name)
    if found.classes < 2:
        raise SetupError(
            f"data set '{name}' has one class: every prediction would be right; it needs two classes at least"
        )
    return found


def load_training(
    what: str | Dataset,
    folder: Path,
    download: bool,
    seed: int,
    device: torch.device,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> TrainingData:
    """Training and validation images of a data set, by name or as found; the split depends on ``seed`` only.

    All files are checked, those of the test part too, of which nothing is kept. ``cache`` and ``progress`` as for
    :func:`find`. Raises SetupError when the files are not there, or not what they should be.
    """
    facts = (what if isinstance(what, Dataset) else find(what, folder, cache, progress)).for_seed(seed)
    loading = _Loading(facts, folder, download, Cache(cache), progress)
    loaded = loading.read("train")
    source, labels, digest = loading.checked("train", loaded)
    loading.require_two_each(loaded, labels)
    if isinstance(loaded, Files):
        loading.checked("test", loading.read("test"))
    mean, std = loading.constants(source)
    held = validation_split(labels, seed)
    train, val = (loading.images(source, labels, chosen, mean, std, device) for chosen in (~held, held))
    described = {
        "train": len(train),
        "val": len(val),
        "test": sum(facts.sizes) - len(labels),
        "shape": list(facts.shape),
        "classes": facts.classes,
        "train_sha256": digest,
        "split_sha256": _digest(held),
        **loading.facts_of_fold(loaded),
    }
    return TrainingData(train, val, described)


def load_test(
    what: str | Dataset, folder: Path, like: ImageSet, cache: Path | None = None, progress: Progress = SILENT
) -> tuple[ImageSet, str]:
    """The test images of a data set, normalised like the training images ``like``, and their hash.

    Of a data set with folds ``what`` is what :meth:`Dataset.for_seed` returns.
    """
    facts = what if isinstance(what, Dataset) else find(what, folder, cache, progress)
    loading = _Loading(facts, folder, False, Cache(cache), progress)
    source, labels, digest = loading.checked("test", loading.read("test"))
    everything = torch.ones(len(labels), dtype=torch.bool)
    images = loading.images(source, labels, everything, like.mean, like.std, like.labels.device)
    return images.laid_out(like.layout), digest


def labels_of_test(what: Dataset, folder: Path, cache: Path | None = None) -> tuple[Tensor, str]:
    """Labels of the test images, int64 ``[N]`` on the CPU, and the hash of both."""
    loading = _Loading(what, folder, False, Cache(cache), SILENT)
    _, labels, digest = loading.checked("test", loading.read("test"))
    return labels, digest


def validation_split(labels: Tensor, seed: int) -> Tensor:
    """Bool ``[N]``: the tenth of each class that is held out for validation under ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        held[shuffled[: max(1, round(VALIDATION_SHARE * len(members)))]] = True
    return held


@dataclass(frozen=True)
class _Loading:
    """Loads one data set: from files or arrays to sets of images."""

    facts: Dataset
    folder: Path
    download: bool
    cache: Cache
    progress: Progress

    def read(self, part: str) -> Raw | Files:
        """What the data set's loader returns for a part, unchecked."""
        try:
            return self.facts.load("all" if self.facts.folds else part, self.folder, self.download)
        except SetupError:
            raise
        except Exception as error:  # whatever a damaged file makes its reader raise
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def checked(self, part: str, loaded: Raw | Files) -> tuple[Tensor | Files, Tensor, str]:
        """Images (uint8 ``[N, C, H, W]``, or files to stream), labels int64 ``[N]``, and their hash."""
        facts = self.facts
        if facts.folds:
            return self._of_fold(part, loaded)
        if isinstance(loaded, Files):
            self._require(part, (len(loaded), *facts.shape), loaded.labels)
            if facts.streamed:
                inspected(loaded, part, self.cache, self.progress)
                return loaded, loaded.labels, loaded.content
            pixels, labels = self._decoded(loaded, part), loaded.labels
        else:
            pixels, labels = self._as_tensors(*map(np.asarray, loaded))
            self._require(part, tuple(pixels.shape), labels)
        known = isinstance(loaded, Files) and facts.by_files and labelled(loaded, part, self.cache)
        digest = known or _digest(pixels, labels)
        if facts.sha256 and digest != facts.sha256[part == "test"]:
            raise self._damaged(f"{part} images are not the published ones (sha256 differs)")
        return pixels, labels, digest

    def _of_fold(self, part: str, loaded: Raw | Files) -> tuple[Tensor, Tensor, str]:
        """What :meth:`checked` returns for a part of a data set with folds, of which all images were ``loaded``."""
        pixels, labels, folds, digest = self._whole(loaded)
        if self.facts.sha256 and digest != self.facts.sha256[0]:
            raise self._damaged("its images are not the published ones (sha256 differs)")
        chosen = (folds == self.facts.fold) == (part == "test")
        self._require_classes(f"{part} labels of fold {self.facts.fold}", labels[chosen])
        return pixels[chosen], labels[chosen], _digest(pixels[chosen], labels[chosen])

    def facts_of_fold(self, loaded: Raw | Files) -> dict[str, Any]:
        """What a record says of the folds: which one tests, and a hash of all images and their folds."""
        return {"fold": self.facts.fold, "folds_sha256": self._whole(loaded)[3]} if self.facts.folds else {}

    def _whole(self, loaded: Raw | Files) -> tuple[Tensor, Tensor, Tensor, str]:
        """All images of a data set with folds, their labels and folds, and the hash of the three."""
        if isinstance(loaded, Files) or self.facts.fold is None:
            why = "folds are of arrays, not of files" if isinstance(loaded, Files) else "no seed says which fold tests"
            raise SetupError(f"data set '{self.facts.name}': {why}")
        pixels, labels = self._as_tensors(*map(np.asarray, loaded))
        self._require("all", tuple(pixels.shape), labels)
        folds = fold_of_each(labels, self.facts.folds)
        return pixels, labels, folds, _digest(pixels, labels, folds)

    def require_two_each(self, loaded: Raw | Files, labels: Tensor) -> None:
        """Raise SetupError for a class with one training image: held out for validation, it would not be trained on."""
        alone = (labels.bincount() < 2).nonzero().flatten().tolist()
        if alone:
            index = int((labels == alone[0]).nonzero())
            what = loaded.path(index) if isinstance(loaded, Files) else f"data set '{self.facts.name}', image {index}"
            more = f" ({len(alone)} of {self.facts.classes} classes have one only)" * (len(alone) > 1)
            raise SetupError(
                f"{what}: the only training image of its class{more}; a class needs two, one of them for validation"
            )

    def images(
        self, source: Tensor | Files, labels: Tensor, chosen: Tensor, mean: Tensor, std: Tensor, device: torch.device
    ) -> ImageSet:
        """The images of a part for which ``chosen``, bool ``[N]``, is true."""
        labels, mean, std = labels[chosen].to(device), mean.to(device), std.to(device)
        if isinstance(source, Tensor):
            return Images(source[chosen].to(device), labels, mean, std)
        facts, files = self.facts, source.take(chosen)
        workers, say = workers_for(device), self.progress.say
        return Stream(files, facts.shape, facts.shorter, labels, mean, std, workers, say)

    def constants(self, source: Tensor | Files) -> tuple[Tensor, Tensor]:
        """Mean and deviation that normalise, float32 ``[1, C, 1, 1]``: published, or of (a sample of) the images."""
        if self.facts.normal:
            mean, std = 255 * torch.tensor(self.facts.normal)
            return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
        return moments(self._sample(source) if isinstance(source, Files) else source)

    def _as_tensors(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise SetupError(
                f"data set '{self.facts.name}': its loader gives images {images.dtype} {list(images.shape)} and labels "
                f"{labels.dtype} {list(labels.shape)}; images are uint8 [N, H, W] or [N, H, W, C], labels integers [N]"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        return pixels.contiguous(), torch.from_numpy(labels.astype(np.int64))

    def _require(self, part: str, shape: tuple[int, ...], labels: Tensor) -> None:
        facts = self.facts
        expected = (sum(facts.sizes) if part == "all" else facts.sizes[part == "test"], *facts.shape)
        if shape != expected or len(labels) != expected[0]:
            raise self._damaged(f"{part} images are {list(shape)} with {len(labels)} labels, not {list(expected)}")
        self._require_classes(f"{part} labels", labels)

    def _require_classes(self, what: str, labels: Tensor) -> None:
        if labels.unique().tolist() != list(range(self.facts.classes)):
            raise self._damaged(f"{what} are not 0..{self.facts.classes - 1}")

    def _damaged(self, why: str) -> SetupError:
        return SetupError(
            f"data set '{self.facts.name}' in {self.folder} is damaged: {why}; "
            "delete its folder and run again with --download"
        )

    def _decoded(self, files: Files, part: str) -> Tensor:
        facts = self.facts
        size = "x".join(map(str, facts.shape))
        entry, key = files.entry(f"{part}-{size}"), f"{files.version} {facts.shorter} {DECODING}"
        kept = self.cache.read(entry, key)
        if kept is not None:
            return kept["pixels"]
        pixels = decode_all(files, facts.shape, facts.shorter, part, self.progress)
        if facts.distinct and not facts.streamed:  # of a sample only some would be found
            require_one_class_each(files, pixels)
        self.cache.write(entry, key, {"pixels": pixels})
        return pixels

    def _sample(self, files: Files) -> Tensor:
        """Some images, the same for every seed, as they are evaluated."""
        chosen = torch.zeros(len(files), dtype=torch.bool)
        chosen[torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[:SAMPLE]] = True
        return self._decoded(files.take(chosen), "sample")


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
