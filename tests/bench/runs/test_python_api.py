"""``bench.run`` and ``bench.load``: what the commands do, from Python."""

import pytest
import torch
from support.requested import request_of

import bench
from bench.cli import main
from bench.errors import SetupError, UsageError
from bench.records import store

SMALL = {"arch": "two_layers", "dataset": "tiny", "recipe": "synthetic", "quiet": True}
SHORT = {"train.epochs": 1, "finetune.epochs": 0, "latency_batch": 4, "recalibrate": 2}


@pytest.fixture
def ran(make_run, tmp_path):
    """Records of two seeds, below the folder ``out``."""
    return bench.run(method="l1_norm", **SMALL, settings=SHORT, seeds=range(2), out=tmp_path / "out")


def test_records_are_those_of_the_command(ran, tmp_path, capsys):
    words = ["run", "-m", "l1_norm", "-a", "two_layers", "-d", "tiny", "--recipe", "synthetic", "--seeds", "0-1"]
    words += [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.count("was done on") == 2  # the very runs: nothing is repeated
    assert [found.id for found in ran] == [path.stem for path in sorted(store.find(tmp_path / "out"), key=_seed)]
    assert [out.count(found.id) > 0 for found in ran] == [True, True]
    assert request_of(*words[1:]).keep_macs is None  # both have the default budget
    assert ran[0].spec.budget.keep_macs == 0.5


def test_without_seeds_there_is_one_record(ran, tmp_path):
    record = bench.run(method="l1_norm", **SMALL, settings=SHORT, out=tmp_path / "out")
    assert record == ran[0]


def _seed(path):
    return path.stem.rpartition("-s")[2]


def test_load_by_id_and_by_file(ran, tmp_path):
    out = tmp_path / "out"
    network, record = bench.load(ran[0].id, out=str(out))
    again, same = bench.load(next(path for path in store.find(out) if path.stem == ran[0].id), out=out)
    assert record == same == ran[0]
    assert not network.training
    x = torch.rand(2, *record.data.shape)
    assert torch.equal(network(x), again(x))
    dense, _ = bench.load(ran[0].id, out, which="dense")
    assert sum(p.numel() for p in dense.parameters()) == record.cost.dense.params
    assert sum(p.numel() for p in network.parameters()) == record.cost.final.params


def test_what_cannot_be_loaded(ran, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no record of that name"):
        bench.load("ffffff", out)
    with pytest.raises(UsageError, match="2 records have that name"):
        bench.load(ran[0].id.partition("-")[0], out)
    with pytest.raises(UsageError, match="which is final or dense"):
        bench.load(ran[0].id, out, which="pruned")
    (out / "artifacts" / ran[0].id / "network.safetensors").unlink()
    with pytest.raises(SetupError, match="is not here"):
        bench.load(ran[0].id, out)


def test_wrong_arguments_are_refused():
    for asked, said in (
        ({"method": "l1_norm"}, "arch missing"),
        ({"method": "l1_norm", "arch": "resnet20", "keep_mac": 0.5}, "did you mean keep_macs"),
        ({"method": "l1_norm", "arch": "resnet20", "keep_macs": 0.5, "native": True}, "give one of them"),
    ):
        with pytest.raises(UsageError, match=said):
            bench.run(**asked)
