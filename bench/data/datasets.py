"""The registered data sets. Libraries that read them are imported inside the functions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench.data.image_files import Files, class_folders
from bench.data.loading import Raw, dataset
from bench.errors import SetupError
from bench.spec.known_images import CIFAR10_JPEG75

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels that everybody uses (torchvision's reference training)."""
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
"""Address and md5."""


@dataset(
    "digits",
    shape=(1, 8, 8),
    classes=10,
    sizes=(1433, 364),
    sha256=("0600f7f9f1568f62665297a11e09a9c031f0dcb7807cc941c0b8786acbb2bcb5",),
    folds=5,
)
def digits(part: str, folder: Path, download: bool) -> Raw:
    """1,797 handwritten digits, 8x8 grey, from scikit-learn (UCI optdigits); every fifth of a class is a test image.

    The data set has no official test part, so the fifths take turns, by seed.
    """
    package = find_spec("sklearn")
    file = Path((package and package.origin) or "").with_name("datasets") / "data" / "digits.csv.gz"
    if file.is_file():  # importing scikit-learn takes a second
        raw = np.loadtxt(file, delimiter=",")
        images, labels = raw[:, :-1].reshape(-1, 8, 8), raw[:, -1].astype(int)
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8)
    return (images * (255 / 16)).round().astype(np.uint8), labels


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
@dataset(
    "fashion_mnist",
    shape=(1, 28, 28),
    classes=10,
    sizes=(60_000, 10_000),
    sha256=(
        "1f243a60b4b748a44c48b9a6f6907be2a08bee3e4e226f0e86fbde8e147b745a",
        "9a494dc49efeb996f4076c469b31cd058152067b1594ba6ab85dd739fce3775e",
    ),
    source="FashionMNIST",
)
@dataset("kmnist", shape=(1, 28, 28), classes=10, sizes=(60_000, 10_000), recipe="mnist", source="KMNIST")
@dataset("cifar10", shape=(3, 32, 32), classes=10, sizes=(50_000, 10_000), recipe="cifar", source="CIFAR10")
@dataset("cifar100", shape=(3, 32, 32), classes=100, sizes=(50_000, 10_000), recipe="cifar", source="CIFAR100")
def from_torchvision(part: str, folder: Path, download: bool, source: str) -> Raw:
    """An image classification set in torchvision's folder layout; --download fetches it and checks its hashes."""
    from torchvision import datasets

    loader = getattr(datasets, source)
    try:
        loaded = loader(str(folder), train=part == "train", download=download)
    except (OSError, RuntimeError) as error:
        if download:
            raise _not_fetched(source, folder, error) from error
        if isinstance(error, OSError) or "download" not in str(error):
            raise
        raise _absent(source, folder) from error
    return np.asarray(loaded.data), np.asarray(loaded.targets)


@dataset(
    "cifar10_jpeg75",
    shape=(3, 32, 32),
    classes=10,
    sizes=(50_000, 10_000),
    sha256=CIFAR10_JPEG75,
    by_files=True,
    recipe="cifar",
)
def cifar10_jpeg75(part: str, folder: Path, download: bool) -> Files:
    """CIFAR-10 as JPEG files of quality 75, which is another data set; no numbers published for CIFAR-10 hold on it."""
    root = folder / "cifar10_jpeg75"
    if not root.is_dir():
        raise SetupError(
            f"data set cifar10_jpeg75 is not in {folder} and is not downloaded by a program: docs/data_and_recipes.md "
            f"says where it is; place its images as {root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg"
        )
    return class_folders(root, part)[0]


@dataset("flowers102", shape=(3, 224, 224), classes=102, sizes=(2040, 6149))
def flowers102(part: str, folder: Path, download: bool) -> Files:
    """8,189 photographs of 102 kinds of flowers (Oxford); both official training parts are for training."""
    from torchvision.datasets import Flowers102

    if download:
        _fetch("flowers102", folder, "flowers-102", lambda place: Flowers102(place, download=True))
    found = []
    try:
        for split in ("train", "val") if part == "train" else ("test",):
            images = Flowers102(folder, split, loader=str)  # its "images" are their paths
            found += [images[k] for k in range(len(images))]
    except RuntimeError as error:
        raise _absent("flowers102", folder) from error
    found.sort(key=lambda pair: (pair[1], pair[0]))
    root = folder / "flowers-102"
    return Files.of(root, [os.path.relpath(path, root) for path, _ in found], [label for _, label in found])


@dataset("tiny_imagenet", shape=(3, 64, 64), classes=200, sizes=(100_000, 10_000))
def tiny_imagenet(part: str, folder: Path, download: bool) -> Files:
    """200 classes of ImageNet at 64x64 pixels; the official validation part is the test part."""
    from torchvision.datasets.utils import download_and_extract_archive

    root = folder / "tiny-imagenet-200"
    if download:
        address, md5 = TINY_IMAGENET
        _fetch("tiny_imagenet", folder, root.name, lambda place: download_and_extract_archive(address, place, md5=md5))
    if not root.is_dir():
        raise _absent("tiny_imagenet", folder)
    train, classes = class_folders(root, "train", inside="images")
    if part == "train":
        return train
    labels = {name: label for label, name in enumerate(classes)}
    notes = root / "val" / "val_annotations.txt"
    try:
        rows = [line.split("\t") for line in notes.read_text(encoding="utf-8").splitlines()]
        found = sorted((labels[row[1]], f"val/images/{row[0]}") for row in rows)
    except (OSError, ValueError, LookupError) as error:
        raise SetupError(
            f"{notes}: not a list of file, class, box as published ({type(error).__name__}: {error}); "
            "delete the data set's folder and run again with --download"
        ) from error
    return Files.of(root, [name for _, name in found], [label for label, _ in found])


@dataset("imagenette", shape=(3, 160, 160), classes=10, sizes=(9469, 3925))
def imagenette(part: str, folder: Path, download: bool) -> Files:
    """Ten dissimilar classes of ImageNet (fastai), shorter side 160 pixels; test part: official validation part."""
    from torchvision.datasets import Imagenette

    root = folder / "imagenette2-160"
    if download:
        _fetch("imagenette", folder, root.name, lambda place: Imagenette(place, size="160px", download=True))
    if not root.is_dir():
        raise _absent("imagenette", folder)
    return class_folders(root, "train" if part == "train" else "val")[0]


@dataset("imagenet", shape=(3, 224, 224), classes=1000, sizes=(1_281_167, 50_000), normal=IMAGENET)
def imagenet(part: str, folder: Path, download: bool) -> Files:
    """ILSVRC2012, 1000 classes, streamed; test part: official validation part. Its licence forbids a download here."""
    root = folder / "imagenet"
    if not root.is_dir():
        raise SetupError(
            f"data set imagenet is not in {folder} and cannot be downloaded: get ILSVRC2012 from image-net.org and "
            f"place its images as {root}/train/nXXXXXXXX/*.JPEG (1,281,167) and {root}/val/nXXXXXXXX/*.JPEG (50,000), "
            "one folder for each of the 1000 classes, or give their place with --data-dir"
        )
    return class_folders(root, "train" if part == "train" else "val")[0]


@dataset("synthetic", shape=(3, 32, 32), classes=10, sizes=(1280, 320))
def synthetic(part: str, folder: Path, download: bool) -> Raw:
    """Ten blurred colour patterns under noise, 32x32: for tests and timing at CIFAR's shape, not for results."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(64, 192, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    rng = np.random.default_rng(1 if part == "train" else 2)
    labels = np.arange(1280 if part == "train" else 320) % 10
    images = patterns[labels] + rng.normal(0, 48, (len(labels), 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels


def _absent(name: str, folder: Path) -> SetupError:
    return SetupError(
        f"data set {name} is not in {folder} (or its files fail their checksum): "
        "run again with --download, or give its place with --data-dir"
    )


def _fetch(name: str, folder: Path, target: str, download: Callable[[Path], object]) -> None:
    """Create ``folder/target`` by ``download(place)`` unless it exists; after an error it does not exist."""
    if (folder / target).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
            download(Path(place))
            os.replace(Path(place) / target, folder / target)
    except Exception as error:  # whatever network, disk and archive may raise
        raise _not_fetched(name, folder, error) from error


def _not_fetched(name: str, folder: Path, error: Exception) -> SetupError:
    return SetupError(
        f"data set {name} could not be downloaded to {folder} ({type(error).__name__}: {error}): "
        "nothing that is not whole is used; run again with --download, or place its files there"
    )
