"""The command ``bench check``: usage errors, files of several methods, JSON, the list of checks."""

import json

import pytest
from support.command_tools import answer
from support.paths import PLUGINS, ROOT

from bench.conformance.runner import CHECKS


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["check"], "give one of NAME, FILE and --all"),
        (["check", "l1_norm", "--all"], "give one of NAME, FILE and --all"),
        (["check", "l1_nrom"], "did you mean l1_norm"),
        (["check", "l1_norm", "--only", "resum"], "did you mean resume"),
        (["check", "none.py"], "no such file"),
        (["check", str(PLUGINS / "small.py")], "it defines no method"),
        (["check", "l1_norm+random"], "cannot be composed"),
        (["check", "l1_norm", "--limit", "x"], "--limit"),
    ],
)
def test_usage_error_is_one_line(capsys, arguments, word):
    code, out, err = answer(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err


def test_a_file_is_checked_method_by_method(capsys, tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "from bench.api import importance\n\n"
        "@importance('good_one')\ndef good(site):\n    'Fine.'\n    return site.rows().norm(dim=1)\n\n"
        "@importance('bad_one')\ndef bad(site):\n    return site.rows().norm(dim=1)\n"
    )
    code, out, err = answer(capsys, "check", file, "--only", "documented")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith("good_one: INCOMPLETE: 1 checks ran, 1 passed, 0 failed, 0 skipped")
    assert lines[1] == "  FAILED  documented: bad_one has no docstring"
    assert lines[2] == "          why: " + CHECKS["documented"].why
    assert lines[3].startswith("bad_one: FAILED: 1 checks ran, 0 passed, 1 failed")
    assert lines[4] == "0 of 2 methods passed"
    assert err.splitlines() == ["checking good_one (1 of 2)", "checking bad_one (2 of 2)"]


def test_unloadable_method_does_not_end_the_others(capsys, tmp_path):
    file = tmp_path / "three.py"
    text = "from bench.api import importance\n\n1 / 0\n"
    for name in ("one", "two"):
        text += f"@importance('{name}_of_three')\ndef {name}(site):\n    return site.rows().norm(dim=1)\n\n"
    file.write_text(text)
    code, out, _ = answer(capsys, "check", file, "--only", "documented")
    assert code == 1
    assert out.count("ZeroDivisionError: division by zero") == 2
    assert out.splitlines()[-1] == "0 of 2 methods passed"


def test_json_has_every_result(capsys):
    code, out, err = answer(capsys, "check", "l1_norm", "--only", "documented", "--only", "penalty", "--json")
    assert (code, err) == (1, "")
    (found,) = json.loads(out)
    assert found["verdict"] == "INCOMPLETE"
    assert found["counts"] == {"ok": 1, "failed": 0, "skipped": 1, "not_run": 0}
    assert [check["name"] for check in found["checks"]] == ["documented", "penalty"]
    assert found["defined_in"].startswith("methods/norms.py:")
    assert "resume" in found["missing"]


def test_list_and_page_have_every_check_with_its_reason(capsys):
    code, out, _ = answer(capsys, "check", "--list", "--json")
    assert code == 0
    assert {row["check"]: row["why"] for row in json.loads(out)} == {c.name: c.why for c in CHECKS.values()}
    text = (ROOT / "docs" / "check.md").read_text()
    rows = [f"| `{c.name}` | {c.why} |" for c in CHECKS.values()]
    assert [row for row in rows if row not in text.splitlines()] == []
    assert text.partition("## The checks")[2].count("\n| `") == len(rows)
