import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.image_folders import save, write_folder
from support.paths import ROOT

from bench.data import registration as registered
from bench.data.loading import dataset, load_test, load_training, validation_split
from bench.errors import SetupError, UsageError
from bench.spec.registry import DATASETS

CPU = torch.device("cpu")
MNIST = ROOT / "../shared/data"
needs_mnist = pytest.mark.skipif(not (MNIST / "MNIST/raw").is_dir(), reason="MNIST is not at ../shared/data")
DOWNLOADED = (
    *("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"),
    *("flowers102", "tiny_imagenet", "imagenette"),
)


def load(name="digits", seed=0, folder=Path("nowhere")):
    return load_training(name, folder, False, seed, CPU)


def of_test(name, like, seed=0):
    return load_test(DATASETS.get(name).for_seed(seed), Path("nowhere"), like)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the digits and the synthetic set ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "train", "test"), [("digits", 1433, 364), ("synthetic", 1280, 320)])
def test_sizes_and_facts(name, train, test):
    found = load(name)
    facts = DATASETS.get(name)
    assert len(found.train) + len(found.val) == train == facts.sizes[0]
    assert len(of_test(name, found.train)[0]) == test == facts.sizes[1]
    assert (found.facts["train"], found.facts["val"], found.facts["test"]) == (len(found.train), len(found.val), test)
    for part in (found.train, found.val):
        assert tuple(part.pixels.shape[1:]) == facts.shape
        assert (part.pixels.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.labels.unique().tolist() == list(range(facts.classes))


def test_digits_are_scikit_learns_and_the_parts_do_not_overlap():
    from sklearn.datasets import load_digits

    raw = load_digits()
    found = load("digits")
    test, _ = of_test("digits", found.train)
    parts = [found.train, found.val, test]
    ours = [(p.tobytes(), int(y)) for part in parts for p, y in zip(part.pixels.numpy(), part.labels)]
    theirs = np.round(raw.images * 255 / 16).astype(np.uint8)
    assert sorted(ours) == sorted((p.tobytes(), int(y)) for p, y in zip(theirs, raw.target))


def test_split_depends_on_the_seed_only():
    first, again, other = load(seed=3), load(seed=3), load(seed=8)
    assert torch.equal(first.train.pixels, again.train.pixels)
    assert torch.equal(first.val.pixels, again.val.pixels)
    assert first.facts == again.facts
    assert other.facts["split_sha256"] != first.facts["split_sha256"]
    assert other.facts["train_sha256"] == first.facts["train_sha256"]
    assert not torch.equal(first.val.pixels, other.val.pixels)
    # The same test images, normalised alike, under every seed of a fold.
    tests = [of_test("digits", d.train, seed) for d, seed in ((first, 3), (other, 8))]
    assert tests[0][1] == tests[1][1]
    assert torch.equal(tests[0][0].pixels, tests[1][0].pixels)
    assert torch.equal(tests[0][0].mean, tests[1][0].mean)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_split_takes_a_tenth_of_each_class(seed):
    labels = torch.arange(7).repeat_interleave(torch.tensor([1, 4, 10, 25, 100, 300, 999]))
    labels = labels[torch.randperm(len(labels), generator=generator(1))]
    held = validation_split(labels, seed)
    assert held.dtype == torch.bool
    assert [int(held[labels == k].sum()) for k in range(7)] == [1, 1, 1, 2, 10, 30, 100]


def test_split_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    load("digits")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_normalised_images_have_mean_zero_and_deviation_one(name):
    found = load(name)
    both = torch.cat([part.normalised(part.pixels) for part in (found.train, found.val)])
    torch.testing.assert_close(both.mean(dim=(0, 2, 3)), torch.zeros(both.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(both.std(dim=(0, 2, 3)), torch.ones(both.shape[1]), atol=1e-4, rtol=0)
    test, _ = of_test(name, found.train)
    assert torch.equal(test.mean, found.train.mean)
    assert torch.equal(test.std, found.val.std)


# --- what is not there, or not what it should be --------------------------------------------------------------


@pytest.mark.parametrize("name", DOWNLOADED)
def test_missing_files_name_what_to_do(name, tmp_path):
    for act in (lambda: load(name, folder=tmp_path), lambda: load_test(name, tmp_path, None)):
        with pytest.raises(SetupError) as caught:
            act()
        text = str(caught.value)
        assert "\n" not in text
        assert str(tmp_path) in text
        assert "--download" in text
        assert "--data-dir" in text


def test_unknown_data_set():
    with pytest.raises(UsageError, match="unknown data set 'digit': did you mean digits"):
        load("digit")


def raw(size=20, shape=(4, 4), classes=2):
    return np.zeros((size, *shape), dtype=np.uint8), np.arange(size) % classes


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda: raw(size=19), r"images are \[19, 1, 4, 4\] with 19 labels"),
        (lambda: raw(shape=(4, 5)), r"images are \[20, 1, 4, 5\]"),
        (lambda: raw(shape=(4, 4, 3)), r"images are \[20, 3, 4, 4\]"),
        (lambda: (raw()[0], raw()[1][:-1]), "with 19 labels"),
        (lambda: raw(classes=3), r"labels are not 0\.\.1"),
        (lambda: raw(classes=1), r"labels are not 0\.\.1"),
        (lambda: (raw()[0], raw()[1] + 1), r"labels are not 0\.\.1"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: np.load("no such file"), "FileNotFoundError"),
        (raw, "sha256 differs"),
    ],
)
def test_damaged_data(forgets, given, why):
    @dataset("damaged", shape=(1, 4, 4), classes=2, sizes=(20, 20), sha256=("0" * 64, "0" * 64))
    def damaged(part, folder, download):
        return given()

    with pytest.raises(SetupError, match=f"'damaged' in nowhere is damaged: .*{why}.*--download") as caught:
        load("damaged")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((20, 4, 4), np.float32), np.arange(20) % 2, r"images float32 \[20, 4, 4\]"),
        (np.zeros((20, 4, 4), np.uint16), np.arange(20) % 2, r"images uint16 \[20, 4, 4\]"),
        (np.zeros((20, 16), np.uint8), np.arange(20) % 2, r"images uint8 \[20, 16\]"),
        (np.zeros((20, 4, 4), np.uint8), np.linspace(0, 1.5, 20), r"labels float64 \[20\]"),
        (np.zeros((20, 4, 4), np.uint8), np.eye(20, 2, dtype=np.int64), r"labels int64 \[20, 2\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(forgets, images, labels, said):
    @dataset("arrays", shape=(1, 4, 4), classes=2, sizes=(20, 20), normal=((0.5,), (0.5,)))
    def arrays(part, folder, download):
        return images, labels

    with pytest.raises(SetupError, match=rf"'arrays': its loader gives .*{said}.*; images are uint8"):
        load("arrays")


@pytest.mark.parametrize(
    ("labels", "said"), [([0] * 20, "has one class"), ([0] * 19 + [1], "image 19: the only training")]
)
def test_arrays_of_too_few_classes_or_images_are_refused(forgets, labels, said):
    @dataset("few", shape=(1, 4, 4), classes=max(labels) + 1, sizes=(20, 20))
    def few(part, folder, download):
        return np.arange(320, dtype=np.uint16).astype(np.uint8).reshape(20, 4, 4), np.array(labels)

    with pytest.raises(SetupError, match=rf"data set 'few'.*{said}"):
        load("few")


def test_images_with_colours_have_their_channels_first(forgets):
    @dataset("colours", shape=(3, 4, 5), classes=2, sizes=(20, 10))
    def colours(part, folder, download):
        images = np.zeros((20, 4, 5, 3), dtype=np.uint8)
        images[..., 1] = 7
        images[::2, ..., 2] = 9
        images[0, 0, 0, 0] = 1
        return images, np.arange(20) % 2

    found = load("colours")
    pixels = torch.cat([found.train.pixels, found.val.pixels])
    assert pixels[:, 1].unique().tolist() == [7]
    assert pixels[:, 2].unique().tolist() == [0, 9]


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
    with pytest.raises(SetupError, match=said) as caught:
        load("tiny_imagenet", folder=tmp_path)
    assert "\n" not in str(caught.value)


def flower_tree(folder, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    root = folder / "flowers-102"
    for k in range(1, 9):
        save(root / f"jpg/image_{k:05d}.jpg", k, size=(300, 240))
    savemat(root / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2, 1, 2]]})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6, 7, 8]]})
    listed = {
        kind: (name, hashlib.md5((root / name).read_bytes()).hexdigest() if kind != "image" else md5)
        for kind, (name, md5) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", listed)
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
    with pytest.raises(SetupError) as caught:
        load("imagenet", folder=tmp_path)
    for word in ("cannot be downloaded", "imagenet/train/nXXXXXXXX/*.JPEG (1,281,167)", "val/nXXXXXXXX", "--data-dir"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
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
    with pytest.raises(SetupError, match=r"val/n01/000.JPEG: not an image"):
        load("imagenet", folder=tmp_path)


@pytest.mark.parametrize("name", ["flowers102", "tiny_imagenet", "imagenette"])
def test_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, name):
    import torchvision.datasets
    import torchvision.datasets.utils

    def half(url, root, *args, **kwargs):
        for folder in ("flowers-102/jpg", "tiny-imagenet-200/train", "imagenette2-160/train"):
            save(Path(root) / folder / "0.jpg")
        raise ConnectionResetError("the line\nwent down")

    for module in (torchvision.datasets.utils, torchvision.datasets.flowers102, torchvision.datasets.imagenette):
        monkeypatch.setattr(module, "download_and_extract_archive", half)
    with pytest.raises(SetupError, match=r"could not be downloaded.*the line went down") as caught:
        load_training(name, tmp_path, True, 0, CPU)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SetupError, match=f"{name} is not in"):
        load(name, folder=tmp_path)


def test_download_is_put_in_place_when_whole_and_not_repeated(tmp_path, forgets, monkeypatch):
    import torchvision.datasets.utils

    calls = []

    def fetch(url, root, md5):
        calls.append((url, md5))
        tiny_tree(Path(root))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    shrunk(monkeypatch, "tiny_imagenet", 2, (6, 4))
    for _ in range(2):
        load_training("tiny_imagenet", tmp_path, True, 0, CPU)
    assert len(calls) == 1
    assert calls[0][1] == "90528d7ca1a48142e341f4ef8d21d0de"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-imagenet-200"]


def test_failed_download_of_torchvisions_own_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(self):
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    with pytest.raises(SetupError, match=r"MNIST could not be downloaded.*Error downloading train-images") as caught:
        load_training("mnist", tmp_path, True, 0, CPU)
    assert "\n" not in str(caught.value)


def idx(path, dims, size, magic=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, magic, len(dims)]) + b"".join(d.to_bytes(4, "big") for d in dims)
    path.write_bytes(header + bytes(size))


PARTS = {"train": 60_000, "t10k": 10_000}


@pytest.mark.parametrize(
    ("dims", "size"),
    [
        ((5, 28, 28), 5 * 784),  # whole, and too few
        ((5, 28, 28), 5 * 784 - 1),  # cut off
        ((5, 28, 28), 0),
        ((10_000, 28, 28), 1000),
        ((5, 14, 56), 5 * 784),
    ],
)
def test_damaged_files_in_torchvisions_layout(tmp_path, dims, size):
    for part in PARTS:
        idx(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", dims, size)
        idx(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", (dims[0],), dims[0])
    for act in (lambda: load("mnist", folder=tmp_path), lambda: load_test("mnist", tmp_path, load().train)):
        with pytest.raises(SetupError, match=r"'mnist' in .* is damaged: .*--download"):
            act()


@pytest.mark.parametrize("content", [b"", b"\x00", b"<html>404 not found</html>"])
def test_files_that_are_something_else(tmp_path, content):
    for part in PARTS:
        for kind in ("images-idx3", "labels-idx1"):
            file = tmp_path / f"MNIST/raw/{part}-{kind}-ubyte"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    with pytest.raises(SetupError, match="is damaged"):
        load("mnist", folder=tmp_path)


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
def test_one_flipped_bit_is_found(tmp_path):
    file = copied_mnist(tmp_path)
    like = load().train
    assert len(load_test("mnist", tmp_path, like)[0]) == 10_000
    content = bytearray(file.read_bytes())
    content[4_000_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(SetupError, match="sha256 differs"):
        load_test("mnist", tmp_path, like)


@needs_mnist
def test_truncated_file_is_found(tmp_path):
    file = copied_mnist(tmp_path)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(SetupError, match=r"'mnist' in .* is damaged"):
        load_test("mnist", tmp_path, load().train)
