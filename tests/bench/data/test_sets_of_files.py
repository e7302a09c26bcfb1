"""Data sets of files: layouts, downloads, damage."""

import dataclasses
import hashlib
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.io import savemat
from support.image_folders import save, write_folder
from support.paths import ROOT
from torchvision import datasets

from bench.data import registration as registered
from bench.data.loading import load_test, load_training
from bench.errors import SetupError
from bench.spec.registry import DATASETS

CPU = torch.device("cpu")
MNIST = ROOT / "data"
needs_mnist = pytest.mark.skipif(not (MNIST / "MNIST/raw").is_dir(), reason="not run: MNIST is not in data/")


def load(name="digits", seed=0, folder=Path("nowhere")):
    return load_training(name, folder, False, seed, CPU)


def refused(act, match=None):
    """The one line of the SetupError that ``act`` raises."""
    with pytest.raises(SetupError, match=match) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- sets of files, in made-up trees of their layout ------------------------------------------------------------


def shrunk(monkeypatch, name, classes, sizes, **changes):
    """A registered set with fewer classes and images."""
    facts = dataclasses.replace(DATASETS.get(name), classes=classes, sizes=sizes, **changes)
    monkeypatch.setitem(DATASETS._objects, name, (facts, "test"))


def test_imagenette(tmp_path, forgets, monkeypatch):
    root = write_folder(
        tmp_path / "imagenette2-160",
        ("n01", "n02"),
        train=5,
        test=2,
        size=(170, 160),
        parts=("train", "val"),
        end="JPEG",
    )
    (root / "noisy_imagenette.csv").write_text("path,noisy_labels_0")
    with pytest.raises(SetupError, match=r"train images are \[10, 3, 160, 160\] .* not \[9469, 3, 160, 160\]"):
        load("imagenette", folder=tmp_path)
    shrunk(monkeypatch, "imagenette", 2, (10, 4))
    found = load("imagenette", folder=tmp_path)
    assert (len(found.train), len(found.val)) == (8, 2)
    assert found.train.pixels.shape[1:] == (3, 160, 160)
    assert load_test("imagenette", tmp_path, found.train)[0].labels.tolist() == [0, 0, 1, 1]


def tiny_tree(folder):
    root = folder / "tiny-imagenet-200"
    for label, name in enumerate(("n02", "n01")):
        for k in range(3):  # the first of a class is grey
            save(root / f"train/{name}/images/{name}_{k}.JPEG", 10 * label + k, (64, 64), channels=3 if k else 1)
        (root / f"train/{name}/{name}_boxes.txt").write_text("x")
    for k in range(4):
        save(root / f"val/images/val_{k}.JPEG", k, size=(64, 64))
    rows = [f"val_{k}.JPEG\tn0{1 + k % 2}\t0\t0\t62\t62\n" for k in range(4)]
    (root / "val/val_annotations.txt").write_text("".join(rows))
    return root


def test_tiny_imagenet(tmp_path, forgets, monkeypatch):
    tiny_tree(tmp_path)
    shrunk(monkeypatch, "tiny_imagenet", 2, (6, 4))
    found = load("tiny_imagenet", folder=tmp_path)
    assert found.train.pixels.shape[1:] == (3, 64, 64)
    test, _ = load_test("tiny_imagenet", tmp_path, found.train)
    assert test.labels.tolist() == [0, 0, 1, 1]
    files = DATASETS.get("tiny_imagenet").load("test", tmp_path, False)
    assert files.names == tuple(f"val/images/val_{k}.JPEG" for k in (0, 2, 1, 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "val/images/val_2.JPEG").unlink(), "val_2.JPEG: No such file"),
        (lambda root: (root / "val/val_annotations.txt").unlink(), "val_annotations.txt: not a list"),
        (lambda root: (root / "val/val_annotations.txt").write_text("x"), "val_annotations.txt: not a list"),
        (lambda root: (root / "val/val_annotations.txt").write_text("a.JPEG\tn77\t"), "KeyError: 'n77'"),
    ],
)
def test_tiny_imagenet_damaged(tmp_path, forgets, monkeypatch, change, said):
    change(tiny_tree(tmp_path))
    shrunk(monkeypatch, "tiny_imagenet", 2, (6, 4))
    refused(lambda: load("tiny_imagenet", folder=tmp_path), said)


def flower_tree(folder, monkeypatch):
    root = folder / "flowers-102"
    for k in range(1, 9):
        save(root / f"jpg/image_{k:05d}.jpg", k, size=(300, 240))
    savemat(root / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2, 1, 2]]})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6, 7, 8]]})
    listed = {
        kind: (name, hashlib.md5((root / name).read_bytes()).hexdigest() if kind != "image" else md5)
        for kind, (name, md5) in datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", listed)
    shrunk(monkeypatch, "flowers102", 2, (4, 4))
    return root


def test_flowers(tmp_path, forgets, monkeypatch):
    root = flower_tree(tmp_path, monkeypatch)
    found = load("flowers102", folder=tmp_path)
    assert found.train.pixels.shape[1:] == (3, 224, 224)
    read = DATASETS.get("flowers102").load
    train, test = read("train", tmp_path, False), read("test", tmp_path, False)
    assert [name[-6:-4] for name in train.names] == ["01", "03", "02", "04"]  # official train and val, by class
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert [name[-6:-4] for name in test.names] == ["05", "07", "06", "08"]
    (root / "jpg/image_00006.jpg").unlink()
    with pytest.raises(SetupError, match=r"image_00006.jpg: No such file or directory, but the data set names it"):
        load("flowers102", folder=tmp_path)
    (root / "setid.mat").write_bytes(b"x")
    with pytest.raises(SetupError, match=r"checksum.*--download"):
        load("flowers102", folder=tmp_path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_imagenet(tmp_path, forgets, monkeypatch):
    text = refused(lambda: load("imagenet", folder=tmp_path))
    for word in ("cannot be downloaded", "imagenet/train/nXXXXXXXX/*.JPEG (1,281,167)", "val/nXXXXXXXX", "--data-dir"):
        assert word in text
    assert DATASETS.get("imagenet").streamed
    root = tmp_path / "imagenet"
    write_folder(root, ("n01", "n02"), train=4, test=2, size=(50, 40), parts=("train", "val"), end="JPEG")
    shrunk(monkeypatch, "imagenet", 2, (8, 4))
    monkeypatch.setattr(registered, "IN_MEMORY_BYTES", 0)
    found = load("imagenet", folder=tmp_path)
    assert (found.train.mean / 255).flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert (found.train.std / 255).flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert found.train.first(2).shape == (2, 3, 224, 224)
    assert found.train.shorter == 256
    (root / "val/n01/000.JPEG").write_bytes(b"gone")
    refused(lambda: load("imagenet", folder=tmp_path), r"val/n01/000.JPEG: not an image")


@pytest.mark.parametrize("name", ["flowers102", "tiny_imagenet", "imagenette"])
def test_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, name):
    def half(url, root, *args, **kwargs):
        for folder in ("flowers-102/jpg", "tiny-imagenet-200/train", "imagenette2-160/train"):
            save(Path(root) / folder / "0.jpg")
        raise ConnectionResetError("the line\nwent down")

    for module in (datasets.utils, datasets.flowers102, datasets.imagenette):
        monkeypatch.setattr(module, "download_and_extract_archive", half)
    refused(lambda: load_training(name, tmp_path, True, 0, CPU), r"could not be downloaded.*the line went down")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SetupError, match=f"{name} is not in"):
        load(name, folder=tmp_path)


def test_download_is_put_in_place_when_whole_and_not_repeated(tmp_path, forgets, monkeypatch):
    calls = []

    def fetch(url, root, md5):
        calls.append((url, md5))
        tiny_tree(Path(root))

    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", fetch)
    shrunk(monkeypatch, "tiny_imagenet", 2, (6, 4))
    for _ in range(2):
        load_training("tiny_imagenet", tmp_path, True, 0, CPU)
    assert len(calls) == 1
    assert calls[0][1] == "90528d7ca1a48142e341f4ef8d21d0de"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-imagenet-200"]


def test_failed_download_of_torchvisions_own_is_one_line(tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    load = partial(load_training, "mnist", tmp_path, True, 0, CPU)
    refused(load, r"MNIST could not be downloaded.*Error downloading train-images")


def test_damaged_files_in_torchvisions_layout(tmp_path):
    def idx(dims, size):
        return bytes([0, 0, 8, len(dims)]) + b"".join(d.to_bytes(4, "big") for d in dims) + bytes(size)

    five = (5, 28, 28)
    contents = [
        *((idx(five, size), idx((5,), 5)) for size in (5 * 784, 5 * 784 - 1, 0)),  # whole and too few; cut off
        (idx((10_000, 28, 28), 1000), idx((10_000,), 10_000)),
        (idx((5, 14, 56), 5 * 784), idx((5,), 5)),
        *((content, content) for content in (b"", b"\x00", b"<html>404 not found</html>")),
    ]
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for images, labels in contents:
        for part in ("train", "t10k"):
            (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        for act in (lambda: load("mnist", folder=tmp_path), lambda: load_test("mnist", tmp_path, load().train)):
            refused(act, r"'mnist' in .* is damaged: .*--download")


@needs_mnist
def test_mnist():
    found = load("mnist", folder=MNIST)
    assert len(found.train) == 54_000 + (6_000 - len(found.val))
    assert len(found.train) + len(found.val) == 60_000
    test, _ = load_test("mnist", MNIST, found.train)
    assert len(test) == 10_000
    # The constants everyone quotes for MNIST: 0.1307 and 0.3081 of 255.
    assert found.train.mean.item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert found.train.std.item() / 255 == pytest.approx(0.3081, abs=1e-4)


def copied_mnist(folder):
    """MNIST in ``folder``: the test images are a copy, the rest are links."""
    target = folder / "MNIST/raw"
    target.mkdir(parents=True)
    for file in (MNIST / "MNIST/raw").resolve().iterdir():
        if file.name == "t10k-images-idx3-ubyte":
            shutil.copy(file, target)
        else:
            (target / file.name).symlink_to(file)
    return target / "t10k-images-idx3-ubyte"


@needs_mnist
def test_flipped_bit_and_truncated_file_are_found(tmp_path):
    file = copied_mnist(tmp_path)
    like = load().train
    assert len(load_test("mnist", tmp_path, like)[0]) == 10_000
    content = bytearray(file.read_bytes())
    content[4_000_000] ^= 1
    file.write_bytes(content)
    refused(lambda: load_test("mnist", tmp_path, like), "sha256 differs")
    file.write_bytes(content[:-1000])
    refused(lambda: load_test("mnist", tmp_path, like), r"'mnist' in .* is damaged")
