"""``bench score``: networks of other tools on the suite's scales."""

import json
import math

import pytest
import torch
from support.command_tools import answer
from support.paths import ROOT
from torch import nn

from bench.data.loading import find, load_test, load_training
from bench.deploy.preset import save
from bench.measure import flops
from bench.measure.onnx_file import OnnxFile
from bench.measure.onnx_macs import count
from bench.records import store
from bench.records.score import decode, encode
from bench.runs.artifacts import RunArtifacts
from bench.training.checkpoint import save_tensors

SCORED = ROOT / "tests" / "support" / "scored"
"""Files that tools/score_networks.py made."""
CLAIMS = json.loads((SCORED / "claims.json").read_text())
DENSE_MACS = 64 * 9 * 12 + 64 * 9 * 12 * 16 + 16 * 9 * 16 * 16 + 160
NETS = """
import torch
from torch import nn
from torch.nn.utils import prune

def dense(shape, num_classes):
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))

def masked(shape, num_classes):
    made = dense(shape, num_classes)
    prune.ln_structured(made[0], "weight", 0.5, 2, 0)
    return made

def ten_more(shape, num_classes):
    return dense(shape, num_classes + 10)
"""


@pytest.fixture
def bench(capsys, tmp_path):
    """Exit code, stdout and stderr of ``bench score``, without timing."""

    def run(*words, timing=("--runtimes", "none")):
        return answer(capsys, "score", *words, *timing, "--out", tmp_path, "--data-dir", tmp_path / "data")

    return run


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def trained(finished, tmp_path, nets):
    """A record, and the weights of its dense network for ``nets``."""
    _, done, _ = finished("random", "two_layers", "tiny8", train__lr=0.05)
    weights = tmp_path / "dense.safetensors"
    save_tensors(weights, RunArtifacts(done, tmp_path).dense().state_dict())
    return done, f"file:{nets}:dense:{weights}"


@pytest.mark.usefixtures("onnx_extra")
@pytest.mark.parametrize(
    ("name", "macs", "said"),
    [
        ("torch_pruning", 72_830, "the tool also counts norm or bias of convolutions (2 an element), activations (1"),
        ("onnxsim", 49_696, ""),
        ("masked", DENSE_MACS, "the tool counts only weights that are not zero"),
        ("nncf", DENSE_MACS, ""),
        ("thin", 64 * 9 * 6 + 64 * 9 * 6 * 8 + 16 * 9 * 8 * 8 + 80, ""),
    ],
)
def test_files_of_tools(bench, tmp_path, name, macs, said):
    claim = ["--claims-macs", CLAIMS[f"{name}.onnx"]] if CLAIMS.get(f"{name}.onnx") else []
    files = SCORED / f"{name}.onnx", "--like", SCORED / "dense.onnx"
    code, out, _ = bench(*files, "-d", "digits", *claim, "--json", "--save", tmp_path / "page")
    assert code == 0
    found = decode(out.encode())
    assert (found.dense.macs, found.network.macs) == (DENSE_MACS, macs)
    assert sum(found.network.macs_by.values()) == macs
    assert said in (found.claim.why if found.claim else "")
    assert found.images.normal_from == "file"
    assert (found.dense.quality.top1, found.dense.quality.examples) == (352 / 364, 364)
    made = {file.name: file.read_text() for file in (tmp_path / "page").iterdir()}
    assert sorted(made) == ["score.html", "score.json", "score.md"]
    assert decode(made["score.json"].encode()) == found
    assert f"{macs:,}" in made["score.md"] and f"{macs:,}" in made["score.html"]
    assert str(tmp_path) not in "".join(made.values())


@pytest.mark.usefixtures("onnx_extra")
def test_masks_are_no_gain_and_said_so(bench):
    for name, note in (
        ("masked", "40.7 % of the channels are zero but still computed: masked, not sliced"),
        ("nncf", "% of the weights are zero, in no whole channel: dense layers compute them"),
    ):
        _, out, _ = bench(SCORED / f"{name}.onnx", "--like", SCORED / "dense.onnx")
        assert note in out
        assert "1.0000" in out


def test_a_record_scores_what_it_says(bench, trained, tmp_path):
    done, _ = trained
    code, out, _ = bench(done.id[:8], "--like", done.id, "--json")
    assert code == 0
    found = decode(out.encode())
    for scored, which in ((found.network, "final"), (found.dense, "dense")):
        quality, cost = getattr(done.metrics, which), getattr(done.cost, which)
        assert (scored.quality.top1, scored.quality.loss) == (quality.top1, pytest.approx(quality.loss, rel=1e-5))
        products = sum(n for op, n in cost.macs_by_op.items() if op in flops.COUNTED_BY_BOTH)
        assert (scored.macs, scored.params) == (products, cost.params)
    assert found.images.test_sha256 == done.data.test_sha256


def test_functions_with_weights(bench, trained, nets, tmp_path):
    done, dense = trained
    code, out, _ = bench(f"file:{nets}:masked", "--like", dense, "-d", "tiny8", "--claims-macs", "0.5", "--json")
    assert code == 0
    found = decode(out.encode())
    assert found.dense.quality.top1 == done.metrics.dense.top1
    assert found.dense.name == "nets.py:dense:dense.safetensors"
    assert (found.network.zero_channels, found.network.channels) == (4, 18)
    assert found.shares["macs"] == 1
    assert "22.2 % of the channels are zero" in found.notes[0]


def test_a_file_of_kept_channels(bench, trained, nets, tmp_path):
    done, dense = trained
    save(RunArtifacts(done, tmp_path), tmp_path / "small.safetensors")
    small = f"file:{nets}:dense:{tmp_path / 'small.safetensors'}"
    code, out, _ = bench(small, "--like", dense, "-d", "tiny8", "--json")
    found = decode(out.encode())
    assert (code, found.network.params) == (0, done.cost.final.params)
    assert found.network.quality.top1 == done.metrics.final.top1


@pytest.mark.slow
@pytest.mark.usefixtures("onnx_extra")
def test_our_export_scores_what_its_record_says(bench, trained, capsys, tmp_path):
    done, _ = trained
    file = tmp_path / "net.onnx"
    assert answer(capsys, "export", done.id, "--onnx", file, "--out", tmp_path, "--data-dir", tmp_path)[0] == 0
    code, out, _ = bench(file, "--like", done.id, "--json")
    assert code == 0
    found = decode(out.encode())
    assert found.network.quality.top1 == done.metrics.final.top1
    assert found.network.macs == sum(done.cost.final.macs_by_op.get(op, 0) for op in ("conv", "linear"))
    assert found.network.params < done.cost.final.params  # batch norm is folded
    assert found.notes == [
        f"parameters and bytes of {done.id} dense are those of its export, where batch norm is folded"
    ]


def test_the_score_is_no_record(bench, trained, tmp_path, capsys):
    done, _ = trained
    bench(done.id, "--like", done.id, "--save", tmp_path / "records" / "tiny8" / "page")
    with pytest.raises(store.RecordError, match="not a record of this suite"):
        store.load(tmp_path / "records" / "tiny8" / "page" / "score.json")


def test_normalisation_of_the_option(bench, trained):
    done, dense = trained
    words = dense, "--like", dense, "-d", "tiny8"
    images = load_training(find("tiny8", None), None, False, 0, torch.device("cpu")).train
    own = ["--mean", str(images.mean.item() / 255), "--std", str(images.std.item() / 255)]
    _, out, _ = bench(*words, *own, "--json")
    found = decode(out.encode())
    assert found.images.normal_from == "option"
    assert found.images.mean == pytest.approx([images.mean.item()])
    assert found.dense.quality.top1 == done.metrics.dense.top1
    code, _, err = bench(*words, "--mean", "0.99", "--std", "0.001")
    assert code == 1
    assert "guessing has 10.00 %: check --mean and --std (now from the option) and --dataset" in err


@pytest.mark.usefixtures("onnx_extra")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["net.pt", "--like", "D"], 2, "net.pt: such files run code when loaded; give .onnx"),
        (
            ["net.safetensors", "--like", "D"],
            2,
            "holds weights, not a network: give file:PATH:FUNCTION:net.safetensors",
        ),
        (["none.onnx", "--like", "D"], 2, "none.onnx: no such file"),
        (["none.pt2", "--like", "D"], 2, "none.pt2: no such file"),
        (["D", "--like", "D", "-d", "tiny"], 2, "takes images of 1x8x8, the data set has 3x32x32 and 10 classes"),
        (["file:N:ten_more", "--like", "D"], 2, "gives (2, 20) for two images, not logits (2, 10)"),
        (["D", "--like", "file:N:dense:none.safetensors"], 2, "none.safetensors: no such file"),
        (["file:N:dense", "--like", "file:N:dense"], 2, "no network says which data set it is for: give --dataset"),
        (["D", "--like", "D", "--runtimes", "eager"], 2, "--runtimes eager: dense.onnx is an ONNX file; use onnxrun"),
        (["D", "--like", "D", "--runtimes", "fast"], 2, "unknown runtime 'fast'"),
        (["D", "--like", "D", "--mean", "0.5"], 2, "--mean and --std: give both"),
        (["D", "--like", "D", "--mean", "120", "--std", "60"], 2, "--mean 120: of pixels on the scale 0 to 1"),
        (["D", "--like", "D", "--threads", "0"], 2, "--threads 0, --seed 0: at least 1 thread, a seed below 2^63"),
        (["D", "--like", "D", "--seed", "9" * 20], 2, "at least 1 thread, a seed below 2^63"),
        (["D", "--like", "D", "--mean", "a", "--std", "1"], 2, "'a' is not a list of numbers"),
        (["D", "--like", "D", "--mean", "0.1,0.2", "--std", "1"], 2, "2 numbers for 1 channels"),
        (["D", "--like", "D", "--claims-macs", "48"], 2, "--claims-macs 48: a share of the dense network's MACs"),
        (["D", "--like", "D", "--max-bytes", "100"], 2, "19,802 bytes, more than 100: allow more with --max-bytes"),
        (["D", "--like", "D", "--save", "."], 2, "is already there: choose another folder"),
        (["nosuch", "--like", "D"], 2, "a network is .onnx, .pt2"),
    ],
)
def test_what_is_refused(bench, nets, tmp_path, monkeypatch, plugins, words, code, said):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    timing = () if "--runtimes" in words else ("--runtimes", "none")
    given = [SCORED / "dense.onnx" if word == "D" else word.replace("file:N", f"file:{nets}") for word in words]
    got, out, err = bench(*given, timing=timing)
    assert (got, out) == (code, "")
    lines = [line for line in err.splitlines() if not line.startswith("bench: loading")]
    assert said in lines[-1] and len(lines) == 1
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in str(path)] == before


def test_weights_of_another_network(bench, nets, tmp_path, plugins):
    save_tensors(tmp_path / "w.safetensors", nn.Sequential(nn.Conv2d(1, 9, 3)).state_dict())
    code, _, err = bench(
        f"file:{nets}:dense:{tmp_path / 'w.safetensors'}", "--like", f"file:{nets}:dense", "-d", "tiny8"
    )
    assert code == 2
    assert "w.safetensors does not fit nets.py:dense: 0.bias is 9 in the file, 8 in the network" in err


@pytest.mark.usefixtures("onnx_extra")
def test_parts_of_the_score_are_documented_numbers(bench):
    _, out, _ = bench(SCORED / "thin.onnx", "--like", SCORED / "dense.onnx", "--json")
    found = decode(out.encode())
    assert encode(found).decode() == out or json.loads(encode(found)) == json.loads(out)
    file = OnnxFile(SCORED / "thin.onnx")
    products = count(file, (1, 8, 8)).products
    assert found.network.channels == sum(len(p.zero) for p in products) == 6 + 8 + 8 + 10
    assert found.network.params == sum(math.prod(v.shape) for v in file.constants.values() if v.dtype.kind == "f")
    data = find("digits", None).for_seed(0)
    training = load_training(data, None, False, 0, torch.device("cpu"))
    test, digest = load_test(data, None, training.train)
    assert (found.images.test_sha256, found.images.mean) == (digest, pytest.approx(test.mean.flatten().tolist()))
