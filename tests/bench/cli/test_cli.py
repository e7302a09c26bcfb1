"""The command line: what a user types, what comes back, and every wrong word in one line with the right exit code."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_tools import answer
from support.paths import PLUGINS, ROOT
from support.records import line

from bench.cli import parser
from bench.errors import UsageError
from bench.spec.option_text import as_seeds
from bench.spec.registry import ARCHS, DATASETS, METHODS

SMALL = ["--plugin", str(PLUGINS / "small.py"), "--arch", "two_layers", "--dataset", "tiny", "--recipe", "synthetic"]


@pytest.fixture(autouse=True)
def _own_registries(plugins):
    """Files given by --plugin are known for one test only."""
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins.clear()


RUN = ["run", "--method", "ddrop", "--arch", "resnet56"]


WRONG = [  # words after RUN, or a whole command; exit code; what the line says
    (["run", "--method", "ddrob", "--arch", "resnet56"], 2, "did you mean ddrop"),
    ([*RUN[:3], "--arch", "torchvision:resnet57"], 2, "did you mean resnet50"),
    ([*RUN[:3], "--arch", "file:nowhere.py:net"], 2, "no file nowhere.py"),
    (["--recipe", "cifra"], 2, "did you mean cifar"),
    (["--keep-macs", "1.5"], 2, "above 0 and at most 1"),
    (["--keep-macs", "nan"], 2, "above 0 and at most 1"),
    (["--keep-macs", "abc"], 2, "'abc' is not a number"),
    (["--keep-macs", "0.5", "--keep-params", "0.5"], 2, "give one of them"),
    (["--ranking", "best"], 2, "--ranking best"),
    (["--min-keep", "0"], 2, "at least 1"),
    (["--coupling", "outer"], 2, "--coupling"),
    (["-p", "p_mni=0.1"], 2, "has no option 'p_mni'"),
    (["-p", "p_min=low"], 2, "not a number"),
    (["-p", "schedule=exp"], 2, "one of cosine, linear, constant"),
    (["-p", "p_min=0.9", "-p", "p_max=0.3"], 2, "p_min 0.9 and p_max 0.3"),
    (["--set", "train.epoch=3"], 2, "did you mean train.epochs"),
    (["--set", "train.epochs=x"], 2, "not a whole number"),
    (["--set", "train.epochs=-1"], 2, "at least 0"),
    (["--set", "batch_size=0"], 2, "at least 1"),
    (["--epochs", "x"], 2, "'x' is not a whole number"),
    (["run", "--method", "l1_norm+random", "--arch", "resnet20"], 2, "cannot be composed"),
    (["run", "--method", "l1_norm", "--arch", "vgg16_bn"], 2, "at least 32x32"),
    ([*RUN[:3], "--arch", "mlp_40_40", "--keep-macs", "0.001"], 2, "cannot be met"),
    (["--dataset=--"], 2, "expected one argument"),
    (["--dataset", "cifar10"], 3, "--download"),
    (["--device", "tpu"], 3, "--device tpu"),
    (["--device", "cuda:77"], 3, "--device cuda:77"),
]


def test_wrong_words(capsys, tmp_path):
    for words, code, said in WRONG:
        command = words if words[0] == "run" else [*RUN, *words]
        got, out, err = answer(capsys, *command, "--out", tmp_path / "out", "--data-dir", tmp_path / "data")
        assert (got, out, len(err.strip().splitlines())) == (code, "", 1), (words, err)
        assert said in err, words
        assert not list(tmp_path.rglob("*.json")), words


def test_run_show_verify(capsys, tmp_path):
    command = ["run", "-m", "l1_norm", *SMALL, "--epochs", "1", "--out", tmp_path]
    code, out, err = answer(capsys, *command)
    assert code == 0
    assert [word in out for word in ("dense", "pruned, not fine-tuned", "final", "record: ")] == [True] * 4
    assert "epoch 1/1" in err
    assert re.search(r"quick time, no measurement \(bench latency makes one\): dense / final [\d.]+ / [\d.]+ at", err)
    path = Path(out.rpartition("record: ")[2].strip())
    assert path.is_file()
    again, second, _ = answer(capsys, *command)
    assert (again, second) == (0, out)
    code, shown, _ = answer(capsys, "show", path.stem[:6], "--out", tmp_path)
    assert code == 0
    assert path.stem in shown
    code, text, _ = answer(capsys, "show", path, "--json")
    assert json.loads(text) == json.loads(path.read_text())
    code, text, _ = answer(capsys, "verify", "--out", tmp_path)
    assert code == 0
    assert "FAILED" not in text
    found = json.loads(path.read_text())
    found["metrics"]["final"]["loss"] /= 2
    path.write_bytes(line(found))
    code, text, _ = answer(capsys, "verify", path, "--out", tmp_path)
    assert code == 1
    assert "its content is not what record_sha256 was made of" in text


def test_dry_run_says_what_would_run_and_writes_nothing(capsys, tmp_path):
    code, out, _ = answer(
        capsys, *RUN, "--dry-run", "--out", tmp_path / "out", "--set", "weight_decay=0", "--epochs", "0"
    )
    planned = json.loads(out)
    assert code == 0
    assert planned["spec"]["recipe"]["weight_decay"] == 0
    assert planned["spec"]["recipe"]["train"]["epochs"] == 0
    assert not (tmp_path / "out").exists()


def test_explicit_defaults_name_the_same_run(capsys, tmp_path):
    ids = set()
    for extra in ([], ["-p", "p_min=0.2"], ["--keep-macs", "0.5"], ["--coupling", "inner"], ["--set", "momentum=0.9"]):
        ids.add(json.loads(answer(capsys, *RUN, "--dry-run", *extra)[1])["id"])
    assert len(ids) == 1


def test_list_shows_everything_with_its_place(capsys):
    code, out, _ = answer(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"methods", "archs", "datasets", "recipes"}
    ddrop = next(row for row in found["methods"] if row["name"] == "ddrop")
    file, _, line = ddrop["defined in"].partition(":")
    assert "class DDrop" in (ROOT / file).read_text().splitlines()[int(line) - 1]
    assert ddrop["paper"] == "Toulaoui et al. 2025"
    assert answer(capsys, "list")[0] == 0
    code, out, _ = answer(capsys, "list", "archs", "resnet2*")
    assert (code, [line.split()[0] for line in out.strip().splitlines()[3:]]) == (0, ["resnet20", "resnet20b"])


def test_list_sites_says_why_not(capsys):
    code, out, _ = answer(capsys, "list", "sites", "--arch", "resnet20")
    assert code == 0
    assert "9 sites" in out
    assert "4 layers produce it together" in out
    code, _, err = answer(capsys, "list", "sites", "--arch", "resnet5")
    assert (code, "unknown architecture" in err) == (2, True)


def test_plugin_methods_run_and_fail_by_name(capsys, tmp_path):
    """And later seeds run after a failure."""
    broken = ["--plugin", str(PLUGINS / "broken.py")]
    command = ["run", "-m", "nan_scores", *SMALL, *broken, "--epochs", "1", "-q", "--out", tmp_path]
    code, _, err = answer(capsys, *command)
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("bench: error: the method's scores for site")
    assert len(err.strip().splitlines()) == 1
    code, _, err = answer(capsys, *command, "--seeds", "1-2")
    assert code == 1
    assert err.strip().splitlines()[-1] == "bench: error: 2 of 2 seeds failed: 1, 2"
    _, out, _ = answer(capsys, "list", "methods", *broken)
    assert "nan_scores" in out


def test_seeds():
    for text, seeds in (("0", (0,)), ("0-3", (0, 1, 2, 3)), ("5,1-2,5", (5, 1, 2))):
        assert as_seeds(text) == seeds
    for text in ("", "-1", "1-", "x", "3-1"):
        with pytest.raises(UsageError, match="--seeds"):
            as_seeds(text)


def test_every_command_has_help_and_offers_json(capsys):
    commands = parser()._subparsers._group_actions[0].choices
    assert set(commands) >= {"run", "list", "show", "verify"}
    for command in commands:
        code, out, _ = answer(capsys, command, "--help")
        assert code == 0
        assert "usage" in out and "--json" in out, command


def test_closed_pipe_is_no_error():
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'bench', 'list']))"
    done = subprocess.run(f'{sys.executable} -c "{code}" | head -1', shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_interrupt_says_how_to_resume(capsys, tmp_path):
    """The run interrupts itself in its last epoch of training, so that no clock decides when."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        words = ["run", "-m", "interrupts", "-p", "after=3", "--plugin", PLUGINS / "interrupts.py", *SMALL]
        words += ["--epochs", "3", "--finetune-epochs", "1", "--out", tmp_path, "--quiet"]
        code, out, err = answer(capsys, *words)
        assert (code, out) == (130, "")
        assert err == "bench: interrupted; the same command resumes after the last epoch\n"
        (path,) = tmp_path.rglob("records/**/*.json")
        assert json.loads(path.read_text())["status"] == "interrupted"
        assert answer(capsys, *words)[0] == 0
        done = json.loads(path.read_text())
        assert (done["status"], done["clock"]["resumes"]) == ("ok", 1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("words", [["list"], ["board"]])
def test_interrupt_of_a_command_that_resumes_nothing(capsys, monkeypatch, words):
    def interrupted(chosen):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"bench.cli.{'list_.run' if words == ['list'] else 'board.board'}", interrupted)
    assert answer(capsys, *words) == (130, "", "bench: interrupted\n")
