"""Batches and augmentation of images on the device."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bench.data.image_set import AREA, RATIO, augmented, crop_boxes, mirrored
from bench.data.loading import Images, load_training

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    """23 images; the label of each is its index, its pixels are all that index."""
    labels = torch.arange(23)
    pixels = labels[:, None, None, None].expand(23, 2, 4, 6).to(torch.uint8).contiguous()
    return Images(pixels, labels, torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1), torch.full((1, 2, 1, 1), 4.0))


# --- batches -------------------------------------------------------------------------------------------------


def test_normalisation_by_hand(images):
    x = images.normalised(images.pixels[9:10])
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x[0, 0].unique().tolist() == [(9 - 1) / 4]
    assert x[0, 1].unique().tolist() == [(9 - 2) / 4]


@pytest.mark.parametrize(("size", "sizes"), [(5, [5, 5, 5, 5, 3]), (23, [23]), (50, [23]), (1, [1] * 23)])
def test_batches_cover_all_in_order(images, size, sizes):
    batches = list(images.batches(size))
    assert [len(y) for _, y in batches] == sizes
    assert torch.cat([y for _, y in batches]).tolist() == list(range(23))


@pytest.mark.parametrize(("size", "sizes"), [(5, [5] * 4), (23, [23]), (50, [23]), (22, [22])])
def test_drop_last_omits_small_batch_unless_it_is_the_only_one(images, size, sizes):
    assert [len(y) for _, y in images.batches(size, generator(), drop_last=True)] == sizes


def test_shuffled_batches_are_a_permutation_of_the_generator(images):
    def order(g):
        return torch.cat([y for _, y in images.batches(4, g)]).tolist()

    first = order(generator(1))
    assert sorted(first) == list(range(23))
    assert first != list(range(23))
    assert order(generator(1)) == first
    assert order(generator(2)) != first
    going_on = generator(1)
    assert order(going_on) == first
    assert order(going_on) != first


def test_images_and_labels_stay_together(images):
    for x, y in images.batches(4, generator()):
        assert torch.equal(x, images.normalised(images.pixels[y]))


# --- augmentation --------------------------------------------------------------------------------------------


def crops(image, pad):
    """Every crop of ``image [C, H, W]`` padded with zeros, row by row."""
    _, height, width = image.shape
    padded = F.pad(image, (pad,) * 4)
    return [padded[:, r : r + height, c : c + width] for r in range(2 * pad + 1) for c in range(2 * pad + 1)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (2, 5, 9)])
@pytest.mark.parametrize("how", ["shift", "crop_flip"])
def test_every_augmented_image_is_a_crop_of_the_padded_one(how, shape):
    pixels = torch.randint(1, 256, (64, *shape), generator=generator()).to(torch.uint8)
    out = augmented(pixels, how, generator(5))
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8
    mirrored, moves = 0, set()
    for image, made in zip(pixels, out, strict=True):
        places = [k for k, crop in enumerate(crops(image, max(1, shape[1] // 8))) if torch.equal(made, crop)]
        if not places:
            mirrored += 1
            places = [
                k for k, crop in enumerate(crops(image, max(1, shape[1] // 8))) if torch.equal(made, crop.flip(2))
            ]
        assert len(places) == 1
        moves.add(places[0])
    assert len(moves) >= 8  # 9 or 25 places, 64 images
    assert mirrored == 0 if how == "shift" else 16 < mirrored < 48


def test_no_augmentation_changes_nothing():
    pixels = torch.randint(256, (4, 1, 8, 8), generator=generator()).to(torch.uint8)
    assert torch.equal(augmented(pixels, "none", generator()), pixels)


def test_augmentation_depends_on_the_generator_only():
    pixels = torch.randint(256, (32, 1, 8, 8), generator=generator()).to(torch.uint8)
    first, again, other = (augmented(pixels, "crop_flip", generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_shuffled_batches_are_augmented():
    found = load_training("digits", Path("nowhere"), False, 0, CPU).val
    plain = torch.cat([x for x, _ in found.batches(50, augment="shift")])
    assert torch.equal(plain, found.normalised(found.pixels))
    moved = torch.cat([x for x, _ in found.batches(len(found), generator(), augment="shift")])
    still = torch.cat([x for x, _ in found.batches(len(found), generator(), augment="none")])
    assert not torch.equal(moved, still)


# --- resized crops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (8, 8), (500, 100)])
def test_boxes_lie_inside_with_the_area_and_ratio_asked_for(height, width):
    top, left, rows, columns = crop_boxes(2000, height, width, generator()).unbind(dim=1)
    assert (rows >= 1).all() and (columns >= 1).all()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()
    share, ratio = rows * columns / (height * width), columns / rows
    slack = 1 + 2 / min(rows.min(), columns.min())  # sides are whole pixels
    assert share.max() <= AREA[1] and share.min() >= AREA[0] / slack
    assert ratio.min() >= RATIO[0] / slack and ratio.max() <= RATIO[1] * slack
    assert len({tuple(box) for box in zip(top.tolist(), left.tolist())}) > 30
    if height >= 100:
        touching = [bool((edge == 0).any()) for edge in (top, left, height - top - rows, width - left - columns)]
        assert all(touching)


def test_boxes_are_distributed_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    image = torch.empty(3, 375, 500)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(AREA), list(RATIO)) for _ in range(4000)])
    ours = crop_boxes(4000, 375, 500, generator())
    torch.testing.assert_close(ours.float().mean(dim=0), theirs.float().mean(dim=0), rtol=0.05, atol=2)
    torch.testing.assert_close(ours.float().std(dim=0), theirs.float().std(dim=0), rtol=0.07, atol=2)


def test_image_too_long_for_any_box_gives_its_centre():
    boxes = crop_boxes(50, 4, 1000, generator())
    assert boxes[:, 2].unique().tolist() == [4]
    assert boxes[:, 3].unique().tolist() == [5]  # 4 / 3 of the height
    assert boxes[:, 1].unique().tolist() == [(1000 - 5) // 2]


def test_resized_crop_keeps_constants_and_flattens_slopes():
    plain = torch.full((5, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(augmented(plain, "resized_crop", generator()), plain)
    slope = (torch.arange(16) * 10).to(torch.uint8).expand(64, 1, 16, 16)
    out = augmented(slope, "resized_crop", generator()).int()
    assert out.shape == slope.shape
    assert out.min() >= 0 and out.max() <= 150
    steps = out.diff(dim=3)[:, 0, 3]
    assert (steps.abs() <= 10).all()
    falling = (steps < 0).any(dim=1).float().mean().item()
    assert 0.25 < falling < 0.75  # mirrored
    assert out.diff(dim=2).abs().max() <= 1  # rounding


def test_mirroring_is_of_the_chosen_ones():
    pixels = torch.arange(2 * 1 * 2 * 3).reshape(2, 1, 2, 3).to(torch.uint8)
    out = mirrored(pixels, torch.tensor([[False], [True]]))
    assert torch.equal(out[0], pixels[0])
    assert torch.equal(out[1], pixels[1].flip(2))


def test_first_images_are_those_of_the_first_batch(images):
    assert torch.equal(images.first(4), images.normalised(images.pixels[:4]))
    assert len(images.first(100)) == 23
