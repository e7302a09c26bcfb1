"""The masks of ``bench.prune`` are those of a run with the same weights, images, seed and budget."""

import itertools

import pytest
import torch

import bench
from bench.data.loading import load_training
from bench.runs.artifacts import RunArtifacts
from bench.runs.identity import packed_masks
from bench.spec.digest import derive_seed

FAST = {("two_layers", "l1_norm"), ("two_layers", "taylor")}


@pytest.mark.parametrize(
    ("arch", "method"),
    [
        pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
        for pair in itertools.product(("two_layers", "resnet20", "mlp_40_40"), ("l1_norm", "taylor", "tp_random"))
    ],
)
def test_masks_are_those_of_the_record(arch, method, finished):
    spec, done, options = finished(method, arch, "tiny8", keep=0.3)
    data = load_training(spec.dataset, options.data_dir, False, spec.seed, torch.device("cpu"))
    given = list(data.train.mixed(spec.recipe.batch_size, derive_seed(spec.seed, "batches")))
    dense = RunArtifacts(done, options.out).dense()
    made = bench.prune(dense, given[0][0], given, method=method, keep_macs=0.3, seed=spec.seed)
    assert packed_masks(dict(made.masks)) == done.structure.masks
    assert made.cost["pruned"]["macs"] == done.cost.final.macs
    assert made.cost["dense"]["macs"] == done.cost.dense.macs
