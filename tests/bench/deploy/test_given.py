"""Bad inputs of ``bench.prune``: one line each that says what to do."""

import re
import warnings

import numpy as np
import pytest
import torch
from support.networks import GREY, SHAPE, residual, three_sites, two_sites
from torch import nn

import bench


def refused(message, *given, error=bench.UsageError, **options):
    """The call is refused with exactly this text."""
    network, example, *data = given or (three_sites(), torch.randn(2, *GREY))
    with pytest.raises(error) as raised:
        bench.prune(network, example, *data, **({"keep_macs": 0.5} | options))
    assert re.fullmatch(message, str(raised.value)), str(raised.value)


def test_budgets():
    refused(re.escape("one budget, not two: keep_macs=0.5 and keep_params=0.6"), keep_params=0.6)
    refused("give keep_macs, keep_params, keep_latency or latency_ms", keep_macs=None)
    for share in (1.5, 0, -1, float("nan"), True, "half"):
        refused(re.escape(f"keep_macs={share}: above 0 and at most 1"), keep_macs=share)
    refused("ranking='best': global or layer", ranking="best")
    refused("min_keep=0: at least 1, .*", min_keep=0)
    refused("coupling='outer': inner or full", coupling="outer")
    refused("units='all': width, depth or both", units="all")
    refused("round_to=8: with units='depth' no widths are pruned", round_to=8, units="depth")
    refused("latency_ms=inf: above 0", keep_macs=None, latency_ms=float("inf"))
    refused(r"batch=1\.5: a whole number, at least 1", keep_macs=None, keep_latency=0.5, batch=1.5)
    refused("threads='2': a whole number, at least 1", keep_macs=None, keep_latency=0.5, threads="2")
    for seed in (None, "a", -1, 2**64):
        refused(f"seed={seed!r}: a whole number from 0 .*", seed=seed, method="random")
    asked = bench.prune(three_sites(), torch.randn(2, *GREY), keep_macs=np.float32(0.5)).cost["asked"]
    assert asked == {"keep_macs": 0.5}
    for step in (0, 2.5, True):
        refused(f"round_to={step}: at least 1 channel", round_to=step)


def test_data():
    network, example = three_sites(), torch.randn(2, *GREY)
    pair = (example, torch.tensor([1, 2]))
    why = re.escape("method 'taylor' looks at training batches: give data, an iterable of (inputs, targets)")
    refused(why, method="taylor")
    refused("data gave no batch", network, example, [], method="taylor")
    refused("data gave no batch", network, example, iter([]), method="taylor")
    refused("data gave a batch of nothing", network, example, [(example[:0], pair[1][:0])], method="taylor")
    for method in ("taylor", "tp_taylor"):
        refused(re.escape("batches must be (inputs, targets)"), network, example, [example], method=method)
        refused(re.escape("batches must be (inputs, targets)"), network, example, [(example,)], method=method)
    like = "batches must be (inputs, targets), with inputs as in example, of 4 axes; there is one of "
    for batch, kinds in (
        ((*pair, example), "shape [2, 1, 8, 8], shape [2], shape [2, 1, 8, 8]"),
        ({"x": example}, "dict"),
        ((example[0], 3), "shape [1, 8, 8], int"),  # of a data set that nobody batches
    ):
        refused(re.escape(like + kinds), network, example, [batch], method="taylor")
    refused("data is a int: give an iterable of .*", network, example, 3, method="taylor")
    mean = "the mean over a batch is a tensor of one number"
    given = {"method": "taylor", "loss": lambda outputs, y: outputs.square()}
    refused(re.escape(f"loss gives shape [2, 10]: {mean}"), network, example, [pair], **given)
    refused(f"loss gives a float: {mean}", network, example, [pair], **given | {"loss": lambda outputs, y: 1.0})


def test_methods():
    for method in ("dropnet", "uniform_thin", "dsd_filter", "gal"):
        refused(rf"'{method}' plans its own training \(cycles, rewinding\): use bench\.run", method=method)
    for method in ("ddrop", "l1l2", "distill", "l1_norm+distill"):
        refused(re.escape(f"'{method}' acts while training: use bench.Pruner"), method=method)
    refused(".*l1_nrom.*l1_norm.*", method="l1_nrom")
    refused("bn_scale does not work on site 0: .*", two_sites(), torch.randn(2, *GREY), method="bn_scale")
    refused(".*", method="taylor", options={"batchs": 3})
    refused(r"method=None, options=\{\}: a name .*", method=None)
    refused(r"method='taylor', options=\['batches'\]: a name .*, and a dict", method="taylor", options=["batches"])


def test_examples():
    network = three_sites()
    refused("example is on cpu, the network on meta", three_sites().to("meta"), torch.randn(2, *GREY))
    refused("the network does not take 3x8x8: RuntimeError: .*", network, torch.randn(2, 3, 8, 8))
    alone = r"the network does not take 8x8: .*; example is \[1, 8, 8\], whose first axis is the batch"
    refused(alone, network, torch.randn(*GREY))
    refused("example is a list: .*", network, [torch.randn(2, *GREY), torch.randn(2, *GREY)])
    refused(r"example is of shape \[8\]: .*", network, torch.randn(8))
    refused("the network is a int: give a torch.nn.Module", 3, torch.randn(2, *GREY))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old
        refused("the network is a RecursiveScriptModule: .*", torch.jit.script(network), torch.randn(2, *GREY))
    refused("the network has no parameters: nothing can be cut", nn.Flatten(), torch.randn(2, *GREY))
    refused(r"example is of shape \[0, 1, 8, 8\]: .*", network, torch.randn(0, *GREY))
    for name in ("0", None):
        refused(f"whole={name!r}: give a list of names", whole=name)
    refused("whole: 99 is no name of a layer: .*", whole=[99])
    refused("whole: 'stem' is no layer of the network: did you mean 0 or 1 or 10 or 11\\?", whole=["stem"])


class Named(nn.Module):
    """Gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.body = three_sites()

    def forward(self, x):
        return {"out": self.body(x)}


def test_outputs():
    network, example = Named(), torch.randn(2, *GREY)
    refused(r"the network gives a dict, no tensor: bench.prune\(logits=\) picks its logits", network, example)
    refused(r"logits: 'dict' gives a dict, not a tensor", network, example, logits=dict)
    wrong = r"logits: '.*' fails on the network's dict \(KeyError: 'in'\)"
    refused(wrong, network, example, logits=lambda out: out["in"])


def test_floors_and_sites():
    refused("keep_macs=0.01 cannot be met: one unit in each of the 3 sites already costs 0.017", keep_macs=0.01)
    refused("keep_macs=0.2 cannot be met: 6 units in each of the 3 sites already cost 0.23", keep_macs=0.2, min_keep=6)
    stepped = "one unit in each of the 3 sites, rounded up to 4 channels, already costs 0.12"
    refused(f"keep_macs=0.05 cannot be met: {stepped}; round_to=1 reaches 0.017", keep_macs=0.05, round_to=4)
    refused(f"keep_macs=0.01 cannot be met: {stepped}", keep_macs=0.01, round_to=4)
    inner = r"one unit in each of the 2 sites already costs 0.\d+; coupling='full' reaches 0.\d+"
    refused(f"keep_macs=0.3 cannot be met: {inner}", residual("A"), torch.randn(2, *SHAPE), keep_macs=0.3)
    norm = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    refused("no exact site: 1 layer: .*GroupNorm.*", norm, torch.randn(2, *GREY))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    refused("no exact site: 1 layer: .*", flat, torch.randn(2, *GREY))


def test_layers_without_a_shape_are_named():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    refused("layer '1' has no shape yet: run one batch first", lazy, torch.randn(2, *GREY))
    lazy(torch.randn(2, *GREY))
    refused("no exact site: 1 layer: .*", lazy, torch.randn(2, *GREY))


def test_quantized_networks_are_refused():
    from torch.ao.nn import quantized

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it will move
        network = nn.Sequential(three_sites(), quantized.Linear(10, 4))
        refused("'1' is quantized: prune first", network, torch.randn(2, *GREY))
        network = torch.ao.quantization.quantize_dynamic(three_sites().eval(), {nn.Linear})
    refused("'12' is quantized: prune first", network, torch.randn(2, *GREY))


def test_shared_memory_is_named():
    twins = three_sites()
    twins[0].bias = nn.Parameter(twins[1].weight.detach())
    refused(".* share their memory: make them one Parameter", twins, torch.randn(2, *GREY))


def test_sharded_networks_are_refused(tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        network = fully_shard(three_sites(), mesh=mesh)
        refused(r"'0' is sharded \(FSDP\): prune first, then wrap", network, torch.randn(2, *GREY))
    finally:
        distributed.destroy_process_group()
    wrapper = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # its own constructor asks for a GPU
    nn.Module.__init__(wrapper)
    network = nn.Sequential(wrapper)
    refused(r"'0' is sharded \(FSDP\): prune first, then wrap", network, torch.randn(2, *GREY))


def test_sites_are_those_of_the_first_prune():
    made = bench.prune(three_sites(), torch.randn(2, *GREY), keep_macs=0.8)
    for options in ({"coupling": "full"}, {"whole": ["0"]}, {"units": "both"}):
        why = "coupling, units and whole are those of the first prune: sites are not searched again"
        refused(why, made, torch.randn(2, *GREY), **options)
