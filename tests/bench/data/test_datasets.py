from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bench.data.loading import dataset, load_test, load_training, validation_split
from bench.errors import SetupError, UsageError
from bench.spec.registry import DATASETS

CPU = torch.device("cpu")
DOWNLOADED = (
    *("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"),
    *("flowers102", "tiny_imagenet", "imagenette"),
)


def load(name="digits", seed=0, folder=Path("nowhere")):
    return load_training(name, folder, False, seed, CPU)


def of_test(name, like, seed=0):
    return load_test(DATASETS.get(name).for_seed(seed), Path("nowhere"), like)


# --- the digits and the synthetic set ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "train", "test"), [("digits", 1433, 364), ("synthetic", 1280, 320)])
def test_sizes_facts_and_normalisation(name, train, test):
    found = load(name)
    facts = DATASETS.get(name)
    held, _ = of_test(name, found.train)
    assert len(found.train) + len(found.val) == train == facts.sizes[0]
    assert len(held) == test == facts.sizes[1]
    assert (found.facts["train"], found.facts["val"], found.facts["test"]) == (len(found.train), len(found.val), test)
    for part in (found.train, found.val):
        assert tuple(part.pixels.shape[1:]) == facts.shape
        assert (part.pixels.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.labels.unique().tolist() == list(range(facts.classes))
    both = torch.cat([part.normalised(part.pixels) for part in (found.train, found.val)])
    torch.testing.assert_close(both.mean(dim=(0, 2, 3)), torch.zeros(both.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(both.std(dim=(0, 2, 3)), torch.ones(both.shape[1]), atol=1e-4, rtol=0)
    assert torch.equal(held.mean, found.train.mean)
    assert torch.equal(held.std, found.val.std)


def test_digits_are_scikit_learns_and_the_parts_do_not_overlap():
    before = torch.get_rng_state()
    found = load("digits")
    assert torch.equal(torch.get_rng_state(), before)
    test, _ = of_test("digits", found.train)
    parts = [found.train, found.val, test]
    ours = [(p.tobytes(), int(y)) for part in parts for p, y in zip(part.pixels.numpy(), part.labels)]
    raw = load_digits()
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


def test_split_takes_a_tenth_of_each_class():
    labels = torch.arange(7).repeat_interleave(torch.tensor([1, 4, 10, 25, 100, 300, 999]))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    for seed in (0, 1, 12345):
        held = validation_split(labels, seed)
        assert held.dtype == torch.bool
        assert [int(held[labels == k].sum()) for k in range(7)] == [1, 1, 1, 2, 10, 30, 100]


# --- what is not there, or not what it should be --------------------------------------------------------------


def test_missing_files_name_what_to_do(tmp_path):
    for name in DOWNLOADED:
        for act in (lambda name=name: load(name, folder=tmp_path), lambda name=name: load_test(name, tmp_path, None)):
            text = refused(act)
            for word in (str(tmp_path), "--download", "--data-dir"):
                assert word in text, name
    with pytest.raises(UsageError, match="unknown data set 'digit': did you mean digits"):
        load("digit")


def refused(act, match=None):
    """The one line of the SetupError that ``act`` raises."""
    with pytest.raises(SetupError, match=match) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def raw(size=20, shape=(4, 4), classes=2):
    return np.zeros((size, *shape), dtype=np.uint8), np.arange(size) % classes


def test_damaged_data(forgets):
    cases = (
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
    )
    given = iter(case for case, _ in cases)

    @dataset("damaged", shape=(1, 4, 4), classes=2, sizes=(20, 20), sha256=("0" * 64, "0" * 64))
    def damaged(part, folder, download):
        return next(given)()

    for _, why in cases:
        refused(lambda: load("damaged"), f"'damaged' in nowhere is damaged: .*{why}.*--download")


def test_arrays_that_are_no_images_are_refused(forgets):
    cases = (
        (np.zeros((20, 4, 4), np.float32), np.arange(20) % 2, r"images float32 \[20, 4, 4\]"),
        (np.zeros((20, 4, 4), np.uint16), np.arange(20) % 2, r"images uint16 \[20, 4, 4\]"),
        (np.zeros((20, 16), np.uint8), np.arange(20) % 2, r"images uint8 \[20, 16\]"),
        (np.zeros((20, 4, 4), np.uint8), np.linspace(0, 1.5, 20), r"labels float64 \[20\]"),
        (np.zeros((20, 4, 4), np.uint8), np.eye(20, 2, dtype=np.int64), r"labels int64 \[20, 2\]"),
    )
    given = iter(cases)

    @dataset("arrays", shape=(1, 4, 4), classes=2, sizes=(20, 20), normal=((0.5,), (0.5,)))
    def arrays(part, folder, download):
        return next(given)[:2]

    for *_, said in cases:
        refused(lambda: load("arrays"), rf"'arrays': its loader gives .*{said}.*; images are uint8")


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
