"""Data sets that are known by their files: cifar10_jpeg75, which is not CIFAR-10 whatever it is called."""

import dataclasses
import os
import shutil

import pytest
import torch
from support.command_tools import answer
from support.image_folders import write_folder

from bench.data import file_hashes, image_stream
from bench.data.cache import Cache
from bench.data.file_hashes import labelled, unordered
from bench.data.image_files import class_folders
from bench.data.loading import load_test, load_training
from bench.errors import SetupError
from bench.spec import known_images
from bench.spec.known_images import CIFAR10_JPEG75, why_not_published
from bench.spec.registry import DATASETS

CPU, NONE = torch.device("cpu"), Cache(None)


def files_of(root, part="test"):
    return class_folders(root, part)[0]


def test_labelled_hash_is_of_labels_and_bytes_and_not_of_the_place(tmp_path):
    first = write_folder(tmp_path / "one")
    before = labelled(files_of(first), "test", NONE)
    shutil.copytree(first, tmp_path / "two")
    assert labelled(files_of(tmp_path / "two"), "test", NONE) == before
    file = tmp_path / "two" / "test" / "cat" / "000.png"
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # of the same size
    assert labelled(files_of(tmp_path / "two"), "test", NONE) != before
    (first / "test" / "cat" / "000.png").rename(first / "test" / "dog" / "999.png")
    assert labelled(files_of(first), "test", NONE) != before


def test_unordered_hash_does_not_know_names_classes_and_order(tmp_path):
    root = write_folder(tmp_path / "one")
    before = unordered(files_of(root), "test", NONE)
    (root / "test" / "cat" / "000.png").rename(root / "test" / "dog" / "zzz.png")
    (root / "test" / "newt").rename(root / "test" / "axolotl")
    assert unordered(files_of(root), "test", NONE) == before
    (root / "test" / "axolotl" / "001.png").unlink()
    assert unordered(files_of(root), "test", NONE) != before


def test_files_are_read_again_only_where_one_changed(tmp_path, monkeypatch):
    root, cache = write_folder(tmp_path / "one"), Cache(tmp_path / "cache")
    before, read = labelled(files_of(root), "test", cache), []
    honest = file_hashes.whole
    monkeypatch.setattr(file_hashes, "whole", lambda path: (read.append(path), honest(path))[1])
    assert labelled(files_of(root), "test", cache) == before
    assert read == []
    file = root / "test" / "cat" / "000.png"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, ns=(1, 1))
    assert labelled(files_of(root), "test", cache) != before
    assert len(read) == 12


def test_file_that_cannot_be_read_is_named(tmp_path):
    root = write_folder(tmp_path / "one")
    files = files_of(root)
    (root / "test" / "cat" / "000.png").unlink()
    with pytest.raises(SetupError, match=r"cat/000\.png: it cannot be read"):
        labelled(files, "test", NONE)


# --- cifar10_jpeg75 ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of data sets with a small ``cifar10_jpeg75``, whose hashes are the pinned ones."""
    root = write_folder(tmp_path / "data" / "cifar10_jpeg75", end="jpg")
    pinned = tuple(labelled(files_of(root, part), part, NONE) for part in ("train", "test"))
    alone = unordered(files_of(root), "test", NONE)
    monkeypatch.setattr(known_images, "CIFAR10_JPEG75", pinned)
    monkeypatch.setattr(known_images, "CIFAR10_JPEG75_FILES", alone)
    real = DATASETS.get("cifar10_jpeg75")
    facts = dataclasses.replace(real, shape=(3, 8, 8), classes=3, sizes=(30, 12), sha256=pinned)
    return root.parent, facts


def test_its_hashes_are_of_files_whatever_the_decoder_makes_of_them(small, monkeypatch):
    folder, facts = small
    found = load_training(facts, folder, False, 0, CPU)
    _, sha256 = load_test(facts, folder, found.train)
    assert (found.facts["train_sha256"], sha256) == facts.sha256
    decode = image_stream.decode
    monkeypatch.setattr(image_stream, "decode", lambda *a: decode(*a).transpose(0))
    again = load_training(facts, folder, False, 0, CPU)
    assert again.facts == found.facts
    assert not torch.equal(again.train.pixels, found.train.pixels)


def test_other_files_are_refused(small):
    folder, facts = small
    file = folder / "cifar10_jpeg75" / "train" / "cat" / "000.jpg"
    file.write_bytes(file.read_bytes() + b"\xff\xd9")
    with pytest.raises(SetupError, match="train images are not the published ones"):
        load_training(facts, folder, False, 0, CPU)


def test_missing_folder_says_where_images_belong(tmp_path):
    with pytest.raises(SetupError) as caught:
        load_training("cifar10_jpeg75", tmp_path, True, 0, CPU)
    assert f"{tmp_path}/cifar10_jpeg75/train/CLASS/*.jpg" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


PUBLICATION = """
source = "a test"
description = "some"
reading = "none"
notes = "none"
seeds = "0"
[groups.one]
method = "l1_norm"
arch = "resnet20"
dataset = "{}"
keep_macs = 0.5
"""


@pytest.mark.parametrize("called", ["cifar10", "cifar10_jpeg75", "mine"])
@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_published_numbers_are_not_replayed_on_it_whatever_its_folder_is_called(small, tmp_path, capsys, called, words):
    folder, _ = small
    (folder / "cifar10_jpeg75").rename(folder / called)
    (folder / called / "test" / "cat").rename(folder / called / "test" / "a cat")
    (folder / called / "train" / "cat").rename(folder / called / "train" / "a cat")
    for name in (f"folder:{called}", f"folder:{folder / called}", f"folder:{called}@8"):
        (tmp_path / "own.toml").write_text(PUBLICATION.format(name))
        where = ("--data-dir", str(folder), "--out", str(tmp_path / "out"))
        code, out, err = answer(capsys, "reproduce", str(tmp_path / "own.toml"), *where, *words)
        assert (code, out) == (2, "")
        assert "its images are those of cifar10_jpeg75" in err.splitlines()[-1]
    assert not (tmp_path / "out" / "records").exists()


def test_published_numbers_are_not_replayed_on_the_registered_set(tmp_path, capsys):
    (tmp_path / "own.toml").write_text(PUBLICATION.format("cifar10_jpeg75"))
    code, _, err = answer(capsys, "reproduce", str(tmp_path / "own.toml"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "data set 'cifar10_jpeg75': its images are those of cifar10_jpeg75" in err


def test_other_folders_may_have_published_numbers(tmp_path, capsys):
    write_folder(tmp_path / "cifar10")
    (tmp_path / "own.toml").write_text(PUBLICATION.format("folder:cifar10"))
    where = ("--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run")
    assert answer(capsys, "reproduce", str(tmp_path / "own.toml"), *where)[0] == 0


def test_why_not_published():
    assert why_not_published(CIFAR10_JPEG75[1]).startswith("its images are those of cifar10_jpeg75")
    assert why_not_published(CIFAR10_JPEG75[0]) == why_not_published(None) == why_not_published("0" * 64) == ""
    assert len(why_not_published(CIFAR10_JPEG75[1]).splitlines()) == 1
