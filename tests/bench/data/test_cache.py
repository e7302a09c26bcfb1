"""What is kept is read back, or nothing is."""

import pytest
import torch

from bench.data.cache import Cache

KEPT = {"pixels": torch.arange(60, dtype=torch.uint8).reshape(5, 3, 2, 2), "labels": torch.arange(5)}


@pytest.fixture
def cache(tmp_path):
    found = Cache(tmp_path / "cache")
    found.write("entry", "key", KEPT)
    return found


def file(cache):
    (found,) = cache.folder.iterdir()  # nothing temporary stays
    return found


def test_what_was_written_is_read(cache):
    found = cache.read("entry", "key")
    assert found.keys() == KEPT.keys()
    assert all(torch.equal(found[name], KEPT[name]) for name in KEPT)


@pytest.mark.parametrize(("name", "key"), [("entry", "other"), ("another", "key")])
def test_another_name_or_key_is_not_found(cache, name, key):
    assert cache.read(name, key) is None


def test_new_key_replaces_the_entry(cache):
    cache.write("entry", "new", {"pixels": torch.zeros(1)})
    assert cache.read("entry", "key") is None
    assert cache.read("entry", "new")["pixels"].tolist() == [0]
    assert file(cache)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:4], lambda b: b"x" * len(b)])
def test_damaged_entry_is_ignored(cache, damage):
    path = file(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read("entry", "key") is None
    cache.write("entry", "key", KEPT)
    assert cache.read("entry", "key") is not None


@pytest.mark.parametrize("place", [-1, -41, -100])
def test_one_flipped_bit_is_found(cache, place):
    path = file(cache)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    assert cache.read("entry", "key") is None


def test_without_a_folder_nothing_is_kept():
    Cache(None).write("entry", "key", KEPT)
    assert Cache(None).read("entry", "key") is None


def test_folder_that_takes_nothing_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = Cache(tmp_path / "cache")
    cache.write("entry", "key", KEPT)
    assert cache.read("entry", "key") is None
