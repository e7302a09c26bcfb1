"""What a runtime computes, how it is set, and what is said where it cannot run."""

import copy
import os
import subprocess
import sys
import types
from importlib.util import find_spec

import pytest
import torch
from support.onnx_files import graph, node
from torch import nn

from bench.errors import RunFailed, SetupError, UsageError
from bench.measure import latency, onnx_export, runtimes
from bench.measure.runtimes import CPU, RUNTIMES

SHAPE = (3, 8, 8)


@pytest.fixture
def openvino_extra(onnx_extra):
    """The packages of the extras ``onnx`` and ``openvino``, or the test is skipped."""
    if find_spec("openvino") is None:
        pytest.skip("needs the extra openvino")


def small():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()


def outputs(runtime, network, batch, quick=False):
    """What a runtime gives for random images, and what PyTorch gives."""
    x = torch.rand(batch, *SHAPE)
    device, layout = runtimes.place_of(runtime, CPU, "channels_last")
    expected = network(x)
    found = runtimes.load(runtime, network, SHAPE, device, layout, quick=quick)(x)()
    return (found if isinstance(found, torch.Tensor) else torch.from_numpy(found[0])), expected


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.usefixtures("openvino_extra")
def test_outputs_are_those_of_pytorch(runtime):
    network = small()
    for batch in (1, 3):
        found, expected = outputs(runtime, network, batch, quick=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("onnx_extra")
def test_what_the_older_exporter_does_not_take_goes_through_the_other(monkeypatch):
    def refuse(*given):
        raise ValueError("unsupported operator")

    monkeypatch.setattr(onnx_export, "_traced", refuse)
    monkeypatch.setattr(onnx_export, "_exported", lambda frozen, example: made.append(frozen) or refuse())
    made = []
    with pytest.raises(RunFailed, match="Sequential cannot be exported to ONNX: ValueError: unsupported operator"):
        onnx_export.convert(small(), SHAPE, quick=True)
    assert len(made) == 1


@pytest.mark.slow
def test_compiled_outputs_are_those_of_pytorch():
    """More networks of one class than torch keeps compiled versions of one function (8): none runs eagerly."""
    RUNTIMES["compile"].require(CPU)
    for width in range(1, 11):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, width)).eval()
        found, expected = outputs("compile", network, 2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no CUDA device")
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_on_a_gpu_calls_run_there_and_are_timed_by_events(runtime):
    network, device = small(), torch.device("cuda")
    call = runtimes.load(runtime, network, SHAPE, device, "channels_last")(torch.rand(2, *SHAPE, device=device))
    with torch.inference_mode():
        assert call().device.type == "cuda"
    assert latency.clock_of(device) is latency._cuda_ms
    assert (latency.interleaved([call, call], device) > 0).all()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.usefixtures("openvino_extra")
def test_another_function_is_not_timed(monkeypatch, runtime):
    other, convert = small(), onnx_export.convert
    monkeypatch.setattr(onnx_export, "convert", lambda network, shape, **how: convert(other, shape, **how))
    with pytest.raises(RunFailed, match=rf"^{runtime} and PyTorch differ by .* at batch 2, above 0.0001"):
        outputs(runtime, small(), 2, quick=True)


def fake(call):
    """A runtime for modules in which they are called so."""
    return runtimes.Runtime("torch", lambda device: None, lambda network, *how: lambda x: lambda: call(network, x))


def test_a_shorter_type_is_detected(monkeypatch):
    """Weights of bfloat16, as a runtime may take them without a word."""
    short = fake(lambda network, x: copy.deepcopy(network).bfloat16()(x.bfloat16()).float())
    monkeypatch.setitem(RUNTIMES, "short", short)
    with pytest.raises(RunFailed, match=r"short and PyTorch differ by .*: it may compute in a shorter type"):
        runtimes.load("short", small(), SHAPE, CPU, "channels_last")(torch.rand(2, *SHAPE))
    monkeypatch.setitem(RUNTIMES, "none", fake(lambda network, x: network(x) * torch.nan))
    with pytest.raises(RunFailed, match="none and PyTorch differ by nan"):
        runtimes.load("none", small(), SHAPE, CPU, "channels_last")(torch.rand(2, *SHAPE))


def test_another_shape_and_errors_are_named(monkeypatch):
    def broken(network, x):
        raise ValueError("no kernel for this\nand more")

    for name, call, why in (
        ("half", lambda network, x: network(x)[:, :2], r"half: its output is \[2, 2\], PyTorch's \[2, 4\]"),
        ("broken", broken, r"broken does not run the network: ValueError: no kernel for this$"),
    ):
        monkeypatch.setitem(RUNTIMES, name, fake(call))
        with pytest.raises(RunFailed, match=why):
            runtimes.load(name, small(), SHAPE, CPU, "channels_last")(torch.rand(2, *SHAPE))


@pytest.fixture
def file(onnx_extra):
    """A small network as an ONNX file of two outputs."""
    nodes = [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "out", transB=1), node("Relu", ["out"], "more")]
    weights = torch.randn(4, 192, generator=torch.Generator().manual_seed(0))
    return graph(nodes, {"w": weights}, SHAPE, outputs=("out", "more")).SerializeToString()


def test_a_file_is_timed_in_another_runtime_only_if_its_outputs_are_onnxruntime_s(monkeypatch, file):
    right = RUNTIMES["onnxruntime"].load_file
    x = torch.rand(2, *SHAPE)

    def altered(change):
        return lambda content: lambda x: lambda: change([torch.tensor(out).numpy() for out in right(content)(x)()])

    for name, change, why in (
        ("same", lambda outputs: outputs, ""),
        ("second", lambda outputs: [outputs[0], 1.001 * outputs[1]], "second and onnxruntime differ by 1.00e-03 of"),
        ("none", lambda outputs: [outputs[0], outputs[1] * torch.nan], "none and onnxruntime differ by nan"),
        ("narrow", lambda outputs: [outputs[0][:, :2], outputs[1]], r"its output is \[2, 2\], onnxruntime's \[2, 4\]"),
    ):
        monkeypatch.setitem(RUNTIMES, name, runtimes.Runtime("torch", lambda device: None, load_file=altered(change)))
        bind = runtimes.load_file(name, file)
        if why:
            with pytest.raises(RunFailed, match=why):
                bind(x)
        else:
            assert len(bind(x)()) == 2


@pytest.mark.usefixtures("openvino_extra")
def test_a_file_in_openvino(file):
    x = torch.rand(3, *SHAPE)
    (first, _), found = runtimes.load_file("onnxruntime", file)(x)(), runtimes.load_file("openvino", file)(x)()
    torch.testing.assert_close(torch.from_numpy(found[0]), torch.from_numpy(first), rtol=1e-4, atol=1e-5)
    own = graph([node("Inverse", ["x"], "out", "com.microsoft")], {}, SHAPE).SerializeToString()
    why = r"^openvino does not run the network: \w+: No conversion rule found for operations: com\.microsoft\.Inverse$"
    with pytest.raises(RunFailed, match=why):
        runtimes.load_file("openvino", own)(x)


# --- settings --------------------------------------------------------------------------------------------------------


class FakeOpenVino(types.ModuleType):
    """As much of the package as is used; a compiled network says that it has the ``given`` properties."""

    def __init__(self, given):
        super().__init__("openvino")
        self.given, self.asked = given, None
        self.Type = types.SimpleNamespace(f32="type f32")

    def Core(self):  # noqa: N802  # its name
        model = types.SimpleNamespace(reshape=lambda shape: None)
        return types.SimpleNamespace(read_model=lambda *content: model, compile_model=self.compile_model)

    def compile_model(self, model, device, asked):
        self.asked = asked
        properties = asked | self.given
        return types.SimpleNamespace(
            get_property=properties.__getitem__, create_infer_request=lambda: types.SimpleNamespace(infer=print)
        )


@pytest.mark.parametrize(
    "given",
    [{"INFERENCE_PRECISION_HINT": "type bf16"}, {"ENABLE_CPU_PINNING": True}, {"NUM_STREAMS": 2}, {}],
)
def test_settings_of_openvino_are_read_back(monkeypatch, given):
    package = FakeOpenVino(given)
    monkeypatch.setattr(runtimes, "_openvino", lambda: package)
    bind = RUNTIMES["openvino"].load_file(b"")
    if given:
        [(name, value)] = given.items()
        with pytest.raises(RunFailed, match=f"openvino has {name} {value}, and .* was asked for"):
            bind(torch.rand(1, *SHAPE))
        return
    bind(torch.rand(1, *SHAPE))
    assert package.asked == {
        "INFERENCE_PRECISION_HINT": "type f32",
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    assert RUNTIMES["openvino"].settings()["ENABLE_CPU_PINNING"] == "False"


@pytest.mark.slow
@pytest.mark.usefixtures("openvino_extra")
def test_openvino_sends_nothing(tmp_path):
    """In a process with an empty home folder: its telemetry is not loaded and writes nothing."""
    code = (
        "from bench.measure import runtimes\n"
        "import sys\n"
        "runtimes._openvino().Core()\n"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')])\n"
    )
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


# --- what is missing -------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(onnx_export, "PACKAGES", ())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    for name, why in (
        ("openvino", r'^openvino not installed here: pip install -e "\.\[onnx,openvino\]"$'),
        ("compile", r"^compile: there is no C\+\+ compiler no-such-compiler here: install one, or name it in CXX$"),
    ):
        with pytest.raises(SetupError, match=why):
            runtimes.require([name])
    with pytest.raises(SetupError, match="triton is not installed here"):
        runtimes.require(["compile"], torch.device("cuda"))
    runtimes.require(["eager", "onnxruntime"])
    with pytest.raises(UsageError, match=r"runtime compile takes .* use eager, onnxruntime, openvino$"):
        runtimes.require(["compile"], many=True)
    with pytest.raises(UsageError, match="unknown runtime 'openvin': did you mean openvino"):
        runtimes.require(["openvin"])
