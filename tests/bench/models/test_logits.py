"""Networks of several outputs, of which a function picks the logits."""

import pytest
import torch
from support.networks import SHAPE, conv, half_masks, images
from torch import nn

from bench.errors import UsageError
from bench.measure import flops
from bench.models.external import require_fit
from bench.models.logits import with_logits
from bench.models.shared_parameters import copied
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites


class Detector(nn.Module):
    """Logits and boxes: a dictionary, while training a tuple."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.boxes = conv(3, 6), conv(6, 8), conv(8, 4, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(self.stem(x).relu()).relu()
        logits, boxes = self.fc(x.mean((2, 3))), self.boxes(x)
        return (logits, boxes) if self.training else {"logits": logits, "boxes": boxes}


def pick(output):
    return output[0] if isinstance(output, tuple) else output["logits"]


def test_picked_logits_are_the_output_in_both_modes():
    network, x = Detector(), images()
    names, kind = list(network.state_dict()), str(network)
    expected = network.eval()(x)["logits"]
    picked = with_logits(network, pick)
    assert picked is network
    assert torch.equal(picked(x), expected)
    assert picked.train()(x).shape == (2, 4)
    assert (list(picked.state_dict()), str(picked)) == (names, kind)
    assert torch.equal(copied(picked).eval()(x), expected)


def test_without_a_function_nothing_changes():
    network = Detector()
    assert with_logits(network, None) is network
    assert type(network) is Detector


def test_other_outputs_are_sliced_along_and_counted():
    network = with_logits(Detector(), pick).eval()
    sites = find_sites(network, SHAPE)
    assert sites.widths == {"stem": 6, "body": 8}
    assert sites.rejected["boxes"] == "no layer reads its units"
    masks = half_masks(sites)
    sliced = sites.slice(network, masks)
    assert gate_slice_difference(network, sliced, sites, masks, images()) <= 1e-4
    assert sliced.boxes.in_channels == 4
    products = 64 * (27 * 3 + 27 * 4 + 4 * 4) + 4 * 4  # stem, body and boxes on 8x8, fc
    assert flops.count(sliced, SHAPE).products == products
    model = CostModel(network, sites, SHAPE)
    assert model.macs(model.array({"stem": 3, "body": 4})) == flops.count(sliced, SHAPE).total


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda output: tuple(output.values()), "logits: '<lambda>' gives a tuple, not a tensor"),
        (lambda output: output["scores"], r"logits: '<lambda>' fails on the network's dict \(KeyError: 'scores'\)"),
        (None, "gives dict for two images.*an attribute 'logits' of the function that builds it"),
    ],
)
def test_what_cannot_be_picked_is_one_line(function, message):
    with pytest.raises(UsageError, match=message) as caught:
        require_fit("detector", with_logits(Detector(), function), SHAPE, 4)
    assert "\n" not in str(caught.value)
