"""What a run left behind is what its record says, or an error."""

import hashlib

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from bench.errors import RunFailed
from bench.measure.accuracy import logits_of, quality
from bench.runs.artifacts import NETWORKS, NotAvailable, RunArtifacts


@pytest.fixture
def made(finished):
    """A finished run's record and options."""
    _, done, options = finished("l1_norm", "two_layers", "tiny8", train__epochs=2, train__lr=0.05)
    return done, options


def test_both_networks_have_the_recorded_accuracy(made):
    done, options = made
    stored = RunArtifacts(done, options.out)
    test = stored.test_images(options.data_dir)
    for which in NETWORKS:
        found = quality(logits_of(stored.network(which), test), test.labels)
        assert found["top1"] == getattr(done.metrics, which).top1
        assert found["loss"] == pytest.approx(getattr(done.metrics, which).loss, rel=1e-4)


def test_rebuilding_one_network_leaves_the_other(made):
    done, options = made
    stored = RunArtifacts(done, options.out)
    first = {name: tensor.clone() for name, tensor in stored.dense().state_dict().items()}
    with torch.no_grad():
        for network in (stored.final(), stored.dense()):
            for parameter in network.parameters():
                parameter.zero_()
    assert all(torch.equal(first[name], tensor) for name, tensor in stored.dense().state_dict().items())


def test_another_output_folder_has_nothing_of_it(made, tmp_path):
    stored = RunArtifacts(made[0], tmp_path / "elsewhere")
    for ask in (stored.final, stored.dense, stored.masks):
        with pytest.raises(NotAvailable, match="is not here; give the folder that the run wrote to with --out"):
            ask()


def test_other_images_are_refused(made):
    done, options = made
    for part in ("train", "test"):
        other = replace(done, data=replace(done.data, **{f"{part}_sha256": "0" * 64}))
        with pytest.raises(RunFailed, match=f"other {part} images"):
            RunArtifacts(other, options.out).test_images(options.data_dir)


def test_weights_that_do_not_fit_are_refused(made):
    done, options = made
    file = options.out / "artifacts" / done.id / "network.safetensors"
    weights = load_file(file)
    save_file({name: tensor for name, tensor in weights.items() if name != "5.bias"}, file)
    network = replace(done.artifacts.network, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    other = replace(done, artifacts=replace(done.artifacts, network=network))
    with pytest.raises(RunFailed, match="does not fit the network of its record"):
        RunArtifacts(other, options.out).final()
    other = replace(done, structure=replace(done.structure, arch_sha256="0" * 64))
    with pytest.raises(RunFailed, match="another one here"):
        RunArtifacts(other, options.out).parts()
