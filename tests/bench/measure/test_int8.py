"""8-bit integers: two layers against numpy, what is integer once it is optimized, what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import RunFailed
from bench.measure import int8, onnx_export

SHAPE = (2, 5, 5)

pytestmark = pytest.mark.usefixtures("onnx_extra")


@pytest.fixture(scope="module")
def layers():
    """A convolution and a linear layer, and images that they are calibrated on."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()
    return network, torch.randn(64, *SHAPE)


def rounded(values, low, high):
    """Unsigned 8 bits over [low, high], which holds 0: what is left of values."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale


def rounded_weight(weight):
    """Signed 8 bits for each output channel."""
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.round(weight / scale), -127, 127) * scale


def convolved(x, weight, bias):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("bcijkl,ockl->boij", windows, weight) + bias[:, None, None]


def test_two_layers_are_those_of_numpy(layers):
    """Ranges of activations are the least and largest of the calibration images; weights by channel."""
    network, images = layers
    _, content = int8.files(network, SHAPE, [images[:32], images[32:]])
    found = onnx_export.load(content)(images)()[0]
    conv, linear = network[0], network[3]
    weights = [layer.weight.detach().numpy() for layer in (conv, linear)]
    biases = [layer.bias.detach().numpy() for layer in (conv, linear)]
    x = images.numpy()
    hidden = np.maximum(convolved(x, weights[0], biases[0]), 0)
    outputs = hidden.reshape(64, -1) @ weights[1].T + biases[1]
    inner = np.maximum(convolved(rounded(x, x.min(), x.max()), rounded_weight(weights[0]), biases[0]), 0)
    inner = rounded(inner, hidden.min(), hidden.max()).reshape(64, -1)
    expected = rounded(inner @ rounded_weight(weights[1]).T + biases[1], outputs.min(), outputs.max())
    step = (max(outputs.max(), 0) - min(outputs.min(), 0)) / 255
    assert np.abs(found - expected).max() <= 1.5 * step  # a value between two steps may go either way
    assert np.abs(found - expected).mean() <= 0.1 * step
    assert np.abs(found - outputs).max() > 2 * step / 10  # it is not float32


def test_convolutions_are_integer_once_it_is_optimized(layers):
    network, images = layers
    plain, content = int8.files(network, SHAPE, [images])
    assert int8.convolutions(plain) == (0, 1)
    assert int8.convolutions(content) == (1, 1)


def test_images_of_one_class_are_refused():
    batches = [(torch.rand(3, *SHAPE), torch.tensor(labels)) for labels in ([1, 1, 1], [1, 1, 2])]
    assert len(int8.calibration(iter(batches))) == 2
    assert len(int8.calibration(iter(batches * 4))) == 4
    with pytest.raises(RunFailed, match="calibration: all images are of one class"):
        int8.calibration(iter(batches[:1] * 5))
