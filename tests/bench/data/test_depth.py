"""Images of more than 8 bits: decoded by the documented rule, or refused with file, values and mode."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_folders import resolved, save, write_folder

from bench.data import image_files
from bench.data.cache import Cache
from bench.data.image_files import class_folders, decode, inspect, inspected
from bench.data.loading import load_test, load_training
from bench.errors import SetupError
from bench.progress import Progress

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
KINDS = {0: 1, 2: 3, 4: 2, 6: 4}
"""PNG's colour types: grey, RGB, grey and RGB with transparency; and their channels."""


def values(top, channels=1):
    """Values from 0 to ``top``, both there, ``[24, 24, channels]``."""
    found = RNG.integers(0, top + 1, (24, 24, channels))
    found[0, 0], found[0, 1] = 0, top
    return found


def png16(path, array, kind=2):
    """Write ``[H, W, C]`` as a PNG of 16 bits a channel; Pillow writes grey ones only."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def ppm16(path, array, top):
    """Write ``[H, W, 3]`` (or 1) as a PPM of 16 bits whose header says that its largest value is ``top``."""
    height, width, channels = array.shape
    path.write_bytes(f"P{6 if channels == 3 else 5} {width} {height} {top}\n".encode() + array.astype(">u2").tobytes())


def pillow(path, array, dtype):
    Image.fromarray(array[..., 0].astype(dtype)).save(path)


REFUSED = {
    "float_0_to_1.tif": (lambda p: pillow(p, values(255) / 255, np.float32), r"floating-point values \(mode F\)"),
    "float_0_to_255.tif": (lambda p: pillow(p, values(255), np.float32), r"floating-point values \(mode F\)"),
    "float.pfm": (lambda p: pillow(p, values(255) / 255, np.float32), r"floating-point values \(mode F\)"),
    "integers.tif": (lambda p: pillow(p, values(2**20), np.int32), r"values from 0 to 1048576 \(mode I\)"),
    "negative.tif": (lambda p: pillow(p, values(9000) - 4500, np.int32), r"values from -4500 to 4500 \(mode I\)"),
    "small_integers.tif": (lambda p: pillow(p, values(255), np.int32), "16 bits .* with values up to 255 only"),
    "8_in_16.png": (lambda p: pillow(p, values(255), np.uint16), "16 bits .* with values up to 255 only"),
    "10_in_16.tif": (lambda p: pillow(p, values(1023), np.uint16), "16 bits .* with values up to 1023 only"),
    "12_in_16.png": (lambda p: pillow(p, values(4095), np.uint16), "16 bits .* with values up to 4095 only"),
    "rgb_8_in_16.png": (lambda p: png16(p, values(255, 3)), r"mode RGB\), whose upper 8 have values up to 0 only"),
    "rgb_10_in_16.png": (lambda p: png16(p, values(1023, 3)), r"mode RGB\), whose upper 8 have values up to 3 only"),
    "rgb_12_in_16.png": (lambda p: png16(p, values(4095, 3)), r"mode RGB\), whose upper 8 have values up to 15 only"),
    "rgb_8_in_16.ppm": (
        lambda p: ppm16(p, values(255, 3), 65535),
        r"mode RGB\), whose upper 8 have values up to 1 only",
    ),
    "rgba_8_in_16.png": (lambda p: png16(p, values(255, 4), 6), r"mode RGBA\), whose upper 8 have values up to 0 only"),
    "la_8_in_16.png": (lambda p: png16(p, values(255, 2), 4), r"whose upper 8 have values up to 0 only"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_image_that_8_bits_would_not_show_is_refused(tmp_path, name):
    write, said = REFUSED[name]
    write(tmp_path / name)
    for act in (lambda path: inspect(path), lambda path: decode(path, 1), lambda path: decode(path, 3)):
        with pytest.raises(SetupError, match=rf"{name}: .*{said}.*; scale it to 8 bits") as caught:
            act(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["float_0_to_1.tif", "8_in_16.png", "rgb_8_in_16.png"])
def test_too_deep_image_is_refused_in_memory_and_streamed(tmp_path, monkeypatch, name, streamed):
    root = write_folder(tmp_path / "deep", size=(24, 24))
    REFUSED[name][0](root / "test/dog" / name)
    if streamed:
        monkeypatch.setattr("bench.data.registration.IN_MEMORY_BYTES", 0)
    with pytest.raises(SetupError, match=f"test/dog/{name}: "):
        load_training(*resolved(root, 16), False, 0, CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_upper_8_of_16_bits_stay_in_every_kind_of_png(tmp_path, kind):
    array = values(65535, KINDS[kind])
    if kind in (4, 6):
        array[..., -1] = 65535  # opaque
    png16(tmp_path / "x.png", array, kind)
    expected = array[..., : 3 if kind in (2, 6) else 1] >> 8
    assert inspect(str(tmp_path / "x.png")) == (24, 24, kind == 0)
    assert np.array_equal(np.asarray(decode(str(tmp_path / "x.png"), 3)), np.broadcast_to(expected, (24, 24, 3)))


def test_file_with_a_largest_value_is_scaled_to_it(tmp_path):
    array = values(4095, 3)
    ppm16(tmp_path / "x.ppm", array, 4095)
    assert np.abs(np.asarray(decode(str(tmp_path / "x.ppm"), 3)) - array / 4095 * 255).max() <= 1
    ppm16(tmp_path / "x.pgm", array[..., :1], 4095)
    assert np.abs(np.asarray(decode(str(tmp_path / "x.pgm"), 1)) - array[..., 0] / 4095 * 255).max() <= 1.5


def test_black_of_16_bits_is_black(tmp_path):
    pillow(tmp_path / "x.png", np.zeros((4, 4, 1)), np.uint16)
    assert not np.asarray(decode(str(tmp_path / "x.png"), 1)).any()


def test_files_checked_by_older_rules_are_checked_again(tmp_path, monkeypatch):
    root, cache = write_folder(tmp_path / "old", size=(24, 24)), Cache(tmp_path / "cache")
    pillow(root / "train/dog/x.png", values(255), np.uint16)
    listed, _ = class_folders(root, "train")
    with monkeypatch.context() as older:
        older.setattr(image_files, "DECODING", "1")
        older.setattr(image_files, "inspect", lambda path: (24, 24, False))
        inspected(listed, "train", cache, Progress("", quiet=True))
    with pytest.raises(SetupError, match=r"train/dog/x.png: 16 bits"):
        inspected(listed, "train", cache, Progress("", quiet=True))


# --- many pixels -----------------------------------------------------------------------------------------------


def test_image_above_pillows_own_limit_is_decoded(tmp_path):
    """Pillow calls more than 179 million pixels an attack."""
    path = tmp_path / "large.png"
    Image.new("1", (14_000, 13_000), 1).save(path)
    assert inspect(str(path)) == (13_000, 14_000, True)
    assert decode(str(path), 1).size == (14_000, 13_000)


@pytest.mark.parametrize("streamed", [False, True])
def test_image_of_too_many_pixels_is_named_with_the_limit(tmp_path, monkeypatch, streamed):
    root = write_folder(tmp_path / "large")
    found = load_training(*resolved(root, 8), False, 0, CPU)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 2000)
    if streamed:
        monkeypatch.setattr("bench.data.registration.IN_MEMORY_BYTES", 0)
    save(root / "test/cat/big.png", size=(50, 41))
    said = r"test/cat/big.png: 50x41 pixels, and an image may have 2,000; scale it down"
    for load in (
        lambda: load_training(*resolved(root, 8), False, 0, CPU),
        lambda: load_test(*resolved(root, 8), found.train),
    ):
        with pytest.raises(SetupError, match=said):
            load()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "too little memory to decode it; scale the image down"),
        (PermissionError(13, "Permission denied"), r"it cannot be read \(Permission denied\)"),
        (OSError("broken data stream"), r"damaged \(broken data stream\); replace or delete it"),
    ],
)
def test_reason_of_a_failed_decoding_is_the_true_one(tmp_path, monkeypatch, error, said):
    path = save(tmp_path / "x.png")

    def fail(image):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(SetupError, match=rf"x.png: {said}$"):
        decode(str(path), 3)
