"""A sliced network as a file: loaded it is the same, or an error says why not."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.networks import GREY, Encoder, residual, three_sites
from torch import nn

import bench
from bench.errors import RunFailed, SetupError, UsageError
from bench.records import bits
from bench.spec.digest import digest

COLOURS = (3, 8, 8)


def padded(seed=0):
    """A network with a padded shortcut: which channels stay matters, not only how many."""
    torch.manual_seed(seed)
    return residual("A")


def pruned(network, shape=GREY, coupling="inner", **more):
    example = torch.randn(2, *shape).to(next(network.parameters()).dtype)
    return bench.prune(network, example, coupling=coupling, keep_macs=0.5, **more)


@pytest.mark.parametrize(("method", "coupling"), [("l1_norm", "full"), ("random", "full"), ("l1_norm", "inner")])
def test_loaded_network_is_the_saved_one(tmp_path, coupling, method):
    network = padded(1)
    network.train()(torch.randn(8, *COLOURS))  # statistics of its own
    made = pruned(network, COLOURS, coupling, method=method)
    made.save(tmp_path / "small.safetensors")
    loaded, info = bench.load(tmp_path / "small.safetensors", build=lambda: padded(9))
    x = torch.randn(4, *COLOURS)
    assert torch.equal(loaded(x), made.network.eval()(x))
    assert not loaded.training
    assert info["coupling"] == coupling
    assert info["widths"] == {name: list(pair) for name, pair in made.widths.items()}


@pytest.mark.parametrize("make", [three_sites, lambda: Encoder(1, 4, 10), lambda: three_sites().double()])
def test_heads_and_other_dtypes_are_loaded(tmp_path, make):
    made = pruned(make())
    made.save(tmp_path / "small.safetensors")
    loaded, _ = bench.load(str(tmp_path / "small.safetensors"), build=lambda: make().float())
    x = torch.randn(4, *GREY).to(next(loaded.parameters()).dtype)
    assert torch.equal(loaded(x), made.network.eval()(x))


def test_pruned_twice_is_loaded_from_the_first_dense_network(tmp_path):
    made = bench.prune(pruned(padded(), COLOURS, "full"), torch.randn(2, *COLOURS), keep_macs=0.3)
    made.save(tmp_path / "small.safetensors")
    loaded, _ = bench.load(tmp_path / "small.safetensors", build=padded)
    x = torch.randn(4, *COLOURS)
    assert torch.equal(loaded(x), made.network.eval()(x))


def test_shared_tensors_are_stored_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = three_sites()
            self.head = nn.Linear(10, 10)
            self.again = self.head

        def forward(self, x):
            return self.again(self.head(self.body(x)))

    made = pruned(Twice())
    made.save(tmp_path / "small.safetensors")
    assert not {"again.weight", "head.weight"} <= set(load_file(tmp_path / "small.safetensors"))
    loaded, _ = bench.load(tmp_path / "small.safetensors", build=Twice)
    assert loaded.again is loaded.head
    x = torch.randn(4, *GREY)
    assert torch.equal(loaded(x), made.network.eval()(x))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.safetensors"
    pruned(padded(), COLOURS, "full").save(path)
    return path


def rewrite(path, change, again=True):
    """Change what the file says of itself; with the right hash, as somebody who wants it would."""
    with safe_open(path, "pt") as file:
        texts = dict(file.metadata())
    described = json.loads(texts["bench"])
    change(described)
    texts["bench"] = json.dumps(described, sort_keys=True)
    texts["bench_sha256"] = digest(described) if again else texts["bench_sha256"]
    save_file(load_file(path), path, texts)


def swap(described):
    """Another channel of the first cut layer of a shortcut stays in place of one that did."""
    layer = next(name for name in described["kept"] if "shortcut" in name)
    for side, (count, packed) in described["kept"][layer].items():
        kept = bits.unpack(packed, count)
        described["kept"][layer][side][1] = bits.pack(kept[::-1].copy())


def test_edited_masks_are_refused(saved):
    rewrite(saved, swap, again=False)
    with pytest.raises(RunFailed, match="was changed since it was saved"):
        bench.load(saved, build=padded)


def test_edited_masks_are_refused_with_another_hash_too(saved):
    rewrite(saved, swap)
    with pytest.raises(RunFailed, match=r"outputs differ by .* of the largest"):
        bench.load(saved, build=padded)


def test_cut_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(RunFailed, match="cannot be read: it is damaged, or no safetensors file"):
        bench.load(saved, build=padded)


def test_changed_weights_are_refused(saved):
    with safe_open(saved, "pt") as file:
        texts = file.metadata()
    tensors = load_file(saved)
    tensors["conv.weight" if "conv.weight" in tensors else next(n for n in tensors if "weight" in n)] *= 1.5
    save_file(tensors, saved, texts)
    with pytest.raises(RunFailed, match="outputs differ"):
        bench.load(saved, build=padded)


def test_another_network_is_refused(saved):
    class Other(type(padded())):
        def forward(self, x):
            return super().forward(x) + 1

    other = padded()
    other.__class__ = Other
    with pytest.raises(RunFailed, match="build makes another network, or the file was changed"):
        bench.load(saved, build=lambda: other)
    with pytest.raises(UsageError, match="in the file, not in the network of build"):
        bench.load(saved, build=three_sites)
    wider = padded()
    first = next(name for name, module in wider.named_modules() if isinstance(module, nn.Conv2d))
    setattr(wider, first, nn.Conv2d(3, 32, 3, padding=1, bias=False))
    with pytest.raises(UsageError, match=rf"{first}\.weight: 4 channels in the file, 32 here"):
        bench.load(saved, build=lambda: wider)
    for build, why in (
        (lambda: 3, "build gives a int, not the dense network"),
        (padded(), "build is a Sequential: give a function or class that makes the dense network"),
        (lambda: padded().to("meta"), r"build gives tensors without memory \(device meta\)"),
    ):
        with pytest.raises(UsageError, match=why):
            bench.load(saved, build=build)


def test_other_files_are_refused(saved, tmp_path):
    for name in ("old.pt", "old.pth"):
        with pytest.raises(UsageError, match=r"such files run code when loaded"):
            bench.load(tmp_path / name, build=padded)
        with pytest.raises(UsageError, match=r"such files run code when loaded"):
            bench.load(tmp_path / name)
    for name, reader in (("small.pt2", r"torch\.export\.load"), ("small.onnx", r"onnxruntime\.InferenceSession")):
        with pytest.raises(UsageError, match=f"is a network that was exported: {reader} reads it"):
            bench.load(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        bench.load(tmp_path / "none.safetensors", build=padded)
    with pytest.raises(UsageError, match="holds weights, not code: give build"):
        bench.load(saved)
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(UsageError, match=r"it is not of PrunedNetwork.save"):
        bench.load(tmp_path / "plain.safetensors", build=padded)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"small\.pt: give it the suffix \.safetensors"):
        pruned(three_sites()).save(tmp_path / "small.pt")


def test_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        pruned(three_sites()).save(tmp_path / "file" / "small.safetensors")


@pytest.mark.slow
def test_loading_needs_neither_torch_pruning_nor_a_search(saved):
    code = (
        "import sys, bench; from bench.conformance.tiny_networks import residual;"
        f"bench.load({str(saved)!r}, build=lambda: residual('A'));"
        "assert 'torch_pruning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_exported_files_compute_the_same(tmp_path, onnx_extra):
    made = pruned(three_sites())
    for name in ("small.onnx", "small.pt2"):
        made.export(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
        with pytest.raises(UsageError, match="is already there: choose another name, or replace=True"):
            made.export(tmp_path / name)
        made.export(tmp_path / name, replace=True)
    loaded = torch.export.load(tmp_path / "small.pt2").module()
    x = torch.randn(5, *GREY)
    assert torch.allclose(loaded(x), made.network.eval()(x), atol=1e-6)
    with pytest.raises(UsageError, match=r"suffix says what it is, \.onnx or \.pt2"):
        made.export(tmp_path / "small.bin")


@pytest.mark.parametrize("key", ["input", "whole", "kept", "numbers", "blocks", "facts"])
def test_descriptions_that_cannot_be_are_refused(saved, key):
    rewrite(saved, lambda described: described.update({key: 3}))
    with pytest.raises(
        RunFailed, match=r"small\.safetensors says of channels what cannot be: TypeError|AttributeError"
    ):
        bench.load(saved, build=padded)
    texts = {"bench": "[" * 100_000, "bench_sha256": ""}
    save_file(load_file(saved), saved, texts)
    with pytest.raises(RunFailed, match="was changed since it was saved"):
        bench.load(saved, build=padded)


def test_names_that_are_too_long_are_said(tmp_path, onnx_extra):
    made = pruned(three_sites())
    for suffix in (".safetensors", ".onnx", ".pt2"):
        write = made.save if suffix == ".safetensors" else made.export
        with pytest.raises(SetupError, match=r"cannot write .*File name too long"):
            write(tmp_path / f"{'n' * 300}{suffix}")
