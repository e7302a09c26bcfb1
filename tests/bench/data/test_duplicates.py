"""One image in two classes, one file in two parts, classes and sets that are too small."""

import shutil

import pytest
import torch
from support.image_folders import CLASSES, resolved, save, write_folder

from bench.data import duplicates
from bench.data.cache import Cache
from bench.data.duplicates import require_apart, require_one_class_each
from bench.data.image_files import class_folders
from bench.data.loading import find, load_training
from bench.errors import SetupError

CPU = torch.device("cpu")


def load(folder, size=None, seed=0):
    return load_training(*resolved(folder, size), False, seed, CPU)


def test_one_image_in_two_classes_is_found(tmp_path):
    write_folder(tmp_path, train=3)
    files, _ = class_folders(tmp_path, "train")
    images = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1).repeat(1, 3, 2, 2)
    require_one_class_each(files, images)
    images[1] = images[0]  # twice in one class
    require_one_class_each(files, images)
    images[7] = images[4]
    with pytest.raises(SetupError, match=r"train/dog/001.png and .*train/newt/001.png are the same image in two"):
        require_one_class_each(files, images)


# --- one file in two parts --------------------------------------------------------------------------------------


@pytest.fixture(params=["in memory", "streamed"])
def both_ways(request, monkeypatch):
    if request.param == "streamed":
        monkeypatch.setattr("bench.data.registration.IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("copy", ["test/dog/other_name.png", "test/newt/other_class.png", "test/dog/upper.PNG"])
def test_training_file_among_the_test_files_is_found(folder, both_ways, copy):
    shutil.copy(folder / "train/dog/003.png", folder / copy)
    with pytest.raises(SetupError, match=rf"{copy} is the same file as .*train/dog/003.png: .*delete one") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_link_to_a_training_file_is_found(folder):
    (folder / "test/cat/link.png").symlink_to(folder / "train/cat/000.png")
    with pytest.raises(SetupError, match=r"test/cat/link.png is the same file as .*train/cat/000.png"):
        load(folder)


def test_several_are_counted(folder):
    for k in range(3):
        shutil.copy(folder / f"train/cat/00{k}.png", folder / f"test/cat/again{k}.png")
    said = r"again0.png is the same file as .*train/cat/000.png, and 2 more of 15 test files are training files: "
    with pytest.raises(SetupError, match=said):
        load(folder)


def test_unused_val_part_may_contain_training_files(folder):
    shutil.copytree(folder / "train", folder / "val")
    assert load(folder).facts["train"] == 27
    shutil.rmtree(folder / "test")
    with pytest.raises(SetupError, match=r"val/cat/000.png is the same file as .*train/cat/000.png, and 29 more"):
        load(folder)


@pytest.mark.parametrize("same", [0, 1, 5000])
def test_files_that_differ_in_one_byte_are_two(tmp_path, same):
    """Also where their ends, or all but their first bytes, are the same."""
    for part, name, first in (("train", "a", b"1"), ("train", "b", b"2"), ("test", "c", b"3")):
        path = tmp_path / part / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(first + b"x" * same)
    (train, _), (test, _) = class_folders(tmp_path, "train"), class_folders(tmp_path, "test")
    require_apart(train, test, Cache(None))
    (tmp_path / "test/class/c").write_bytes(b"2" + b"x" * same)
    with pytest.raises(SetupError, match=r"test/class/c is the same file as .*train/class/b: "):
        require_apart(train, class_folders(tmp_path, "test")[0], Cache(None))


def test_what_was_compared_is_remembered_until_a_file_changes(folder, tmp_path, monkeypatch):
    cache, parts = Cache(tmp_path / "cache"), lambda: [class_folders(folder, part)[0] for part in ("train", "test")]
    require_apart(*parts(), cache)
    monkeypatch.setattr(duplicates, "_equal", lambda train, test: [[3, 2]])
    require_apart(*parts(), cache)
    save(folder / "test/dog/more.png", 77)
    with pytest.raises(SetupError, match=r"test/cat/002.png is the same file as .*train/cat/003.png"):
        require_apart(*parts(), cache)


# --- classes that are too small -----------------------------------------------------------------------------------


def test_class_with_one_training_image_is_refused(folder, both_ways):
    for path in sorted((folder / "train/dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(SetupError, match=r"train/dog/000.png: the only training image of its class; a class needs two"):
        load(folder)


def test_class_with_two_training_images_has_one_of_each(tmp_path, both_ways):
    for seed in range(3):
        found = load(write_folder(tmp_path / str(seed), train=2, test=1), seed=seed)
        assert found.train.labels.tolist() == found.val.labels.tolist() == [0, 1, 2]


def test_classes_with_one_training_image_are_counted(tmp_path):
    with pytest.raises(
        SetupError, match=r"train/cat/000.png: .* its class \(3 of 3 classes have one only\); a class needs"
    ):
        load(write_folder(tmp_path / "x", train=1, parts=("train", "val")))


@pytest.mark.parametrize("part", ["test", "val"])
def test_one_class_is_refused(tmp_path, part):
    root = write_folder(tmp_path / "one", classes=CLASSES[:1], parts=("train", part))
    with pytest.raises(SetupError, match=r"data set 'folder:one#\w+' has one class.*needs two"):
        find(*resolved(root))
