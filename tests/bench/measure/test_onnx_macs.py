"""MACs of ONNX files: graphs written by hand, and exports against fvcore."""

import numpy as np
import pytest
import torch
from support.onnx_files import graph, node, save, tensor
from torchvision import models

from bench.errors import RunFailed, UsageError
from bench.measure import flops, onnx_export
from bench.measure.onnx_file import OnnxFile
from bench.measure.onnx_macs import count
from bench.models.build import build

pytestmark = pytest.mark.usefixtures("onnx_extra")
SHAPE = (2, 6, 6)


def counted(path, shape=SHAPE):
    found = count(OnnxFile(path), shape)
    return [(product.kind, product.macs) for product in found.products]


def network(*more, batch="n", weights=(), outputs=10):
    """A convolution of 4 filters, pooling, a linear layer; ``more`` nodes lead from ``features`` to ``out``."""
    nodes = [
        node("Conv", ["x", "w"], "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "b"),
        node("GlobalAveragePool", ["b"], "c"),
        node("Flatten", ["c"], "features"),
        *(more or [node("Gemm", ["features", "v", "bias"], "out", transB=1)]),
    ]
    stored = {"w": torch.ones(4, 2, 3, 3), "v": torch.ones(outputs, 4), "bias": torch.ones(outputs), **dict(weights)}
    return graph(nodes, stored, SHAPE, batch)


def test_layers_by_hand(tmp_path):
    path = save(tmp_path, network())
    assert counted(path) == [("conv", 36 * 4 * 2 * 9), ("linear", 40)]
    found = count(OnnxFile(path), SHAPE)
    assert found.others == {"Relu": 144, "GlobalAveragePool": 144, "Flatten": 4}
    assert [(p.outputs, p.inputs, p.bias) for p in found.products] == [(144, 72, False), (10, 4, True)]


def test_a_matrix_product_is_counted_each_time(tmp_path):
    once = node("MatMul", ["features", "m"], "out")
    twice = [node("MatMul", ["features", "m"], "d"), node("MatMul", ["features", "m"], "e"), node("Add", "de", "out")]
    stored = {"m": torch.ones(4, 10)}
    assert counted(save(tmp_path, network(once, weights=stored)))[1:] == [("linear", 40)]
    assert counted(save(tmp_path, network(*twice, weights=stored)))[1:] == 2 * [("linear", 40)]


def test_products_of_two_activations_and_of_constants(tmp_path):
    more = [
        node("Unsqueeze", ["features", "axis"], "row"),
        node("Transpose", ["row"], "column", perm=[0, 2, 1]),
        node("MatMul", ["column", "row"], "square"),
        node("MatMul", ["m", "m"], "fixed"),  # the same for all images: made once
        node("MatMul", ["square", "fixed"], "out"),
    ]
    path = save(tmp_path, network(*more, weights={"axis": torch.tensor([1]), "m": torch.ones(4, 4)}))
    assert counted(path)[1:] == [("matmul", 16), ("linear", 64)]


@pytest.mark.parametrize(("groups", "shape"), [(1, (4, 3, 2, 2)), (2, (4, 3, 2, 2))])
def test_transposed_convolution_is_fvcore_s(tmp_path, groups, shape):
    layer = torch.nn.ConvTranspose2d(4, 3 * groups, 2, stride=2, groups=groups)
    more = [node("ConvTranspose", ["b", "t"], "out", kernel_shape=[2, 2], strides=[2, 2], group=groups)]
    path = save(tmp_path, network(*more, weights={"t": torch.ones(shape)}))
    expected = flops.count(layer.eval(), (4, 6, 6)).by_op["conv"]
    assert counted(path)[1:] == [("conv", expected)]


def test_quantized_forms(tmp_path):
    one, zero = torch.tensor(1.0), torch.tensor(3, dtype=torch.uint8)
    stored = {"one": one, "zero": zero, "q": torch.full((5, 4, 3, 3), 3, dtype=torch.uint8)}
    stored |= {"m": torch.ones(180, 10, dtype=torch.uint8)}
    more = [
        node("QuantizeLinear", ["b", "one", "zero"], "d"),
        node("ConvInteger", ["d", "q", "zero", "zero"], "int", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("QLinearConv", [*("d", "one", "zero", "q", "one", "zero", "one", "zero")], "e", pads=[1, 1, 1, 1]),
        node("Flatten", ["e"], "f"),
        node("QLinearMatMul", ["f", "one", "zero", "m", "one", "zero", "one", "zero"], "g"),
        node("MatMulInteger", ["f", "m"], "h"),
        node("Cast", ["h"], "out", to=1),
    ]
    path = save(tmp_path, network(*more, weights=stored))
    assert counted(path)[1:] == 2 * [("conv", 36 * 5 * 36)] + 2 * [("linear", 1800)]
    zeros = [product.zero.mean() for product in count(OnnxFile(path), SHAPE).products[1:]]
    assert zeros == [1, 1, 0, 0]  # 3 is the zero point


def test_weights_that_the_file_computes_have_their_zeros(tmp_path):
    mask = torch.ones(4, 2, 3, 3)
    mask[:2] = 0
    masked = node("Mul", ["w", "mask"], "masked")
    model = network(weights={"mask": mask})
    model.graph.node.insert(0, masked)
    model.graph.node[1].input[1] = "masked"
    first = count(OnnxFile(save(tmp_path, model)), SHAPE).products[0]
    assert first.zero.all(axis=1).tolist() == [True, True, False, False]


def test_fixed_batch_is_divided(tmp_path):
    path = save(tmp_path, network(batch=5))
    assert OnnxFile(path).batch == 5
    assert counted(path) == counted(save(tmp_path, network()))


def test_operators_without_a_rule_are_no_zero(tmp_path):
    with pytest.raises(RunFailed, match=r"no rule counts com\.foo\.Bar: the total would be wrong"):
        counted(save(tmp_path, network(node("Bar", ["features"], "out", domain="com.foo"))))


def test_files_that_are_refused(tmp_path):
    model = network()
    path = save(tmp_path, model)
    with pytest.raises(UsageError, match=r"allow more with --max-bytes"):
        OnnxFile(path, max_bytes=100)
    with pytest.raises(UsageError, match="no such file"):
        OnnxFile(tmp_path / "none.onnx")
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(np.arange(300, dtype=np.uint8).tobytes())
    with pytest.raises(UsageError, match=r"noise\.onnx is no ONNX file"):
        OnnxFile(noise)
    model.graph.input.append(tensor("y", [1, 4]))
    with pytest.raises(UsageError, match=r"has 2 inputs \(x, y\)"):
        OnnxFile(save(tmp_path, model))
    del model.graph.input[:]
    model.graph.input.append(tensor("x", [1, 4]))
    with pytest.raises(UsageError, match="is not float32"):
        OnnxFile(save(tmp_path, model))


def test_weights_in_another_file(tmp_path):
    import onnx

    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert counted(path) == counted(save(tmp_path, network()))
    size = path.stat().st_size
    with pytest.raises(UsageError, match="more than"):
        OnnxFile(path, max_bytes=size)
    content = path.read_bytes()
    (tmp_path / "net.data").rename(tmp_path.parent / "other")
    with pytest.raises(UsageError, match=r"keeps its weights in net\.data, which is not next to it"):
        OnnxFile(path)
    path.write_bytes(content.replace(b"net.data", b"../other"))
    with pytest.raises(UsageError, match="cannot be read"):
        OnnxFile(path)


def tiny_vit():
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    return models.VisionTransformer(**sizes, num_classes=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "resnet20", "vit"])  # tools/timing/onnx_counts.py has more
def test_exports_cost_what_fvcore_counts(tmp_path, name):
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    made = tiny_vit() if name == "vit" else build(name, shape, 10)
    path = tmp_path / "network.onnx"
    path.write_bytes(onnx_export.convert(made, shape))
    found, expected = count(OnnxFile(path), shape), flops.count(made, shape)
    assert found.macs == expected.products
    assert sum(p.macs for p in found.products if p.kind == "conv") == expected.by_op["conv"]
