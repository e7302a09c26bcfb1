"""What a run ran on."""

import json

import pytest
import torch

from bench import environment
from bench.errors import SetupError


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert environment.pick_device("auto").type == expected
    assert environment.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "mps:0"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(SetupError, match=f"--device {name}"):
        environment.pick_device(name)


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")])
def test_precision_follows_the_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(environment, "cpu", lambda: ("a CPU", frozenset(flags)))
    assert environment.pick_precision("auto", torch.device("cpu")) == expected
    assert environment.pick_precision("fp32", torch.device("cpu")) == "fp32"


def test_code_names_commit_and_local_changes(monkeypatch):
    answers = {"rev-parse": "c" * 40, "diff": "+ a line"}
    monkeypatch.setattr(environment, "_git", lambda command, *rest: answers[command])
    changed = environment.code()
    assert len(changed["diff_sha256"]) == 64
    answers["diff"] = ""
    assert environment.code() == changed | {"diff_sha256": None}


def test_a_machine_without_git_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.code()["commit"] is None


def test_versions_are_plain_data():
    found = environment.versions(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
