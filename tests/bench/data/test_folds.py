"""Data sets whose test part rotates with the seed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.image_files import Files
from bench.data.loading import load_test, load_training
from bench.data.registration import fold_of_each
from bench.errors import SetupError
from bench.spec.registry import DATASETS

CPU = torch.device("cpu")
HERE = Path("nowhere")


def parts_of(name, seed):
    facts = DATASETS.get(name) if isinstance(name, str) else name
    found = load_training(facts, HERE, False, seed, CPU)
    test, sha256 = load_test(facts.for_seed(seed), HERE, found.train)
    return found, test, sha256


def images_of(*parts):
    pairs = [pair for part in parts for pair in zip(part.pixels.numpy(), part.labels, strict=True)]
    return sorted((pixels.tobytes(), int(label)) for pixels, label in pairs)


def test_five_seeds_test_every_digit_once():
    made = [parts_of("digits", seed) for seed in range(5)]
    assert [len(test) for _, test, _ in made] == [364, 362, 359, 357, 355]
    every = images_of(*(test for _, test, _ in made))
    assert len(every) == 1797
    for seed, (found, test, sha256) in enumerate(made):
        assert images_of(found.train, found.val, test) == every
        assert found.facts["fold"] == seed
        assert found.facts["test"] == len(test)
        assert test.labels.unique().tolist() == list(range(10))
        counts = torch.bincount(torch.cat([found.train.labels, found.val.labels]))
        assert (torch.bincount(found.val.labels) - counts / 10).abs().max() <= 0.5
        assert sha256 not in {found.facts["train_sha256"], found.facts["split_sha256"]}
        assert torch.equal(test.mean, found.train.mean)
    for key, different in (("folds_sha256", 1), ("train_sha256", 5), ("split_sha256", 5)):
        assert len({found.facts[key] for found, _, _ in made}) == different


def test_seed_and_five_more_share_the_fold_and_nothing_of_the_split():
    (one, test, sha256), (other, again, same) = parts_of("digits", 2), parts_of("digits", 7)
    assert (sha256, images_of(test), one.facts["train_sha256"]) == (same, images_of(again), other.facts["train_sha256"])
    assert one.facts["fold"] == other.facts["fold"] == 2
    assert one.facts["split_sha256"] != other.facts["split_sha256"]


def test_fold_is_the_rank_in_the_class():
    labels = torch.tensor([0, 1, 1, 0, 0, 1, 1, 1])
    assert fold_of_each(labels, 3).tolist() == [0, 0, 1, 1, 2, 2, 0, 1]


def facts_with(labels, folds=2, loaded=None, **facts):
    """The facts of a data set that is not registered."""
    arrays = np.arange(4 * len(labels), dtype=np.uint8).reshape(-1, 2, 2), np.array(labels)
    some = dataclasses.replace(DATASETS.get("digits"), name="mine", shape=(1, 2, 2), classes=2, sha256=None)
    return dataclasses.replace(
        some, sizes=(len(labels), 0), folds=folds, load=lambda *_: arrays if loaded is None else loaded, **facts
    )


def test_other_images_labels_and_folds_have_other_hashes():
    labels = [0, 1] * 6
    found = {
        parts_of(facts, 0)[0].facts["folds_sha256"]
        for facts in (
            facts_with(labels),
            facts_with(labels, folds=3),
            facts_with([1, 0] * 6),
            facts_with(labels, loaded=(np.zeros((12, 2, 2), dtype=np.uint8), np.array(labels))),
        )
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (facts_with([0, 1] * 6, folds=3, sha256=("0" * 64,)), "its images are not the published ones"),
        (facts_with([0, 0, 0, 0, 0, 0, 1, 1], folds=3), "test labels of fold 2 are not 0..1"),
        (facts_with([0, 1, 2] * 6), "all labels are not 0..1"),
        (facts_with([0, 1] * 6, loaded=Files.of(Path(), [], [])), "folds are of arrays, not of files"),
        (dataclasses.replace(facts_with([0, 1] * 6), sizes=(9, 2)), "all images are [12, 1, 2, 2]"),
    ],
)
def test_data_set_with_folds_that_cannot_be_is_refused(facts, says):
    with pytest.raises(SetupError) as caught:
        parts_of(facts, 2)
    assert says in str(caught.value)


def test_test_images_without_a_seed_are_refused():
    found = load_training("digits", HERE, False, 0, CPU)
    with pytest.raises(SetupError, match="no seed says which fold tests"):
        load_test("digits", HERE, found.train)


def test_data_set_without_folds_is_the_same_for_every_seed():
    facts = DATASETS.get("synthetic")
    assert facts.for_seed(3) is facts
    assert "fold" not in parts_of("synthetic", 3)[0].facts
