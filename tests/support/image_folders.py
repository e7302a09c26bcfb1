"""Small folders of images, written by tests."""

import io

import numpy as np
from PIL import Image

import bench.data.loading

CLASSES = ("cat", "dog", "newt")


def pixels(seed, size=(8, 8), channels=3):
    """Noise around a brightness, uint8 ``[H, W, C]`` (``[H, W]`` for one channel) for a size of width, height."""
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return (rng.integers(60, 190) + rng.integers(-50, 51, shape)).clip(0, 255).astype(np.uint8)


def save(path, seed=0, size=(8, 8), channels=3, **how):
    """Write a picture whose content depends on ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size, channels)).save(path, **how)
    return path


def encoded(form, seed=0, size=(8, 8), channels=3):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, size, channels)).save(buffer, form)
    return buffer.getvalue()


def write_folder(root, classes=CLASSES, train=10, test=4, size=(8, 8), channels=3, parts=("train", "test"), end="png"):
    """``train`` and ``test`` pictures a class, none like another."""
    for part, count in zip(parts, (train, test), strict=True):
        for label, name in enumerate(classes):
            for k in range(count):
                seed = 10_000 * (part == parts[0]) + 1000 * label + k
                save(root / part / name / f"{k:03d}.{end}", seed, size, channels)
    return root


def resolved(folder, size=None):
    """Name and folder of data sets."""
    return bench.data.loading.resolve(f"folder:{folder}" + (f"@{size}" if size else ""), folder)
