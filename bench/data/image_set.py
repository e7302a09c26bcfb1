"""Sets of images: their interface, sets in device memory, augmentation."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models.memory_format import LAYOUT, laid_out

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of the image's area and range of width / height of a resized crop (Szegedy et al. 2015, torchvision)."""
ATTEMPTS = 10
"""Boxes drawn until one lies inside the image; else the whole image is taken, as near to RATIO as it can be."""

Decoded = Iterator[tuple[Tensor, Tensor]]


class ImageSet(ABC):
    """Labelled images of one split, with the constants that normalise them.

    Attributes:
        labels: int64 ``[N]``, on the device.
        mean, std: float32 ``[1, C, 1, 1]`` on the scale 0..255, on the device.
        layout: memory format of batches, one of ``bench.models.memory_format.LAYOUTS``.
    """

    labels: Tensor
    mean: Tensor
    std: Tensor
    layout: str

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def decoded(self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str) -> Decoded:
        """Images of each batch of indices, uint8 ``[B, C, H, W]``, and the indices, on the device.

        Augmented when a generator is given.
        """

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
        order = order[: len(self) - len(self) % size] if drop_last and len(self) > size else order
        return self._prepared(order.split(size), generator, augment)

    def mixed(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches, unaugmented, in an order that depends on ``seed`` and the number of images only.

        Files are listed class by class, so that a batch of neighbours would hold one class.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self._prepared(order.to(self.labels.device).split(size), None, "none")

    def _prepared(
        self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, index in self.decoded(batches, generator, augment):
            yield self.normalised(pixels), self.labels[index]

    def first(self, size: int) -> Tensor:
        """The first ``size`` images, normalised, unaugmented."""
        return next(self.batches(size))[0]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Float32, zero mean and unit deviation per channel over the training images, in the set's layout."""
        return laid_out((pixels.float() - self.mean) / self.std, self.layout)

    def laid_out(self, layout: str) -> ImageSet:
        """The same images, in batches of another memory format."""
        same: Any = self  # every kind is a dataclass
        return dataclasses.replace(same, layout=layout)


@dataclass(frozen=True)
class Images(ImageSet):
    """A set of images in device memory, as bytes."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Tensor
    mean: Tensor
    std: Tensor
    layout: str = LAYOUT

    def decoded(self, batches: Sequence[Tensor], generator: torch.Generator | None, augment: str) -> Decoded:
        """See :meth:`ImageSet.decoded`."""
        for index in batches:
            pixels = self.pixels[index]
            yield (augmented(pixels, augment, generator) if generator else pixels), index


def augmented(pixels: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Random crops (and flips) of ``pixels [B, C, H, W]``, one per image, as batched tensor operations.

    ``crop_flip`` pads by an eighth of the height (4 at 32 pixels), crops and mirrors; ``shift`` pads and crops
    without mirroring, for images that mean something else when mirrored; ``resized_crop`` enlarges a box of
    :func:`crop_boxes` to the whole image (bilinear) and mirrors; ``none`` does nothing.
    """
    if how == "none":
        return pixels
    n, _, height, width = pixels.shape
    device = pixels.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=device)

    if how == "resized_crop":
        boxes = crop_boxes(n, height, width, generator)
        return mirrored(_enlarged(pixels, boxes), draw(2) == 1)
    pad = max(1, height // 8)
    padded = F.pad(pixels, (pad, pad, pad, pad))
    rows = draw(2 * pad + 1) + torch.arange(height, device=device)
    columns = draw(2 * pad + 1) + torch.arange(width, device=device)
    if how == "crop_flip":
        columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    which = torch.arange(n, device=device)[:, None, None]
    # Indexing around the channel slice moves the channels last, which is the layout wanted anyway.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(pixels: Tensor, which: Tensor) -> Tensor:
    """``pixels [B, C, H, W]``, mirrored left to right where ``which [B, 1]`` is true."""
    return torch.where(which[:, :, None, None], pixels.flip(3), pixels)


def crop_boxes(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes of resized crops: top, left, height, width, int64 ``[n, 4]``, by torchvision's RandomResizedCrop's rule.

    Area and logarithm of width / height are uniform in AREA and RATIO. On the generator's device.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((n, ATTEMPTS), generator=generator, device=device)

    area = uniform(*AREA) * (height * width)
    ratio = uniform(*(torch.tensor(RATIO).log().tolist())).exp()
    sides = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()], dim=-1).long()
    limit = torch.tensor([height, width], device=device)
    inside = ((sides > 0) & (sides <= limit)).all(dim=-1)
    first = inside.int().argmax(dim=1)
    chosen = sides[torch.arange(n, device=device), first]
    # A very long image may have no such box: its largest central part within RATIO.
    whole = torch.tensor([min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))], device=device)
    found = inside.any(dim=1, keepdim=True)
    chosen = torch.where(found, chosen, whole)
    room = limit - chosen
    corner = (torch.rand((n, 2), generator=generator, device=device) * (room + 1)).long().minimum(room)
    return torch.cat([torch.where(found, corner, room // 2), chosen], dim=1)


def _enlarged(pixels: Tensor, boxes: Tensor) -> Tensor:
    """The parts of ``pixels [B, C, H, W]`` in ``boxes [B, 4]``, each enlarged to ``H x W``; bilinear."""
    height, width = pixels.shape[2:]
    top, left, rows, columns = boxes.float().unbind(dim=1)

    def places(start: Tensor, length: Tensor, size: int) -> Tensor:
        """Source positions in pixels ``[B, size]``; those beyond the box's outer pixels' centres stay on them."""
        steps = (torch.arange(size, device=pixels.device) + 0.5) / size
        inside = (steps * length[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)
        return (start[:, None] + inside) * (2 / max(size - 1, 1)) - 1  # grid_sample's -1..1

    y, x = places(top, rows, height), places(left, columns, width)
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(pixels.float(), grid, mode="bilinear", align_corners=True).round().to(torch.uint8)


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of ``pixels``, uint8 ``[N, C, H, W]``, as float32 ``[1, C, 1, 1]``."""
    # Counted, not summed: exact, and without a copy of eight times the size.
    counts = torch.stack([torch.bincount(pixels[:, c].reshape(-1), minlength=256) for c in range(pixels.shape[1])])
    values, counts = torch.arange(256.0, dtype=torch.double), counts.double()
    total = counts.sum(dim=1, keepdim=True)
    mean = (counts * values).sum(dim=1, keepdim=True) / total
    std = ((counts * (values - mean).square()).sum(dim=1, keepdim=True) / (total - 1)).sqrt()
    return mean.float().reshape(1, -1, 1, 1), std.float().reshape(1, -1, 1, 1)
