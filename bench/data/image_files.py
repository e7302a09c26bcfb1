"""Image files: listed with their classes, checked without decoding, decoded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from bench.data.cache import Cache
from bench.errors import SetupError
from bench.progress import Progress
from bench.spec.digest import path_component

DECODING = f"2, Pillow {PIL.__version__}"
"""Version of the rules below and of what follows them: files are checked and decoded again under another one."""
MOST_PIXELS = 2**28
"""Of one image; decoded it takes up to 1 GiB. Pillow's own limit is lower and calls a larger image an attack."""
Image.MAX_IMAGE_PIXELS = None
THREADS = 8
"""That check files; they wait for the disk, or the network behind it, most of the time."""
AT_ONCE = 256
"""Files that a thread checks before it reports."""
TAIL = 32
"""Bytes at the end of a file among which its end marker is looked for."""
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
GREY = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""PIL's modes of images without colour: of 1, 8 and 16 bits."""
FULL = 2**16
"""One more than the largest value of 16 bits."""
LEAST_USED = 2**12
"""What the largest value of 16 bits must reach: below it, the upper 8 bits would keep 16 levels at most."""
ORIENTATION = 0x0112
"""EXIF's tag; from 5 on height and width are exchanged."""


@dataclass(frozen=True)
class Files:
    """Image files of one part of a data set.

    Attributes:
        root: the data set's folder.
        names: paths below it, with slashes.
        labels: int64 ``[N]``.
        stats: int64 ``[N, 2]``: size in bytes, time of last change in ns.
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor
    stats: Tensor

    @classmethod
    def of(cls, root: Path, names: Sequence[str], labels: Iterable[int]) -> Files:
        """Files ``names`` below ``root``; raises SetupError for one that is absent or empty."""
        stats = []
        for name in names:
            try:
                found = os.stat(f"{root}/{name}")
            except OSError as error:
                raise SetupError(f"{root}/{name}: {error.strerror}, but the data set names it") from error
            if not found.st_size:
                raise SetupError(f"{root}/{name}: the file is empty; replace or delete it")
            stats.append((found.st_size, found.st_mtime_ns))
        return cls(root, tuple(names), torch.tensor(list(labels)), torch.tensor(stats).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Path of file number ``index``."""
        return f"{self.root}/{self.names[index]}"

    def take(self, chosen: Tensor) -> Files:
        """The files for which ``chosen``, bool ``[N]``, is true."""
        names = tuple(name for name, wanted in zip(self.names, chosen.tolist(), strict=True) if wanted)
        return Files(self.root, names, self.labels[chosen], self.stats[chosen])

    @property
    def content(self) -> str:
        """sha256 over names, labels and sizes in bytes; it does not depend on the place of the folder."""
        return self._digest(self.labels[:, None], self.stats[:, :1])

    @property
    def version(self) -> str:
        """sha256 over names, labels, sizes and times of last change."""
        return self._digest(self.labels[:, None], self.stats)

    def _digest(self, *columns: Tensor) -> str:
        digest = hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape"))
        digest.update(torch.cat(columns, dim=1).numpy().tobytes())
        return digest.hexdigest()

    def entry(self, what: str) -> str:
        """Name of a cache entry about these files; it depends on the place of the folder."""
        place = hashlib.sha256(os.fsencode(os.path.abspath(self.root))).hexdigest()[:8]
        return f"{path_component(self.root.name)}-{place}-{what}"


def class_folders(root: Path, part: str, inside: str = "") -> tuple[Files, list[str]]:
    """Files of ``root/part/CLASS[/inside]`` and the names of the classes, both sorted; hidden ones are skipped.

    Raises SetupError, naming the place, for a part that is missing or empty, a class without images, and for
    anything next to class folders that is not a folder, or in them that is not a file.
    """
    classes = []
    for entry in _visible(f"{root}/{part}"):
        if not entry.is_dir():
            raise SetupError(f"{entry.path}: a file next to the class folders; move it into one, or away")
        classes.append(entry.name)
    if not classes:
        raise SetupError(f"{root}/{part}: no class folders; images belong into {part}/CLASS/")
    names, labels = [], []
    for label, name in enumerate(classes):
        folder = f"{part}/{name}/{inside}".rstrip("/")
        found = _visible(f"{root}/{folder}")
        for entry in found:
            if entry.is_dir():
                raise SetupError(f"{entry.path}: a folder among the images of a class; move its images up, or away")
        if not found:
            raise SetupError(f"{root}/{folder}: a class without images")
        names += [f"{folder}/{entry.name}" for entry in found]
        labels += [label] * len(found)
    return Files.of(root, names, labels), classes


def _visible(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise SetupError(f"{folder}: {error.strerror}; the data set must have this folder") from error


# --- one file ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open the image at ``path``, reading its header only; errors of the block become SetupErrors."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise SetupError(
                    f"{path}: {image.width}x{image.height} pixels, and an image may have {MOST_PIXELS:,}; scale it down"
                )
            yield image
    except (SetupError, KeyboardInterrupt):
        raise
    except MemoryError as error:
        raise SetupError(f"{path}: too little memory to decode it; scale the image down") from error
    except UnidentifiedImageError as error:
        raise SetupError(f"{path}: not an image that Pillow can read; convert, replace or delete it") from error
    except Exception as error:  # whatever PIL's readers raise
        if isinstance(error, OSError) and error.errno is not None:
            raise SetupError(f"{path}: it cannot be read ({error.strerror})") from error
        raise SetupError(f"{path}: damaged ({error or type(error).__name__}); replace or delete it") from error


def inspect(path: str) -> tuple[int, int, bool]:
    """Height and width (as seen upright) of an image and whether it is grey, from its header.

    Raises SetupError for a file that is not an image, and for one without the format's end marker at its end.
    A file of a format without end marker is decoded, and so is one of more than 8 bits (see :func:`decode`).
    """
    with _opened(path) as image:
        (width, height), mode, cut = image.size, image.mode, _cut_to_8_bits(image)
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        if mode[0] in "IF" or cut:
            decode(path, 1)
        elif not _ended(path, END_MARKERS.get(image.format or "")):
            image.load()
    return (width, height, mode in GREY) if turned else (height, width, mode in GREY)


def _ended(path: str, marker: bytes | None) -> bool:
    if marker is None:
        return False
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return marker in file.read()


def decode(path: str, channels: int) -> Image.Image:
    """The image at ``path``, upright, in 8 bits: grey for one channel, RGB for three.

    Of 16 bits the upper 8 stay; palettes and CMYK become RGB; transparent pixels are blended with white.
    Raises SetupError, with the file's name, when it cannot be read whole, or when 8 bits would not show what it
    shows: floating-point values, integers outside of 16 bits, values of 16 bits that all lie below ``LEAST_USED``.
    """
    with _opened(path) as image:
        cut = _cut_to_8_bits(image)
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        if image.mode == "F":
            raise _too_deep(path, "floating-point values (mode F), of which no range is known")
        if image.mode[0] == "I":
            deep = np.asarray(image)
            low, high = int(deep.min()), int(deep.max())
            if low < 0 or high >= FULL:
                raise _too_deep(path, f"values from {low} to {high} (mode {image.mode}), not from 0 to {FULL - 1}")
            if 0 < high < LEAST_USED:
                raise _too_deep(path, f"16 bits (mode {image.mode}) with values up to {high} only")
            image = Image.fromarray((deep >> 8).astype(np.uint8))
        elif cut and (high := _brightest(image)) < LEAST_USED >> 8:
            raise _too_deep(path, f"more than 8 bits (mode {image.mode}), whose upper 8 have values up to {high} only")
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)


def _cut_to_8_bits(image: Image.Image) -> bool:
    """Whether Pillow gives the upper 8 bits of larger values of several channels; of an image not yet decoded."""
    if image.format == "JPEG2000":  # Pillow does not say how many bits it has
        return len(image.getbands()) > 1
    for codec, _, _, how in getattr(image, "tile", ()):
        if codec == "SGI16" or re.search(r";16[BLN]", str(how)) or (codec.startswith("ppm") and how[1] > 255):
            return len(image.getbands()) > 1
    return False


def _brightest(image: Image.Image) -> int:
    """The largest value of an 8-bit image of several channels, transparency left out."""
    pixels = np.asarray(image)
    return max(int(pixels[..., k].max()) for k, band in enumerate(image.getbands()) if band not in "Aa")


def _too_deep(path: str, what: str) -> SetupError:
    return SetupError(f"{path}: {what}; scale it to 8 bits a channel, or its content would be lost")


def fitted(image: Image.Image, shorter: int | None, height: int, width: int) -> Image.Image:
    """The central ``height x width`` of ``image`` after its shorter side was resized to ``shorter`` (None: is left)."""
    if shorter is not None and min(image.size) != shorter:
        scale = shorter / min(image.size)
        image = resized(image, max(shorter, round(image.height * scale)), max(shorter, round(image.width * scale)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """``image`` in another size; bilinear, over all pixels that fall into one (PIL's antialiasing)."""
    return image.resize((width, height), Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 ``[C, H, W]``."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


# --- all files -----------------------------------------------------------------------------------------------


def inspected(files: Files, what: str, cache: Cache, progress: Progress) -> Tensor:
    """Check every file; int64 ``[N, 3]``: height, width, and 1 where it is grey.

    Results are cached until a file changes. Raises SetupError, naming the first file that is damaged.
    """
    entry, key = files.entry(f"{what}-checked"), f"{files.version} {DECODING}"
    kept = cache.read(entry, key)
    if kept is not None:
        return kept["found"]
    found: list[tuple[int, int, bool]] = []
    groups = [range(start, min(start + AT_ONCE, len(files))) for start in range(0, len(files), AT_ONCE)]
    with progress.counting(len(files), f"checking {what} files") as bar, ThreadPoolExecutor(THREADS) as pool:
        for group in pool.map(lambda group: [inspect(files.path(k)) for k in group], groups):
            found += group
            bar.update(len(group))
    table = torch.tensor(found, dtype=torch.int64)
    cache.write(entry, key, {"found": table})
    return table
