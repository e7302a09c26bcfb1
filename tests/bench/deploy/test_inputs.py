"""Networks of several inputs, by position and by name."""

import pytest
import torch
from support.networks import Encoder
from support.scripts_of_users import same
from torch import nn

import bench


class TwoInputs(nn.Module):
    """An image and four numbers beside it."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3))
        self.facts, self.weight = nn.Linear(4, 10), nn.Linear(8, 10)
        self.fc = nn.Sequential(nn.ReLU(), nn.Linear(10, 10))

    def forward(self, image, facts, scale=None):
        x = self.weight(self.image(image).relu().mean((2, 3))) + self.facts(facts)
        return self.fc(x if scale is None else x * scale[:, None])


def batches(count=2):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            (torch.randn(6, 1, 8, 8, generator=generator), torch.randn(6, 4, generator=generator)),
            torch.randint(10, (6,), generator=generator),
        )
        for _ in range(count)
    ]


def by_name(inputs):
    return {"image": inputs[0], "facts": inputs[1]}


@pytest.mark.parametrize("method", ["l1_norm", "taylor"])
def test_tuples_and_dictionaries_are_one(method, tmp_path):
    network = TwoInputs()
    pairs = batches()
    example = pairs[0][0]
    made = bench.prune(network, example, pairs, method=method, keep_macs=0.5)
    assert type(made.network) is TwoInputs
    assert {"image.0", "image.3"} <= set(made.widths)
    assert made.difference <= 1e-4
    assert 0.4 < made.cost["pruned"]["macs"] / made.cost["dense"]["macs"] <= 0.5
    named = bench.prune(network, by_name(example), [(by_name(x), y) for x, y in pairs], method=method, keep_macs=0.5)
    assert same(dict(made.masks), dict(named.masks))
    out = made.network.eval()(*example)
    for one in (made, named):
        one.save(tmp_path / "small.safetensors")
        loaded, _ = bench.load(tmp_path / "small.safetensors", build=TwoInputs)
        assert torch.equal(loaded(*example), out)
    further = bench.prune(named, by_name(example), keep_macs=0.4)
    assert further.cost["dense"] == made.cost["dense"]


def test_inputs_alone_are_batches():
    example, example2 = (x for x, _ in batches())
    bench.prune(TwoInputs(), example, [example, example2], method="act_mean", keep_macs=0.5)
    numbers = {**by_name(example), "scale": torch.ones(6)}
    bench.prune(TwoInputs(), numbers, [numbers], method="act_mean", keep_macs=0.5)
    encoder = Encoder(1, 4, 10)
    bench.prune(encoder, {"x": example[0]}, [{"x": example[0]}], method="act_mean", keep_macs=0.6)


@pytest.mark.slow
def test_exported_program_takes_all_inputs(tmp_path):
    pairs = batches()
    for example in (pairs[0][0], by_name(pairs[0][0])):
        made = bench.prune(TwoInputs(), example, keep_macs=0.5)
        made.export(tmp_path / "small.pt2", replace=True)
        loaded = torch.export.load(tmp_path / "small.pt2").module()
        out = loaded(**example) if isinstance(example, dict) else loaded(*example)
        assert torch.allclose(out, made.network.eval()(*pairs[0][0]), atol=1e-6)
        with pytest.raises(bench.UsageError, match=r"several inputs are written as \.pt2 alone"):
            made.export(tmp_path / "small.onnx")


def test_what_cannot_be_is_said():
    image, facts = batches(1)[0][0]
    for example, why in (
        ((image, facts.long()), r"example\[1\] is torch.int64: several inputs are of one dtype, a floating point one"),
        ((image, facts[:3]), r"example\[1\] is of shape \[3, 4\]: the first axis of all inputs is the batch"),
        ((image, 3), r"example\[1\] is a int: give one batch"),
        ({}, "example is a dict: give one batch"),
        ((image, image), r"the network does not take 1x8x8 and 1x8x8: "),
        ({"picture": image, "facts": facts}, r"the network does not take picture: 1x8x8 and facts: 4: "),
    ):
        with pytest.raises(bench.UsageError, match=why):
            bench.prune(TwoInputs(), example, keep_macs=0.5)
    with pytest.raises(bench.UsageError, match=r"with inputs as in example \(1x8x8 and 4\); there is one of shape"):
        bench.prune(TwoInputs(), (image, facts), [image], method="act_mean", keep_macs=0.5)
    with pytest.raises(bench.UsageError, match="networks of one tensor alone"):
        bench.Pruner(TwoInputs(), (image, facts), method="ddrop", keep_macs=0.5, steps=1)
    made = bench.prune(Encoder(1, 4, 10), image, keep_macs=0.8)
    with pytest.raises(bench.UsageError, match="another shape than that of the first prune"):
        bench.prune(made, torch.randn(2, 1, 12, 12), keep_macs=0.5)
