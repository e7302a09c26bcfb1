"""Which units an operator's result belongs to."""

import pytest
import torch
from torch.nn import functional as F

from bench.pruning.channel_labels import Flow, Ledger, Rules, compact, reshaped
from bench.pruning.channel_tracing import _Tracer

C = 6


def follow(function, *shapes):
    """Labels of what ``function`` gives for tensors whose second axis has units; the ledger; the units' labels."""
    network = torch.nn.Module()
    tracer = _Tracer(network)
    given, labels = [torch.rand(shape) for shape in shapes], []
    for x in given:
        labels.append(tracer.ledger.fresh(x.shape[1]))
        tracer.flows[x] = Flow(labels[-1].reshape([-1 if d == 1 else 1 for d in range(x.dim())]))
    with torch.no_grad(), tracer:
        out = function(*given)
    return tracer.flow(out).labels.expand(out.shape), tracer.ledger, labels


MAP = (2, C, 4, 4)
MOVES = [
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.flatten(1),
    lambda x: x.reshape(2, 2, 3, 16).transpose(1, 2).reshape(2, C, 4, 4),
    lambda x: x.flip(1)[:, 1::2],
    lambda x: torch.cat(x.split([1, 2, 3], 1)[::-1], 1),
    lambda x: torch.stack(x.unbind(1), -1),
    lambda x: x[:, [4, 0, 2]],
    lambda x: x.roll(2, 1).repeat(1, 2, 1, 1),
    lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
    lambda x: F.unfold(x, 2),
    lambda x: x.unfold(2, 2, 2),
]


def test_labels_move_with_their_elements():
    """Each element of the result has the label of the channel that its value came from."""
    channel = torch.arange(1.0, C + 1).reshape(1, C, 1, 1).expand(MAP)
    for k, move in enumerate(MOVES):
        found, ledger, _ = follow(move, MAP)
        assert torch.equal(found, move(channel).long()), k
        assert (ledger.classes() == torch.arange(C + 1).numpy()).all(), k


@pytest.mark.parametrize(
    ("function", "classes"),
    [
        (lambda x: x.mean((2, 3)), 6),
        (lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), 6),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 6),
        (lambda x: x.softmax(-1) * x.sigmoid() + 1, 6),
        (lambda x: x.unflatten(1, (3, 2)).sum(1), 2),
        (lambda x: x.unflatten(1, (3, 2)).amax(2), 3),
        (lambda x: F.glu(x, 1), 3),
        (lambda x: x.softmax(1), 1),
        (lambda x: x / x.norm(dim=1, keepdim=True), 1),
        (lambda x: x + x.flip(1), 3),
        (lambda x: F.layer_norm(x, (4, 4)), 6),
        (lambda x: F.layer_norm(x, MAP[1:]), 1),
        (lambda x: x.cumsum(1), 1),
        (lambda x: x.sort(2)[0], 6),
    ],
)
def test_how_many_units_are_left(function, classes):
    _, ledger, (labels,) = follow(function, MAP)
    assert len(set(ledger.classes()[labels.numpy()])) == classes
    assert classes == 1 or not ledger.fixed


def test_units_of_two_tensors_go_together_place_by_place():
    found, ledger, (left, right) = follow(lambda a, b: a * b.flip(1), MAP, (2, C, 1, 1))
    classes = ledger.classes()
    assert (classes[left.numpy()] == classes[right.flip(0).numpy()]).all()
    assert torch.equal(found[0, :, 0, 0], left)


def test_one_channel_for_many_units_is_fixed_and_they_are_not():
    _, ledger, (left, right) = follow(lambda a, b: a * b, MAP, (2, 1, 4, 4))
    ((fixed, why),) = ledger.fixed
    assert fixed.tolist() == right.tolist()
    assert "several units" in why
    assert len(set(ledger.classes()[left.numpy()])) == C


def test_heads_are_what_attention_multiplies():
    """Six channels of query, key and value as two heads: each head of all three is one unit."""

    def attend(q, k, v):
        q, k, v = (t.unflatten(1, (2, 3)).transpose(2, 3) for t in (q, k, v))
        return ((q @ k.mT).softmax(-1) @ v).transpose(2, 3).flatten(1, 2)

    found, ledger, labels = follow(attend, *[(2, C, 5)] * 3)
    classes = ledger.classes()
    heads = [classes[t.numpy()].tolist() for t in labels]
    assert heads[0] == heads[1] == heads[2]
    assert len(set(heads[0][:3])) == len(set(heads[0][3:])) == 1
    assert len(set(heads[0])) == 2
    assert classes[found[0, :, 0].numpy()].tolist() == heads[0]


def test_what_is_written_to_a_part_has_its_labels():
    def write(x):
        out = torch.zeros(2, 2 * C, 4, 4)
        out[:, ::2] = x
        return out

    found, _, (labels,) = follow(write, MAP)
    assert torch.equal(found[0, ::2, 0, 0], labels)
    assert not found[0, 1::2].any()


def test_compact_keeps_axes_that_vary():
    labels = torch.arange(6).reshape(1, 6, 1).expand(2, 6, 3)
    assert compact(labels).shape == compact(labels.contiguous()).shape == (1, 6, 1)
    assert compact(labels.contiguous().reshape(2, 18)).shape == (1, 18)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((2, 6, 4, 4), (2, 6, 16)),
        ((2, 6, 4, 4), (2, 3, 2, 2, 2, 4)),
        ((2, 6, 4, 4), (1, 192)),
        ((2, 1, 6, 4), (4, 3, 1, 4, 1)),
        ((1, 1), ()),
        ((), (1, 1)),
        ((2, 0, 3), (0, 5)),
    ],
)
def test_reshaped_labels_are_those_of_the_whole_tensor(old, new):
    """Whichever axes they vary along."""
    for vary in range(2 ** len(old)):
        few = [size if vary >> axis & 1 else min(size, 1) for axis, size in enumerate(old)]
        labels = torch.arange(torch.Size(few).numel()).reshape(few)
        assert torch.equal(reshaped(labels, old, new), compact(labels.expand(old).reshape(new)))


def test_classes_of_a_long_chain():
    ledger = Ledger()
    labels = ledger.fresh(1000)
    ledger.unite(labels[1:], labels[:-1])
    assert set(ledger.classes()[1:]) == {1}
    assert Rules(ledger, lambda t: Flow(t)).ledger is ledger
