"""``bench new``: what it writes keeps the contract as it is, and nothing is overwritten."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_tools import answer

from bench.cli import main
from bench.conformance.runner import CHECKS, LEAST, examine
from bench.spec.registry import add_plugin, import_file

KINDS = ("importance", "regularizer", "method")


@pytest.mark.parametrize("kind", KINDS)
def test_written_method_is_formatted_and_keeps_the_contract(capsys, tmp_path, kind):
    name = f"new_{kind}"
    code, out, err = answer(capsys, "new", name, "--kind", kind, "--dir", tmp_path / "mine")
    written = [Path(line) for line in out.splitlines()]
    assert code == 0
    assert [path.name for path in written] == [f"{name}.py", f"test_{name}.py"]
    assert len(err.splitlines()) == 3
    for command in (f"check {written[0]}", f"pytest {written[1]}", f"run --plugin {written[0]} --method {name}"):
        assert command in err
    for path in written:
        text = path.read_text()
        assert max(map(len, text.splitlines())) <= 120
        assert "$" not in text
    import_file(written[1]).test_its_equation()
    add_plugin(str(written[0]))
    report = examine(name, ["documented", "options", "runs", "penalty"])
    assert report.count("FAILED") == report.count("not run") == 0, report.results


@pytest.mark.slow
def test_written_tests_pass(tmp_path):
    """They have a case for each check, so that the whole battery passes, and one for the equation."""
    for kind in KINDS:
        assert main(["new", f"newer_{kind}", "--kind", kind, "--dir", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for kind in KINDS:
        passed, skipped = (
            len(re.findall(rf"^test_newer_{kind}.py::.* {word} ", done.stdout, re.M)) for word in ("PASSED", "SKIPPED")
        )
        assert passed > LEAST
        assert passed + skipped == len(CHECKS) + 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["my-norm", "--kind", "importance"], "not a Python identifier"),
        (["class", "--kind", "importance"], "not a Python identifier"),
        (["../x", "--kind", "importance"], "not a Python identifier"),
        (["l1_norm", "--kind", "importance"], "this name is taken (methods/norms.py:"),
        (["mine", "--kind", "plan"], "--kind"),
        (["mine"], "--kind"),
    ],
)
def test_usage_error_is_one_line(capsys, tmp_path, arguments, word):
    code, out, err = answer(capsys, "new", *arguments, "--dir", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_existing_file_is_kept(capsys, tmp_path, there):
    (tmp_path / there).write_text("mine")
    code, out, err = answer(capsys, "new", "mine", "--kind", "method", "--dir", tmp_path)
    assert (code, out) == (2, "")
    assert f"{there} is already there and stays as it is" in err
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(there, "mine")]
    code, _, err = answer(capsys, "new", "other", "--kind", "method", "--dir", tmp_path / there)
    assert code == 3
    assert "choose another folder with --dir" in err
