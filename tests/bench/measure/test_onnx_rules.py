"""Rules of single operators of ONNX files: counts by hand, and the same function written with MatMul."""

import numpy as np
import pytest
import torch
from support.onnx_files import graph, node, save
from torch import nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.measure import flops, onnx_export, products
from bench.measure.einsum import macs_of_two
from bench.measure.onnx_file import OnnxFile
from bench.measure.onnx_macs import RULES, count
from bench.measure.onnx_operators import FREE, REFUSED

pytestmark = pytest.mark.usefixtures("onnx_extra")
SHAPE = (2, 6, 6)
MS = "com.microsoft"
ONE, ZERO = torch.tensor(1.0), torch.tensor(3, dtype=torch.uint8)
SIZES = {"rows": [-1, 6, 12], "narrow": [-1, 6, 6], "flat": [-1, 72], "steps": [6, -1, 12]}


def counted(folder, *nodes, batch="n", **stored):
    """Products of a graph of ``x [n, 2, 6, 6]``, of which ``rows [n, 6, 12]`` and so on are made as ``SIZES`` says."""
    reshaped = [node("Reshape", ["x", f"{name}_size"], name) for name in SIZES if name != "narrow"]
    reshaped.append(node("Slice", ["rows", "start", "end", "axis"], "narrow"))  # [n, 6, 6]
    sizes = {f"{name}_size": torch.tensor(size) for name, size in SIZES.items()}
    sizes |= {"start": torch.tensor([0]), "end": torch.tensor([6]), "axis": torch.tensor([2])}
    model = graph([*reshaped, *nodes], sizes | stored, SHAPE, batch, (nodes[-1].output[0],), opset=23)
    return count(OnnxFile(save(folder, model)), SHAPE).products


def macs(found):
    return [(product.kind, product.macs) for product in found]


# --- einsum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "sizes", "expected"),
    [
        ("bi,oi->bo", [(5, 4), (3, 4)], 60),
        ("bi,io", [(5, 4), (4, 3)], 60),
        ("bhqd,bhkd->bhqk", [(1, 2, 6, 3), (1, 2, 7, 3)], 2 * 6 * 7 * 3),
        ("...i,io->...o", [(5, 2, 4), (4, 3)], 120),
        ("...ij,...jk", [(5, 2, 4), (4, 3)], 120),
        ("bi,bj->bij", [(5, 4), (5, 3)], 60),
        ("b i , i -> b", [(5, 4), (4,)], 20),
        ("bi,oj->bo", [(5, 4), (3, 7)], 15),  # i and j are summed before
        ("bi,oi->bo", [(5, 1), (3, 4)], 15),  # stretched: summed before, too
        ("bii,bo->bo", [(5, 4, 4), (5, 3)], 15),  # the trace is no product
        ("ij,ij->", [(5, 4), (5, 4)], 20),
        ("i,j->", [(5,), (4,)], 1),
    ],
)
def test_einsum_of_two_costs_all_combinations_of_what_meets(equation, sizes, expected):
    assert macs_of_two(equation, sizes) == expected
    tensors = [torch.rand(size) for size in sizes]
    with flops.FlopCounterMode(display=False) as counter:
        torch.einsum(equation, tensors)
    assert counter.get_total_flops() // 2 in (expected, 0)  # 0: torch multiplies elements where nothing is summed


def test_einsum_is_what_matmul_is(tmp_path):
    weights = torch.ones(10, 12)
    weights[:4] = 0
    by_einsum = counted(tmp_path, node("Einsum", ["rows", "w"], "out", equation="bti,oi->bto"), w=weights)
    by_matmul = counted(tmp_path, node("MatMul", ["rows", "w"], "out"), w=weights.T.contiguous())
    for found in (by_einsum, by_matmul):
        assert macs(found) == [("linear", 6 * 12 * 10)]
        assert found[0].zero.all(axis=1).tolist() == [True] * 4 + [False] * 6
    assert macs(counted(tmp_path, node("Einsum", ["rows", "rows"], "out", equation="bti,bsi->bts"))) == [
        ("matmul", 6 * 6 * 12)
    ]


def test_einsum_whose_weights_come_first_and_stay_in_stacks(tmp_path):
    weights = torch.ones(2, 5, 6)  # head, channel, pixel
    weights[1, 3] = 0
    (found,) = counted(tmp_path, node("Einsum", ["w", "x"], "out", equation="hcp,bhqp->bhcq"), w=weights)
    assert (found.kind, found.macs) == ("linear", 2 * 5 * 6 * 6)
    assert found.zero.shape == (10, 6) and found.zero.all(axis=1).nonzero()[0].tolist() == [8]


def test_einsum_of_one_moves_and_of_three_is_refused(tmp_path):
    assert counted(tmp_path, node("Einsum", ["rows"], "out", equation="bti->bit")) == ()
    three = node("Einsum", ["rows", "rows", "rows"], "out", equation="bti,bsi,bui->btsu")
    with pytest.raises(RunFailed, match=r"Einsum Einsum_out \(more than two tensors, multiplied in an order"):
        counted(tmp_path, three)
    fixed = node("Einsum", ["w", "w", "w"], "v", equation="ij,jk,kl->il")  # made once, when the file is loaded
    assert macs(counted(tmp_path, fixed, node("MatMul", ["rows", "v"], "out"), w=torch.ones(12, 12))) == [
        ("linear", 6 * 12 * 12)
    ]


# --- matrices and convolutions ---------------------------------------------------------------------------------------


def test_weights_on_the_left_are_weights(tmp_path):
    weights = torch.ones(5, 6)
    weights[2] = 0
    (found,) = counted(tmp_path, node("MatMul", ["w", "rows"], "out"), w=weights)
    assert (found.kind, found.macs, found.outputs) == ("linear", 5 * 6 * 12, 60)
    assert found.zero.all(axis=1).tolist() == [False, False, True, False, False]

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weights)

        def forward(self, x):
            return self.weight @ x.reshape(len(x), 6, 12)

    (same,) = products.read(Mixed(), SHAPE).products
    assert (same.kind, same.macs) == (found.kind, found.macs)
    np.testing.assert_array_equal(same.zero, found.zero)


FORMS = {
    "FusedMatMul": (["rows", "w"], {"transB": 1}, [("linear", 6 * 12 * 10)]),
    "FusedMatMul, stacks last": (["x", "last"], {"transBatchA": 1, "transBatchB": 1}, [("linear", 2 * 6 * 6 * 4)]),
    "FusedGemm": (["flat", "g", "c"], {"transB": 1, "activation": "Relu"}, [("linear", 72 * 10)]),
    "FusedConv": (["x", "k"], {"kernel_shape": [3, 3], "activation": "Relu"}, [("conv", 16 * 4 * 18)]),
    "DynamicQuantizeMatMul": (["rows", "q", "one", "zero"], {}, [("linear", 6 * 12 * 10)]),
    "MatMulIntegerToFloat": (["rows8", "q", "one", "one", "zero", "zero"], {}, [("linear", 6 * 12 * 10)]),
    "QGemm": (["flat8", "one", "zero", "qg", "one", "zero", "", "one", "zero"], {}, [("linear", 72 * 10)]),
    "Attention": (["rows", "wide", "bias"], {"num_heads": 3}, [("linear", 6 * 12 * 36), ("matmul", 6 * 6 * 24)]),
    "Attention, narrow keys": (
        ["rows", "w24", "b24"],
        {"num_heads": 3, "qkv_hidden_sizes": [6, 6, 12]},
        [("linear", 6 * 12 * 24), ("matmul", 6 * 6 * (6 + 12))],
    ),
    "QAttention": (
        ["rows8", "q36", "bias", "one", "one", "", "zero", "zero"],
        {"num_heads": 3},
        [("linear", 6 * 12 * 36), ("matmul", 6 * 6 * 24)],
    ),
    "MultiHeadAttention": (["rows", "rows", "rows"], {"num_heads": 3}, [("matmul", 6 * 6 * 24)]),
}
"""Operators of onnxruntime, which it and its tools write -> inputs, attributes, products of one image."""
WEIGHTS = {
    **{"one": ONE, "zero": ZERO, "w": torch.ones(10, 12), "g": torch.ones(10, 72), "c": torch.ones(10)},
    "last": torch.ones(6, 2, 6, 4),  # in stacks of 2 x 6, from 6 to 4 channels
    **{"k": torch.ones(4, 2, 3, 3), "wide": torch.ones(12, 36), "bias": torch.ones(36)},
    **{"w24": torch.ones(12, 24), "b24": torch.ones(24)},
    **{f"q{name}": torch.full((rows, 10), 3, dtype=torch.uint8) for name, rows in (("", 12), ("g", 72))},
    "q36": torch.full((12, 36), 3, dtype=torch.uint8),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_onnxruntime(tmp_path, form):
    inputs, settings, expected = FORMS[form]
    name = form.partition(",")[0]
    nodes = [node("QuantizeLinear", [a, "one", "zero"], f"{a}8") for a in ("rows", "flat")]
    found = counted(tmp_path, *nodes, node(name, inputs, "out", MS, **settings), **WEIGHTS)
    assert macs(found) == expected
    first = found[0]
    if first.zero is not None:
        assert first.zero.sum() == (first.zero.size if any(i.startswith("q") for i in inputs) else 0)
        assert len(first.zero) == {"k": 4, "last": 48, "wide": 36, "w24": 24, "q36": 36}.get(inputs[1], 10)


def test_attention(tmp_path):
    stacked = node("Attention", ["x", "x", "x"], "out", is_causal=1)  # a mask halves nothing
    assert macs(counted(tmp_path, stacked)) == [("matmul", 2 * 6 * 6 * (6 + 6))]
    grouped = node("Attention", ["rows", "narrow", "narrow"], "out", q_num_heads=4, kv_num_heads=2)
    assert macs(counted(tmp_path, grouped, batch=3)) == [("matmul", 4 * 6 * 6 * (3 + 3))]
    by_hand = [
        node("Transpose", ["x"], "keys", perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "keys"], "scores"),
        node("Softmax", ["scores"], "shares"),
        node("MatMul", ["shares", "x"], "out"),
    ]
    assert macs(counted(tmp_path, *by_hand)) == 2 * [("matmul", 2 * 6 * 6 * 6)]


@pytest.mark.parametrize(("name", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_read_each_weight_once_a_step(tmp_path, name, gates):
    weights = {"w": torch.ones(1, gates * 5, 12), "r": torch.ones(1, gates * 5, 5)}
    found = counted(tmp_path, node(name, ["steps", "w", "r"], "out", hidden_size=5), **weights)
    assert macs(found) == [("linear", 6 * gates * 5 * 12), ("linear", 6 * gates * 5 * 5)]
    ends = {"lengths": torch.tensor([6], dtype=torch.int32)}
    again = node(name, ["steps", "w", "r", "", "lengths"], "out", hidden_size=5)
    assert macs(counted(tmp_path, again, **weights, **ends)) == macs(found)
    with pytest.raises(RunFailed, match="some sequences end earlier than others"):
        counted(tmp_path, again, **weights, lengths=ends["lengths"] - 1)


def test_a_recurrent_layer_of_torch_is_counted_like_its_file():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = nn.LSTM(12, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(self.layer(x.reshape(len(x), 6, 12))[0][:, -1])

    assert products.read(Steps(), SHAPE).macs == flops.count(Steps(), SHAPE).products == 6 * 20 * 17 + 15


# --- free, and refused -----------------------------------------------------------------------------------------------


def test_lists_of_tensors_are_free(tmp_path):
    nodes = [
        node("SplitToSequence", ["rows"], "parts", axis=1),
        node("SequenceAt", ["parts", "first"], "part"),  # [n, 1, 12]
        node("MatMul", ["part", "w"], "out"),
    ]
    assert macs(counted(tmp_path, *nodes, first=torch.tensor(0), w=torch.ones(12, 10))) == [("linear", 120)]


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_counted_says_why(tmp_path, why):
    names = sorted(REFUSED[why])
    parts = [name.rpartition(".") for name in names]
    nodes = [node(op, ["x"], f"out{n}", domain) for n, (domain, _, op) in enumerate(parts)]
    with pytest.raises(RunFailed) as found:
        counted(tmp_path, *nodes, node("Bar", ["x"], "out", "com.foo"))
    said = f"network.onnx: no rule counts {', '.join(names)} ({why}); com.foo.Bar: the total would be wrong."
    assert str(found.value) == f"{said} docs/score.md lists what is counted"


def test_keys_of_earlier_calls_are_refused(tmp_path):
    given = ["rows", "rows", "rows", "", "", "", "past", "past"]
    remembers = node("MultiHeadAttention", given, "out", MS, num_heads=3)
    with pytest.raises(RunFailed, match=r"MultiHeadAttention \w+ \(it reads keys of earlier calls\)"):
        counted(tmp_path, remembers, past=torch.ones(1, 3, 2, 4))


def test_no_operator_is_in_two_lists():
    names = [*FREE, *RULES, *(name for refused in REFUSED.values() for name in refused)]
    assert len(names) == len(set(names))


# --- exports ---------------------------------------------------------------------------------------------------------


class ByEinsum(nn.Module):
    """Mixes channels and attends over rows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5, 2))

    def forward(self, x):
        y = torch.einsum("bchw,oc->bohw", x, self.weight)
        return torch.einsum("bohw,bogw->bohg", y, y).flatten(1)


class ByMatmul(ByEinsum):
    def forward(self, x):
        y = (self.weight @ x.flatten(2)).unflatten(2, (6, 6))
        return (y @ y.transpose(2, 3)).flatten(1)


def test_an_export_with_einsum_costs_what_one_with_matmul_costs(tmp_path):
    found = {}
    for made in (ByEinsum(), ByMatmul()):
        path = tmp_path / "net.onnx"
        path.write_bytes(onnx_export.convert(made, SHAPE, quick=True))
        file = OnnxFile(path)
        kinds = {one.op_type for one in file.model.graph.node}
        found["Einsum" in kinds] = macs(count(file, SHAPE).products)
        assert sum(n for _, n in found["Einsum" in kinds]) == flops.count(made, SHAPE).products
    assert found[True] == found[False] == [("linear", 5 * 2 * 36), ("matmul", 5 * 6 * 6 * 6)]


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.last = nn.Linear(12, 36), nn.Linear(12, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.reshape(len(x), 6, 12)).reshape(len(x), 6, 3, 3, 4).permute(2, 0, 3, 1, 4)
        return self.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


@pytest.mark.slow
def test_an_export_with_attention_costs_what_one_with_matmul_costs(tmp_path, monkeypatch):
    found = []
    for opset in (onnx_export.OPSET, 23):
        monkeypatch.setattr(onnx_export, "OPSET", opset)
        path = tmp_path / "net.onnx"
        path.write_bytes(onnx_export.convert(Attends(), SHAPE))
        file = OnnxFile(path)
        assert ("Attention" in {one.op_type for one in file.model.graph.node}) == (opset == 23)
        found.append(count(file, SHAPE))
    assert found[0].by_kind() == found[1].by_kind()
    assert found[0].macs == flops.count(Attends(), SHAPE).products == 6 * 12 * 36 + 3 * 6 * 6 * 8 + 36
