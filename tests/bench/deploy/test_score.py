"""Scores of networks written by hand: fixed batches, outputs, constants of normalisation, times."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from support.onnx_files import graph, node, save
from support.quiet_machine import always_quiet
from torch import nn

from bench.deploy.opened import Where, opened
from bench.deploy.score import Asked, NotTimed, score
from bench.errors import RunFailed, UsageError
from bench.measure import latency, runtimes
from bench.measure.quiet import Busy
from bench.records.score import decode, encode
from bench.runs.latency_restart import windows
from leaderboard.render.score_page import page

pytestmark = pytest.mark.usefixtures("onnx_extra", "plugins")
SHAPE = (1, 8, 8)


def linear(folder, name="net", batch="n", outputs=("out",), zero=0, scale=1.0, metadata=None):
    """A linear network that knows the classes of ``tiny8`` by their first pixels, as far as it has channels left."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(10, 64, generator=generator)
    weights[:zero] = 0
    weights *= scale
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "out", transB=1)]
    nodes.append(node("Relu", ["out"], "more"))
    model = graph(nodes, {"w": weights}, SHAPE, batch, outputs)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return save(folder, model, name)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What is asked of two files; a network of random weights is not refused."""
    monkeypatch.setattr("bench.deploy.score.CHANCE", -1.0)

    def make(file, like, **more):
        return Asked(str(file), str(like), **({"dataset": "tiny8", "out": tmp_path, "runtimes": ()} | more))

    return make


def test_fixed_batch_gives_the_same_answers(tmp_path, asked):
    free, fixed = linear(tmp_path, "free"), linear(tmp_path, "fixed", batch=7)  # 40 images are no multiple of it
    found = score(asked(fixed, free))
    assert found.network.quality == found.dense.quality
    lost = score(asked(linear(tmp_path, "lost", scale=float("nan")), free))
    assert "outputs of lost.onnx are not finite: its top-1 says nothing" in lost.notes
    assert (found.network.batch, found.dense.batch) == (7, None)
    assert "fixed.onnx: the batch is fixed at 7, so times are of that batch only" in found.notes
    with pytest.raises(UsageError, match="7 and 9 images at once"):
        score(asked(fixed, linear(tmp_path, "nine", batch=9)))


def test_one_output_has_to_be_logits(tmp_path):
    where = Where(SHAPE, 10, tmp_path)
    two = opened(str(linear(tmp_path, outputs=("out", "more"))), "final", where)
    one = opened(str(linear(tmp_path, outputs=("out", "f"))), "final", where)
    images = _Few()
    assert one.logits(images).shape == (3, 10)
    with pytest.raises(UsageError, match=r"gives \(3, 10\) and \(3, 10\) for 3 images, not one output of logits"):
        two.logits(images)
    with pytest.raises(UsageError, match=r"gives \(3, 10\) for 3 images, not one output of logits \(3, 4\)"):
        opened(str(linear(tmp_path)), "final", dataclasses.replace(where, classes=4)).logits(images)


class _Few:
    def batches(self, size):
        yield torch.zeros(3, *SHAPE), torch.zeros(3)


def test_a_network_whose_outputs_are_no_numbers(tmp_path, asked):
    found = score(asked(linear(tmp_path, "nan", scale=float("nan")), linear(tmp_path, "dense")))
    assert (found.network.quality.loss, found.network.quality.ece) == (None, None)
    assert encode(found) == encode(decode(encode(found)))
    assert "loss" in page(found).markdown()


def test_constants_of_the_file(tmp_path, asked):
    said = {"mean": "[100.0]", "std": "[50.0]", "record": "0123456789ab-s3", "dataset": "tiny8"}
    plain, ours = linear(tmp_path, "plain"), linear(tmp_path, "ours", metadata=said)
    found = score(asked(plain, ours, dataset=None)).images
    assert (found.normal_from, found.mean, found.std, found.seed) == ("file", [100.0], [50.0], 3)
    assert score(asked(plain, plain)).images.normal_from == "dataset"
    other = linear(tmp_path, "other", metadata=said | {"std": "[51.0]"})
    with pytest.raises(UsageError, match="in different ways: give --mean and --std"):
        score(asked(other, ours))
    hostile = linear(tmp_path, "hostile", metadata={"mean": "x", "std": "[{}]", "record": "-s-1"})
    assert score(asked(hostile, hostile)).images.normal_from == "dataset"


def test_both_are_timed_in_turns_with_a_control(tmp_path, asked, monkeypatch):
    calls = []

    def process(work):
        for task in work.tasks:
            ms = [2.0, 2.0 if task.named[0] == task.named[1] else 1.0]

            def fake(bound, device, in_bursts, ms=ms):
                calls.extend(call()[0].shape for call in bound)
                return np.tile(ms, (20, 1))

            monkeypatch.setattr(latency, "interleaved", fake)
            yield from windows(dataclasses.replace(work, tasks=(task,)))

    timing = {"runtimes": ("onnxruntime",), "batches": (1, 3), "machine": always_quiet(), "process": process}
    found = score(asked(linear(tmp_path, "half", zero=5), linear(tmp_path, "dense"), **timing))
    assert [(line.runtime, line.batch, line.layout) for line in found.latency] == [
        ("onnxruntime", 1, "channels_first"),
        ("onnxruntime", 3, "channels_first"),
    ]
    assert set(calls) == {(1, 10), (3, 10)}
    assert found.latency[0].times.speedup == pytest.approx(2, rel=0.01)
    assert found.latency[0].control.speedup == pytest.approx(1, rel=0.01)
    assert "2.00x" in page(found).text() and "2.00x" in page(found).html()
    assert "50 % of the channels are zero but still computed" in found.notes[0]


def test_another_runtime_computes_what_onnxruntime_does(tmp_path, monkeypatch):
    """To rounding; a file in 8-bit integers to some of its steps."""
    onnxruntime = runtimes.RUNTIMES["onnxruntime"].load_file

    def shifted(share):
        return lambda content: lambda x: lambda: [out + share * np.abs(out).max() for out in onnxruntime(content)(x)()]

    steps = {"one": torch.tensor(0.1), "zero": torch.tensor(0, dtype=torch.uint8), "w": torch.ones(10, 64)}
    nodes = [node("Flatten", ["x"], "f"), node("QuantizeLinear", ["f", "one", "zero"], "q")]
    nodes += [node("DequantizeLinear", ["q", "one", "zero"], "d"), node("Gemm", ["d", "w"], "out", transB=1)]
    int8 = save(tmp_path, graph(nodes, steps, SHAPE), "int8")
    where, x = Where(SHAPE, 10, tmp_path), torch.rand(2, *SHAPE)
    for file, share, fits in (
        *((linear(tmp_path), 1e-5, True), (linear(tmp_path), 1e-3, False)),
        *((int8, 0.02, True), (int8, 0.1, False)),
    ):
        how = runtimes.Runtime("torch", lambda device: None, load_file=shifted(share))
        monkeypatch.setitem(runtimes.RUNTIMES, "openvino", how)
        bind = opened(str(file), "final", where).bind("openvino", None, "", tmp_path / f"{file.name}.openvino")
        if fits:
            assert bind(x)()[0].shape == (2, 10)
            continue
        with pytest.raises(RunFailed, match=r"openvino and onnxruntime differ by .* at batch 2, above"):
            bind(x)


def test_a_busy_machine_costs_the_milliseconds_only(tmp_path, asked):
    def process(work):
        raise Busy("busy: others use 9 cores")

    timing = {"runtimes": ("onnxruntime",), "batches": (1,), "machine": always_quiet(), "process": process}
    net = linear(tmp_path)
    with pytest.raises(NotTimed, match="no milliseconds: busy: others use 9 cores; --runtimes none leaves") as found:
        score(asked(net, net, **timing))
    assert found.value.score.notes == ["milliseconds are not measured: the machine was busy"]
    assert found.value.score.latency == []


def test_times_of_a_machine_whose_control_differs_are_refused(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(latency, "interleaved", lambda calls, device, *how: np.tile([2.0, 1.0], (20, 1)))
    timing = {"runtimes": ("onnxruntime",), "batches": (1,), "machine": always_quiet(), "process": windows}
    net = linear(tmp_path)
    with pytest.raises(RunFailed, match=r"onnxruntime, batch 1: a dense network against its copy: 2\.000"):
        score(asked(net, net, **timing))


def test_a_page_shows_texts_as_texts(tmp_path, asked):
    name = "a<b>&_[x](y)"
    found = score(asked(linear(tmp_path, name), linear(tmp_path, "dense")))
    assert "<b>" not in page(found).html().split("</style>")[1]
    assert "a&lt;b&gt;&amp;\\_\\[x\\](y).onnx" in page(found).markdown()


class Views(nn.Module):
    """Views maps as rows, which only the plain memory format takes."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)

    def forward(self, x):
        return self.fc(self.conv(x).view(len(x), -1))


def test_a_network_that_views_its_maps(tmp_path, asked, monkeypatch):
    (tmp_path / "views.py").write_text(f"import torch\nfrom torch import nn\n\n{inspect.getsource(Views)}")
    layouts = []

    def process(work):
        layouts.extend(key.layout for task in work.tasks for key in task.keys)
        monkeypatch.setattr(latency, "interleaved", lambda calls, *_: np.ones((20, len([call() for call in calls]))))
        yield from windows(work)

    views = f"file:{tmp_path / 'views.py'}:Views"
    timing = {"runtimes": ("eager",), "batches": (2,), "machine": always_quiet(), "process": process}
    found = score(asked(views, views, **timing))
    assert set(layouts) == {"channels_first"}
    assert found.latency[0].layout == "channels_first"
