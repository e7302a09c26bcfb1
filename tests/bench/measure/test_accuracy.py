import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.measure.accuracy import logits_of, quality


def image_set(images):
    """Something with batches of ``images``, as they are."""
    return SimpleNamespace(batches=lambda size: ((part, None) for part in images.split(size)))


def test_metrics_by_hand():
    probabilities = torch.tensor([[0.70, 0.20, 0.10], [0.40, 0.50, 0.10], [0.10, 0.08, 0.82], [0.30, 0.61, 0.09]])
    found = quality(probabilities.log(), torch.tensor([0, 0, 2, 1]))
    assert found["examples"] == 4
    assert found["top1"] == 0.75  # the second is taken for class 1
    assert found["top5"] == 1.0  # fewer than five classes
    assert found["loss"] == pytest.approx(-sum(map(math.log, (0.70, 0.40, 0.82, 0.61))) / 4)
    # each in a bin of its own: |1 - .7|, |0 - .5|, |1 - .82|, |1 - .61|
    assert found["ece"] == pytest.approx((0.30 + 0.50 + 0.18 + 0.39) / 4, abs=1e-6)
    assert (found["worst_class"], found["worst_class_top1"]) == (0, 0.5)


def test_calibration_error_averages_within_a_bin():
    """Two in one bin, one of them right: accuracy 0.5, confidence 0.7; one alone: accuracy 1, confidence 0.9."""
    logits = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.1, 0.9]]).log()
    found = quality(logits, torch.tensor([0, 1, 1]))
    assert found["ece"] == pytest.approx(2 / 3 * abs(0.5 - 0.7) + 1 / 3 * 0.1, abs=1e-6)


def test_calibrated_network_has_no_calibration_error():
    logits = torch.tensor([[0.75, 0.25]] * 4).log()
    assert quality(logits, torch.tensor([0, 0, 0, 1]))["ece"] == pytest.approx(0, abs=1e-6)


def test_top5_counts_the_fifth_and_not_the_sixth():
    logits = torch.arange(7.0).flip(0).repeat(7, 1)  # class 0 first, class 6 last
    found = quality(logits, torch.arange(7))
    assert found["top1"] == pytest.approx(1 / 7)
    assert found["top5"] == pytest.approx(5 / 7)
    assert (found["worst_class"], found["worst_class_top1"]) == (1, 0.0)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10])
def test_perfect_and_a_useless_network(classes):
    labels = torch.arange(classes).repeat(3)
    perfect = quality(100 * nn.functional.one_hot(labels, classes).float(), labels)
    assert (perfect["top1"], perfect["top5"], perfect["worst_class_top1"]) == (1, 1, 1)
    assert perfect["loss"] == pytest.approx(0, abs=1e-9)
    assert perfect["ece"] == pytest.approx(0, abs=1e-9)
    useless = quality(torch.zeros(len(labels), classes), labels)
    assert useless["loss"] == pytest.approx(math.log(classes))
    assert useless["top1"] == pytest.approx(1 / classes)
    assert useless["ece"] == pytest.approx(0, abs=1e-9)  # confidence 1 / classes, and right as often
    assert useless["worst_class_top1"] == 0


def test_class_without_examples_is_not_the_worst():
    logits = torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    found = quality(logits, torch.tensor([0, 1, 1]))
    assert (found["worst_class"], found["worst_class_top1"]) == (1, 0.5)


def test_invariances():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 7, generator=generator), torch.randint(7, (50,), generator=generator)
    found = quality(logits, labels)
    order = torch.randperm(50, generator=generator)
    assert quality(logits[order], labels[order]) == pytest.approx(found)
    assert quality(logits + 3, labels) == pytest.approx(found, abs=1e-6)
    names = torch.randperm(7, generator=generator)
    renamed = quality(logits[:, names], names.argsort()[labels])
    assert {k: v for k, v in renamed.items() if k != "worst_class"} == pytest.approx(
        {k: v for k, v in found.items() if k != "worst_class"}
    )
    assert found["worst_class_top1"] <= found["top1"] <= found["top5"]


def test_numbers_are_plain_and_finite_for_extreme_logits():
    found = quality(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 0]))
    assert all(type(v) in (int, float) and math.isfinite(v) for v in found.values())
    assert found["loss"] == pytest.approx(1e4)


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_taken_in_eval_mode_whatever_the_batch(training):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 4))
    images = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        expected = network.eval()(images)
    network.train(training)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    for batch in (1, 3, 1000):
        torch.testing.assert_close(logits_of(network, image_set(images), batch), expected)
    assert network.training is training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_logits_are_float32_and_without_gradient():
    logits = logits_of(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16(), image_set(torch.ones(2, 1, 2, 2).bfloat16())
    )
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
