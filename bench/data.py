"""Data sets: whole, as uint8 tensors, on the device; augmented there in batches; no worker processes.

Training and test images are loaded by two calls, so that a method, which runs before the second one is made,
cannot reach the test set.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import SetupError
from bench.registry import DATASETS

VALIDATION_SHARE = 0.1
Raw = tuple[np.ndarray, np.ndarray]
"""Images ``[N, H, W]`` or ``[N, H, W, C]``, uint8, and labels ``[N]``."""


@dataclass(frozen=True)
class Dataset:
    """A registered data set: its facts, and how to load one of its parts."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int]
    load: Callable[[str, Path, bool], Raw]
    sha256: tuple[str, str] | None


def dataset(
    name: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    sizes: tuple[int, int],
    sha256: tuple[str, str] | None = None,
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Register ``loader(part, folder, download, **options) -> Raw`` as ``name``.

    Args:
        name: on the command line.
        shape: channels, height, width.
        classes: number of classes.
        sizes: number of training (validation included) and test images; checked after loading.
        sha256: hashes of pixels and labels of both parts where known; checked after loading.
        options: passed on, so that one loader can serve several names.
    """

    def decorate(loader: Callable) -> Callable:
        def load(part: str, folder: Path, download: bool) -> Raw:
            return loader(part, folder, download, **options)

        code = inspect.unwrap(loader).__code__
        origin = f"{code.co_filename}:{code.co_firstlineno} ({name})"
        DATASETS.register(name, Dataset(name, shape, classes, sizes, load, sha256), origin)
        return loader

    return decorate


@dataclass(frozen=True)
class Images:
    """Images of one split on the device, with the constants that normalise them."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    mean: Tensor  # float32 [1, C, 1, 1]
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Float32, zero mean and unit deviation per channel over the training images, channels-last."""
        scaled = (pixels.float() - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    def batches(
        self,
        size: int,
        generator: torch.Generator | None = None,
        augment: str = "none",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches; shuffled and augmented when a generator is given.

        Yields:
            images float32 ``[B, C, H, W]`` and labels int64 ``[B]``; the last batch is smaller unless ``drop_last``.
        """
        device = self.labels.device
        order = (
            torch.randperm(len(self), generator=generator, device=device)
            if generator
            else torch.arange(len(self), device=device)
        )
        stop = len(self) - len(self) % size if drop_last and len(self) > size else len(self)
        for start in range(0, stop, size):
            index = order[start : min(start + size, stop)]
            pixels = self.pixels[index]
            if generator:
                pixels = augmented(pixels, augment, generator)
            yield self.normalised(pixels), self.labels[index]


@dataclass(frozen=True)
class TrainingData:
    """What a method may see: training and validation images. There is no test split in here."""

    train: Images
    val: Images
    facts: dict[str, Any]


def augmented(pixels: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Random crops (and flips) of ``pixels [B, C, H, W]``, one per image, as batched tensor operations.

    ``crop_flip`` pads by an eighth of the height (4 at 32 pixels), crops and mirrors; ``shift`` pads and crops
    without mirroring, for images that mean something else when mirrored; ``none`` does nothing.
    """
    if how == "none":
        return pixels
    n, _, height, width = pixels.shape
    device, pad = pixels.device, max(1, height // 8)
    padded = F.pad(pixels, (pad, pad, pad, pad))

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=device)

    rows = draw(2 * pad + 1) + torch.arange(height, device=device)
    columns = draw(2 * pad + 1) + torch.arange(width, device=device)
    if how == "crop_flip":
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    which = torch.arange(n, device=device)[:, None, None]
    # Indexing around the channel slice moves the channels last, which is the layout wanted anyway.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def load_training(name: str, folder: Path, download: bool, seed: int, device: torch.device) -> TrainingData:
    """Training and validation images of data set ``name``; the split depends on ``seed`` only.

    Raises SetupError when the files are not there, or not what they should be.
    """
    pixels, labels = _load(name, "train", folder, download)
    mean = pixels.double().mean(dim=(0, 2, 3), keepdim=True)
    std = pixels.double().std(dim=(0, 2, 3), keepdim=True)
    held = validation_split(labels, seed)

    def part(chosen: Tensor) -> Images:
        return Images(
            pixels[chosen].to(device),
            labels[chosen].to(device),
            mean.float().to(device),
            std.float().to(device),
        )

    train, val = part(~held), part(held)
    facts = {
        "train": len(train),
        "val": len(val),
        "test": DATASETS.get(name).sizes[1],
        "train_sha256": _digest(pixels, labels),
        "split_sha256": _digest(held),
    }
    return TrainingData(train, val, facts)


def load_test(name: str, folder: Path, like: Images) -> tuple[Images, str]:
    """The test images of ``name``, normalised like the training images ``like``; and their hash."""
    pixels, labels = _load(name, "test", folder, download=False)
    device = like.labels.device
    return Images(pixels.to(device), labels.to(device), like.mean, like.std), _digest(pixels, labels)


def validation_split(labels: Tensor, seed: int) -> Tensor:
    """Bool ``[N]``: the tenth of each class that is held out for validation under ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        held[shuffled[: max(1, round(VALIDATION_SHARE * len(members)))]] = True
    return held


def _load(name: str, part: str, folder: Path, download: bool) -> tuple[Tensor, Tensor]:
    facts: Dataset = DATASETS.get(name)

    def damaged(why: str) -> SetupError:
        return SetupError(
            f"data set '{name}' in {folder} is damaged: {why}; delete its folder and run again with --download"
        )

    try:
        images, labels = facts.load(part, folder, download)
    except SetupError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise damaged(f"{type(error).__name__}: {error}") from error
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    expected = (facts.sizes[part == "test"], *facts.shape)
    if tuple(pixels.shape) != expected or len(target) != len(pixels):
        raise damaged(f"{part} images are {list(pixels.shape)} with {len(target)} labels, not {list(expected)}")
    if target.unique().tolist() != list(range(facts.classes)):
        raise damaged(f"{part} labels are not 0..{facts.classes - 1}")
    if facts.sha256 and _digest(pixels, target) != facts.sha256[part == "test"]:
        raise damaged(f"{part} images are not the published ones (sha256 differs)")
    return pixels.contiguous(), target


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataset(
    "digits",
    shape=(1, 8, 8),
    classes=10,
    sizes=(1442, 355),
    sha256=(
        "7fa69e063a1f915ea22d195060e9cf48f5dcaf611a34b52dbac72bbd09d7c510",
        "c828ed8d66d4999368244a654a4bd17850508763dc9ee33f20f139ab0bb00a7d",
    ),
)
def digits(part: str, folder: Path, download: bool) -> Raw:
    """1,797 handwritten digits, 8x8 grey, from scikit-learn (UCI optdigits); every fifth of each class tests."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images, labels = (raw.images * (255 / 16)).round().astype(np.uint8), raw.target
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    # The data set has no official test part, so this rule is fixed for every seed.
    picked = (rank % 5 == 4) == (part == "test")
    return images[picked], labels[picked]


@dataset(
    "mnist",
    shape=(1, 28, 28),
    classes=10,
    sizes=(60_000, 10_000),
    sha256=(
        "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
        "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
    ),
    source="MNIST",
)
@dataset("fashion_mnist", shape=(1, 28, 28), classes=10, sizes=(60_000, 10_000), source="FashionMNIST")
@dataset("kmnist", shape=(1, 28, 28), classes=10, sizes=(60_000, 10_000), source="KMNIST")
@dataset("cifar10", shape=(3, 32, 32), classes=10, sizes=(50_000, 10_000), source="CIFAR10")
@dataset("cifar100", shape=(3, 32, 32), classes=100, sizes=(50_000, 10_000), source="CIFAR100")
def from_torchvision(part: str, folder: Path, download: bool, source: str) -> Raw:
    """An image classification set in torchvision's folder layout; --download fetches it and checks its hashes."""
    from torchvision import datasets

    loader = getattr(datasets, source)
    try:
        loaded = loader(str(folder), train=part == "train", download=download)
    except RuntimeError as error:
        if download or "download" not in str(error):
            raise
        raise SetupError(
            f"data set {source} is not in {folder} (or its files fail their checksum): "
            "run again with --download, or give its place with --data-dir"
        ) from error
    return np.asarray(loaded.data), np.asarray(loaded.targets)


@dataset("synthetic", shape=(3, 32, 32), classes=10, sizes=(1280, 320))
def synthetic(part: str, folder: Path, download: bool) -> Raw:
    """Ten blurred colour patterns under noise, 32x32: for tests and timing at CIFAR's shape, not for results."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(64, 192, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    rng = np.random.default_rng(1 if part == "train" else 2)
    labels = np.arange(1280 if part == "train" else 320) % 10
    images = patterns[labels] + rng.normal(0, 48, (len(labels), 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels
