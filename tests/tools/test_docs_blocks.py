import re

import pytest

from bench.cli import main as bench
from bench.cli import method_page, parser
from bench.errors import UsageError
from bench.records import schema
from bench.spec.registry import METHODS
from tools import docs_blocks


@pytest.fixture(autouse=True)
def _suite_only():
    METHODS._plugins = {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_blocks, "missing", lambda folder: [])
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "a.md").write_text(
        "# A\n\nBefore.\n\n<!-- generated: l1_norm -->\nold\n<!-- /generated -->\n\nAfter.\n"
    )
    (tmp_path / "b.md").write_text("# B\n")
    return tmp_path


def refresh(*words):
    return docs_blocks.main(list(map(str, words)))


def test_committed_pages_are_up_to_date():
    assert docs_blocks.stale(docs_blocks.DOCS) == {}, "python -m tools.docs_blocks"
    assert docs_blocks.missing(docs_blocks.DOCS) == []


def test_refresh_changes_only_the_block(folder, capsys):
    page = folder / "methods" / "a.md"
    assert refresh("--check", folder) == 1
    assert "old" in page.read_text()
    assert refresh(folder) == 0
    assert "a.md: changed" in capsys.readouterr().out
    text = page.read_text()
    assert text == f"# A\n\nBefore.\n\n{method_page.marked(['l1_norm'])}\n\nAfter.\n"
    assert refresh("--check", folder) == 0
    assert refresh(folder) == 0
    assert page.read_text() == text


def test_method_without_page_fails(folder, monkeypatch, capsys):
    monkeypatch.undo()
    assert refresh(folder) == 1
    error = capsys.readouterr().err
    assert "ddrop has no page" in error
    assert "l1_norm has no page" not in error


def test_wrong_marks_are_refused(folder, capsys):
    for mark in ("<!-- generated: l1_norm -->\n", "<!-- /generated -->\n"):
        (folder / "b.md").write_text(mark)
        with pytest.raises(UsageError, match=r"b\.md: a mark .* has no partner"):
            docs_blocks.stale(folder)
        assert refresh(folder) == 2
        assert "has no partner" in capsys.readouterr().err
    (folder / "b.md").write_text("<!-- generated: l1norm -->\n<!-- /generated -->\n")
    with pytest.raises(UsageError, match=r"b\.md: unknown method 'l1norm': did you mean l1_norm"):
        docs_blocks.stale(folder)


def test_every_field_of_a_record_has_a_type_and_a_meaning():
    rows = [line.strip("| ").split(" | ") for line in docs_blocks.fields(schema.json_schema()).splitlines()[2:]]
    without = [row[0] for row in rows if len(row) < 3 and not re.search(r"^`spec\.|\[\]`$", row[0])]
    assert without == [] and len(rows) > 150
    said = {row[0]: row[1:] for row in rows}
    assert said["`metrics.final.top1`"] == ["number >= 0 <= 1", "share of the test images"]  # of a struct above it
    assert said["`training.method_examples`"][1].startswith("images that the method passed")  # above its line


def test_command_reference_has_every_option_in_help(capsys):
    reference = docs_blocks.commands()
    for name in parser()._subparsers._group_actions[0].choices:
        with pytest.raises(SystemExit):
            bench([name, "--help"])
        printed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
        section = reference.split(f"### bench {name}\n")[1].split("\n### ")[0]
        assert printed <= set(re.findall(r"--[a-z][a-z-]+", section)), name
