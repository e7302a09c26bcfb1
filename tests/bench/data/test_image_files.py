"""Image files: listed, checked, decoded by rules that the documents state."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_folders import encoded, pixels, save

from bench.data.cache import Cache
from bench.data.image_files import Files, class_folders, decode, fitted, inspect, inspected, to_tensor
from bench.errors import SetupError
from bench.progress import Progress

SILENT = Progress("", quiet=True)


def array(path, channels=3):
    return np.asarray(decode(str(path), channels))


# --- listing -------------------------------------------------------------------------------------------------


def test_files_are_sorted_by_class_and_name(folder):
    files, classes = class_folders(folder, "train")
    assert classes == ["cat", "dog", "newt"]
    assert list(files.names) == [f"train/{c}/{k:03d}.png" for c in classes for k in range(10)]
    assert files.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert files.stats[3, 0] == (folder / "train/cat/003.png").stat().st_size


def test_images_may_lie_in_a_folder_of_their_class(tmp_path):
    save(tmp_path / "train/a/images/0.png")
    save(tmp_path / "train/b/images/0.png")
    assert class_folders(tmp_path, "train", inside="images")[0].names == (
        "train/a/images/0.png",
        "train/b/images/0.png",
    )


def test_hidden_files_and_folders_are_skipped(folder):
    before = class_folders(folder, "train")[0].version
    (folder / "train/.git").mkdir()
    (folder / "train/.DS_Store").write_bytes(b"x")
    (folder / "train/cat/.thumbs").mkdir()
    (folder / "train/cat/._000.png").write_bytes(b"")
    assert class_folders(folder, "train")[0].version == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "train").rename(root / "training"), "train: No such file or directory"),
        (lambda root: [p.unlink() for p in (root / "train/dog").iterdir()], "train/dog: a class without images"),
        (lambda root: (root / "train/readme.txt").write_text("x"), "train/readme.txt: a file next to the class"),
        (lambda root: (root / "train/cat/more").mkdir(), "train/cat/more: a folder among the images"),
        (lambda root: (root / "train/cat/000.png").write_bytes(b""), "train/cat/000.png: the file is empty"),
        (lambda root: (root / "train/cat/a.png").symlink_to("gone"), "train/cat/a.png: No such file"),
    ],
)
def test_folder_that_is_not_as_it_should_be(folder, change, said):
    change(folder)
    with pytest.raises(SetupError, match=said) as caught:
        class_folders(folder, "train")
    assert "\n" not in str(caught.value)


def test_part_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(SetupError, match="no class folders"):
        class_folders(tmp_path, "train")


def test_content_and_version(folder, tmp_path):
    files, _ = class_folders(folder, "train")
    moved = folder.rename(tmp_path / "elsewhere")
    again, _ = class_folders(moved, "train")
    assert (again.content, again.version) == (files.content, files.version)
    assert again.entry("x") != files.entry("x")
    path = moved / "train/cat/000.png"
    os.utime(path, ns=(0, 0))
    touched, _ = class_folders(moved, "train")
    assert touched.content == files.content
    assert touched.version != files.version
    path.write_bytes(path.read_bytes() + b"x")
    assert class_folders(moved, "train")[0].content != files.content
    path.rename(path.with_name("zzz.png"))
    assert class_folders(moved, "train")[0].content not in (files.content, touched.content)


def test_taking_some(folder):
    files, _ = class_folders(folder, "train")
    some = files.take(files.labels == 1)
    assert some.names == files.names[10:20]
    assert some.labels.tolist() == [1] * 10
    assert torch.equal(some.stats, files.stats[10:20])


# --- decoding ------------------------------------------------------------------------------------------------


def test_colour_and_grey_come_out_as_asked(tmp_path):
    colour, grey = save(tmp_path / "c.png", 1), save(tmp_path / "g.png", 2, channels=1)
    assert np.array_equal(array(colour), pixels(1))
    assert np.array_equal(array(grey, 1), pixels(2, channels=1))
    assert np.array_equal(array(grey), pixels(2, channels=1)[:, :, None].repeat(3, axis=2))
    assert array(colour, 1).shape == (8, 8)


@pytest.mark.parametrize("end", ["bmp", "gif", "tiff", "webp", "png"])
def test_other_formats(tmp_path, end):
    how = {"lossless": True} if end == "webp" else {}
    path = save(tmp_path / f"x.{end}", 3, channels=3 if end != "gif" else 1, **how)
    expected = pixels(3, channels=3 if end != "gif" else 1)
    assert np.array_equal(array(path, 1 if end == "gif" else 3), expected)
    assert inspect(str(path))[:2] == (8, 8)


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(array(tmp_path / "deep.png", 1), (deep >> 8).astype(np.uint8))
    assert inspect(str(tmp_path / "deep.png")) == (8, 8, True)


def test_black_and_white(tmp_path):
    Image.fromarray(pixels(0, channels=1)).convert("1").save(tmp_path / "bw.png")
    assert set(np.unique(array(tmp_path / "bw.png", 1))) <= {0, 255}
    assert inspect(str(tmp_path / "bw.png"))[2]


def test_what_is_transparent_lies_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:4] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    palette = Image.fromarray(np.repeat([[0], [1]], 4, axis=1).astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=1)
    for path in (tmp_path / "a.png", tmp_path / "p.png"):
        found = array(path)
        assert found[0, 0].tolist() == [10, 20, 30]
        assert found[-1, -1].tolist() == [255, 255, 255]
        assert not inspect(str(path))[2]


def test_palette_and_cmyk_become_rgb(tmp_path):
    image = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), dtype=np.uint8))
    image.convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    image.quantize(4).save(tmp_path / "x.png")
    for path in (tmp_path / "x.jpg", tmp_path / "x.png"):
        assert np.abs(array(path).astype(int) - [200, 100, 50]).max() <= 3


def test_images_are_decoded_upright(tmp_path):
    image = Image.fromarray(pixels(5, (12, 8)))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image.save(tmp_path / "t.png", exif=exif)
    assert np.array_equal(array(tmp_path / "t.png"), np.rot90(pixels(5, (12, 8)), -1))
    assert inspect(str(tmp_path / "t.png")) == (12, 8, False)


@pytest.mark.parametrize(("size", "shorter"), [((40, 20), 10), ((20, 40), 10), ((33, 21), 8), ((10, 10), 16)])
def test_shorter_side_is_resized_and_the_centre_cut_out(size, shorter):
    image = Image.fromarray(pixels(6, size))
    scale = shorter / min(size)
    whole = np.asarray(image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR))
    top, left = (whole.shape[0] - shorter) // 2, (whole.shape[1] - shorter) // 2
    found = np.asarray(fitted(image, shorter, shorter, shorter))
    assert np.array_equal(found, whole[top : top + shorter, left : left + shorter])


def test_image_of_the_right_size_is_left_alone():
    image = Image.fromarray(pixels(6))
    assert fitted(image, 8, 8, 8) is image
    assert np.array_equal(to_tensor(image).permute(1, 2, 0).numpy(), pixels(6))


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("left", [0.95, 0.5, 0.02])
def test_truncated_files_are_found_without_and_with_decoding(tmp_path, form, left):
    whole = encoded(form, size=(64, 48))
    path = tmp_path / "cut"
    path.write_bytes(whole)
    assert inspect(str(path)) == (48, 64, False)
    path.write_bytes(whole[: int(left * len(whole))])
    for act in (lambda: inspect(str(path)), lambda: decode(str(path), 3)):
        with pytest.raises(
            SetupError,
            match=r"cut: (not an image that Pillow can read; convert|damaged \(.+\))[;,] replace or delete it",
        ):
            act()


@pytest.mark.parametrize("content", [b"\x00", b"<html>404 not found</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9"])
def test_non_image_is_refused(tmp_path, content):
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"thing.jpg: "):
        inspect(str(path))


def test_bytes_after_the_end_marker_are_no_damage(tmp_path):
    path = tmp_path / "more.jpg"
    path.write_bytes(encoded("JPEG") + b"\0" * 500)
    assert inspect(str(path)) == (8, 8, False)


def test_checked_files_are_remembered_until_one_changes(folder, tmp_path, monkeypatch):
    from bench.data import image_files as module

    cache, seen = Cache(tmp_path / "cache"), []
    check = module.inspect
    monkeypatch.setattr(module, "inspect", lambda path: (seen.append(path), check(path))[1])

    def look():
        seen.clear()
        return inspected(class_folders(folder, "train")[0], "train", cache, SILENT)

    first = look()
    assert first.tolist() == [[8, 8, 0]] * 30
    assert len(seen) == 30
    assert torch.equal(look(), first)
    assert not seen
    save(folder / "train/dog/003.png", 99, size=(9, 8))
    assert look()[13].tolist() == [8, 9, 0]
    (folder / "train/dog/003.png").write_bytes(b"nothing")
    for _ in range(2):  # what is damaged is not remembered as checked
        with pytest.raises(SetupError, match=r"train/dog/003.png: not an image"):
            look()


def test_files_that_a_list_names_must_be_there(tmp_path):
    save(tmp_path / "a.png")
    assert len(Files.of(tmp_path, ["a.png"], [3])) == 1
    with pytest.raises(SetupError, match=r"b.png: No such file or directory, but the data set names it"):
        Files.of(tmp_path, ["a.png", "b.png"], [0, 0])
