"""Batches, losses and weights that ``bench.prune`` cannot work with: one line with the true cause."""

import re

import pytest
import torch
from support.networks import GREY, three_sites, two_sites
from support.scripts_of_users import batches, example
from torch import nn

import bench
from bench.errors import RunFailed, UsageError
from bench.spec.registry import METHODS


def refused(message, data=None, error=UsageError, network=None, **options):
    """The call is refused with exactly this text, and leaves the network as it was."""
    network = network or three_sites()
    with pytest.raises(error) as raised:
        bench.prune(network, example(), data, **{"method": "taylor", "keep_macs": 0.5} | options)
    assert re.fullmatch(message, str(raised.value)), str(raised.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def with_targets(change):
    return [(x, change(y)) for x, y in batches()]


@pytest.mark.parametrize("method", ["taylor", "tp_taylor"])
def test_labels_out_of_range(method):
    refused("label 14: the logits are of 10 classes, from 0 on", with_targets(lambda y: y * 0 + 14), method=method)
    refused("label -1: the logits are of 10 classes, from 0 on", with_targets(lambda y: y * 0 - 1), method=method)


def test_labels_that_are_not_counted_stay_out():
    ignored = with_targets(lambda y: torch.where(y > 7, -100, y))
    bench.prune(three_sites(), example(), ignored, method="taylor", keep_macs=0.5)


@pytest.mark.parametrize("change", [torch.Tensor.float, torch.Tensor.int, lambda y: y[:3], lambda y: y[:, None]])
def test_targets_of_another_kind(change):
    targets = change(batches(count=1)[0][1])
    what = re.escape(f"no cross-entropy of logits [8, 10] and targets {list(targets.shape)} of {targets.dtype}: ")
    refused(f"{what}.*; give loss=", with_targets(change))
    refused("loss fails: TypeError: .*", with_targets(change), loss=lambda out, y: len(3))


def test_outputs_that_are_no_logits():
    network = nn.Sequential(three_sites(), nn.Unflatten(1, (5, 2)))
    what = re.escape("no cross-entropy of logits [8, 5, 2] and targets [8] of torch.int64: ")
    refused(f"{what}.*; give loss=", with_targets(lambda y: y.clamp(max=4)), network=network)
    bench.prune(network, example(), keep_macs=0.5)  # weights alone need no logits
    own = {"loss": lambda out, y: nn.functional.cross_entropy(out.flatten(1), y)}
    bench.prune(network, example(), batches(), method="taylor", keep_macs=0.5, **own)


def test_images_that_the_network_does_not_take():
    for network, shape, size in ((three_sites(), (3, 8, 8), "3x8x8"), (two_sites(), (1, 4, 4), "1x4x4")):
        data = [(torch.randn(8, *shape), torch.zeros(8, dtype=torch.int64))]
        refused(f"data: the network does not take {size}: RuntimeError: .*; example is 1x8x8", data, network=network)
    data = [((255 * torch.rand(8, *GREY)).byte(), torch.zeros(8, dtype=torch.int64))]
    refused(r"data: the network does not take 1x8x8 of torch\.uint8: .*; example is 1x8x8", data)


def test_inputs_without_numbers():
    for batch, said in (
        (torch.full((8, *GREY), float("nan")), "data gave inputs that are not finite"),
        (torch.empty(0, *GREY), "data gave a batch of nothing"),
    ):
        refused(said, [(batch, torch.zeros(len(batch), dtype=torch.int64))])
        refused(said, [batch], method="act_mean")
    with pytest.raises(
        UsageError, match=r"^example is torch.int64: networks are pruned whose inputs are floating point"
    ):
        bench.prune(
            nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 2)), torch.zeros(2, 3, dtype=torch.int64), keep_macs=0.5
        )


def test_images_of_other_sizes_are_used_where_the_network_takes_them():
    layers = [nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8, 10))
    data = [(torch.randn(8, 1, size, size), torch.zeros(8, dtype=torch.int64)) for size in (8, 12, 8)]
    bench.prune(network, example(), data, method="taylor", keep_macs=0.5)


def test_a_loader_of_the_user_s_that_fails():
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            raise FileNotFoundError(f"no image {index}")

    loader = torch.utils.data.DataLoader(Images(), batch_size=4)
    refused("data fails: FileNotFoundError: no image 0", loader, RunFailed)
    refused("data fails: ZeroDivisionError: .*", (1 // 0 for _ in range(2)), RunFailed)


def test_weights_and_outputs_that_are_not_finite():
    network = three_sites()
    with torch.no_grad():
        network[4].weight[0, 0] = float("nan")
    refused(r"4\.weight is not finite: .*", network=network, method="l1_norm")
    blown = nn.Sequential(three_sites(), nn.LogSoftmax(1), nn.Softplus(), nn.Threshold(1e3, float("inf")))
    refused("the network's output for example is not finite: .*", network=blown, method="l1_norm")


def test_what_a_method_raises_is_one_line(monkeypatch):
    def scores(self, ctx):
        return ctx.forward(torch.zeros(2, 3, 8, 8))

    monkeypatch.setattr(METHODS.get("l1_norm"), "scores", scores)
    why = r"'l1_norm' fails: RuntimeError: .* \(test_bad_batches.py:\d+, layer 0 \(Conv2d\), input 2x3x8x8\)"
    refused(why, method="l1_norm", error=RunFailed)
