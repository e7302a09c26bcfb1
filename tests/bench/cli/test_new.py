"""``bench new``: what it writes keeps the contract as it is, and nothing is overwritten."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.conformance.runner import CHECKS, LEAST, examine
from bench.spec.registry import ARCHS, DATASETS, METHODS, add_plugin, import_file

KINDS = ("importance", "regularizer", "method")


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    for registry in (METHODS, ARCHS, DATASETS):
        monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))


def said(capsys, *arguments):
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_the_contract_and_its_test_holds(capsys, tmp_path, kind):
    name = f"new_{kind}"
    code, out, err = said(capsys, "new", name, "--kind", kind, "--dir", tmp_path / "mine")
    written = [Path(line) for line in out.splitlines()]
    assert code == 0
    assert [path.name for path in written] == [f"{name}.py", f"test_{name}.py"]
    assert len(err.splitlines()) == 3
    for command in (f"check {written[0]}", f"pytest {written[1]}", f"run --plugin {written[0]} --method {name}"):
        assert command in err
    import_file(written[1]).test_its_equation()
    add_plugin(str(written[0]))
    only = None if kind == "method" else ["documented", "options", "runs", "order_of_units", "penalty", "record"]
    report = examine(name, only)
    assert report.count("FAILED") == report.count("not run") == 0, report.results
    assert report.verdict == ("INCOMPLETE" if only else "PASSED")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_test_that_is_written_passes(tmp_path, kind):
    name = f"newer_{kind}"
    assert main(["new", name, "--kind", kind, "--dir", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    passed, skipped = (int(re.search(rf"(\d+) {word}", done.stdout)[1]) for word in ("passed", "skipped"))
    assert passed > LEAST
    assert passed + skipped == len(CHECKS) + 1  # a case a check, and the equation


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_formatted(capsys, tmp_path, kind):
    _, out, _ = said(capsys, "new", "tidy", "--kind", kind, "--dir", tmp_path)
    for path in out.splitlines():
        lines = Path(path).read_text().splitlines()
        assert max(map(len, lines)) <= 120
        assert "$" not in Path(path).read_text()
        compile(Path(path).read_text(), path, "exec")


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
def test_errors_of_usage_are_one_line(capsys, tmp_path, arguments, word):
    code, out, err = said(capsys, "new", *arguments, "--dir", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(capsys, tmp_path, there):
    (tmp_path / there).write_text("mine")
    code, out, err = said(capsys, "new", "mine", "--kind", "method", "--dir", tmp_path)
    assert (code, out) == (2, "")
    assert f"{there} is already there and stays as it is" in err
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(there, "mine")]


def test_new_names_an_unwritable_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = said(capsys, "new", "mine", "--kind", "method", "--dir", tmp_path / "file")
    assert code == 3
    assert "choose another folder with --dir" in err
