"""Images decoded on demand in worker processes, for data sets that do not fit in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import data

from bench.data.image_files import Files, decode, fitted, resized, to_tensor
from bench.data.image_set import Decoded, ImageSet, augmented, crop_boxes, mirrored
from bench.errors import SetupError
from bench.models.memory_format import LAYOUT
from bench.progress import Progress
from bench.spec.off_limits import lift

CHUNK = 32
"""Images that a worker decodes for one answer: few enough that all workers have a share of every batch."""
AHEAD = 2
"""Batches that are decoded before they are asked for, at least."""
MOST_WORKERS = 16
ALONE = 512
"""As many images are decoded here rather than in processes that have to be started first."""

Key = tuple[int, int | None]
"""Index of an image, and the seed of its augmentation (None: not augmented)."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(device: torch.device) -> int:
    """Worker processes for training on ``device``: the cores that it leaves, at least 1, at most MOST_WORKERS."""
    busy = torch.get_num_threads() if device.type == "cpu" else 1
    return max(1, min(MOST_WORKERS, cores() - busy))


@dataclass(frozen=True)
class Decoder(data.Dataset):
    """Decodes chunks of images; the result depends only on its fields and on the keys.

    Attributes:
        files: what is decoded.
        shape: channels, height, width of what comes out.
        shorter: side that the shorter one is resized to before the centre is cut out; None: nothing is resized.
        augment: see :class:`bench.spec.recipe.Recipe`; of images that come with a seed.
    """

    files: Files
    shape: tuple[int, int, int]
    shorter: int | None
    augment: str = "none"

    def __getitem__(self, keys: list[Key]) -> Tensor | str:
        """Images uint8 ``[len(keys), C, H, W]``, or what is wrong: a worker's exception would lose its one line."""
        try:
            images = [self._one(*key).permute(1, 2, 0) for key in keys]  # as they are in memory: nothing is moved
            return data.default_collate(images).permute(0, 3, 1, 2)  # right into shared memory
        except SetupError as error:
            return str(error)

    def _one(self, index: int, seed: int | None) -> Tensor:
        channels, height, width = self.shape
        image = decode(self.files.path(index), channels)
        if self.shorter is None and image.size != (width, height):
            raise SetupError(f"{self.files.path(index)}: {image.width}x{image.height} pixels, not {width}x{height}")
        if seed is None:
            return to_tensor(fitted(image, self.shorter, height, width))
        generator = torch.Generator().manual_seed(seed)
        if self.augment == "resized_crop":
            top, left, rows, columns = crop_boxes(1, image.height, image.width, generator)[0].tolist()
            image = resized(image.crop((left, top, left + columns, top + rows)), height, width)
            return mirrored(to_tensor(image)[None], torch.randint(2, (1, 1), generator=generator) == 1)[0]
        return augmented(to_tensor(fitted(image, self.shorter, height, width))[None], self.augment, generator)[0]


def chunks(
    decoder: Decoder, keys: Iterable[list[Key]], workers: int, ahead: int, pin: bool = False
) -> Iterator[Tensor]:
    """Decoded ``keys``, chunk by chunk in their order, from ``workers`` processes (0: from this one).

    Args:
        decoder: what decodes.
        keys: chunks of keys.
        workers: number of processes.
        ahead: chunks that are decoded before they are asked for.
        pin: put them into pinned memory.
    """
    loader = data.DataLoader(
        decoder,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=max(2, -(-ahead // workers)) if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),  # it would draw from the global one
        worker_init_fn=lift,
    )
    for pixels in loader:
        if isinstance(pixels, str):
            raise SetupError(pixels)
        yield pixels


def decode_all(files: Files, shape: tuple[int, int, int], shorter: int | None, what: str, progress: Progress) -> Tensor:
    """All images, uint8 ``[N, C, H, W]``, decoded on all cores; raises SetupError naming a damaged file."""
    pixels = torch.empty((len(files), *shape), dtype=torch.uint8)
    keys: list[list[Key]] = [[(int(i), None) for i in part] for part in torch.arange(len(files)).split(CHUNK)]
    done = 0
    with progress.counting(len(files), f"decoding {what} images") as bar:
        workers = cores() if len(files) > ALONE else 0
        for part in chunks(Decoder(files, shape, shorter), keys, workers, ahead=0):
            pixels[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    return pixels


@dataclass(frozen=True)
class Stream(ImageSet):
    """A set of images in files, decoded and augmented in worker processes, normalised on the device.

    All randomness is drawn in this process, from the generator: an order and a seed for each image. So batches do
    not depend on the number of workers.

    Attributes:
        files: the images.
        shape, shorter: see :class:`Decoder`.
        workers: number of processes of each pass over the images.
        report: is called with the throughput of every finished augmented pass.
    """

    files: Files
    shape: tuple[int, int, int]
    shorter: int | None
    labels: Tensor
    mean: Tensor
    std: Tensor
    workers: int
    report: Callable[[str], None]
    layout: str = LAYOUT

    def decoded(self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str) -> Decoded:
        """See :meth:`ImageSet.decoded`."""
        device = self.labels.device
        batches = [index.cpu() for index in batches]
        seeds: list[int | None] = [None] * len(self)
        if generator:
            high, draw = 2**63 - 1, generator.device
            seeds = torch.randint(high, (len(self),), generator=generator, device=draw).tolist()
        keys = ([(i, seeds[i]) for i in part.tolist()] for index in batches for part in index.split(CHUNK))
        decoder = Decoder(self.files, self.shape, self.shorter, augment)
        ahead = AHEAD * -(-len(batches[0]) // CHUNK)
        arriving = chunks(decoder, keys, self.workers, ahead, pin=device.type == "cuda")
        began, waited = time.perf_counter(), 0.0
        for index in batches:
            asked = time.perf_counter()
            parts = [next(arriving) for _ in range(0, len(index), CHUNK)]
            waited += time.perf_counter() - asked
            yield torch.cat([part.to(device, non_blocking=True) for part in parts]), index.to(device)
        if generator:
            seconds, seen = time.perf_counter() - began, sum(map(len, batches))
            self.report(
                f"loader: {seen / seconds:,.0f} images/s (workers: {self.workers}), "
                f"training waited {100 * waited / seconds:.0f} % of the time for them"
            )
