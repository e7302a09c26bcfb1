"""``bench board``, ``compare`` and ``lint`` as a user types them."""

import json
import os
import subprocess
import sys

import pytest
from support import history
from support.command_tools import answer
from support.made_records import made, put, seeds
from support.terminals import on_a_terminal

from bench.spec.recipe import load_recipe
from leaderboard.render.text_table import wide

RECORDS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("good", [10, 11, 12, 10, 9]),
    *seeds("good", [20, 21, 22, 20, 19], keep=0.25),
)


@pytest.fixture
def records(tmp_path):
    return put(tmp_path / "records", *RECORDS)


def test_tables_in_every_format(records, tmp_path, capsys, monkeypatch):
    """A pipe gets every column, and no records are a usage error."""
    for fmt in ("text", "markdown", "csv", "json", "latex"):
        code, out, err = answer(capsys, "board", records, "--format", fmt)
        assert (code, err) == (0, "")
        assert "good" in out and "random" in out, fmt
        if fmt == "json":
            json.loads(out)
            assert answer(capsys, "board", records, "--json") == (0, out, "")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "- uniform_thin" in answer(capsys, "board", records)[1]
    monkeypatch.setenv("COLUMNS", "60")
    assert "- uniform_thin  " not in answer(capsys, "board", records)[1]
    (tmp_path / "none").mkdir()
    assert answer(capsys, "board", tmp_path / "none")[0] == 2


def test_choice_of_network_data_and_budget(records, capsys):
    put(records, *seeds("random", [1, 2, 3], arch="lenet"))
    assert "lenet" not in answer(capsys, "board", records, "--arch", "net")[1]
    out = answer(capsys, "board", records, "--arch", "net", "--keep", "0.25")[1]
    assert "keep 0.25" in out
    assert "keep 0.5 " not in out


@pytest.mark.parametrize("command", [["board"], ["compare", "good", "random"]])
def test_filter_without_records_names_what_there_is(records, capsys, command):
    for words, says in (
        (["-d", "digts"], "unknown data set in these records 'digts': did you mean digits?"),
        (["-d", "DIGITS"], "unknown data set in these records 'DIGITS': did you mean digits?"),
        (["-d", "mnist"], "unknown data set in these records 'mnist': known: digits"),
        (["-a", "resnet20"], "unknown network in these records 'resnet20': did you mean net?"),
        (["--keep", "0.5", "--keep", "0.20"], "--keep 0.2: no record has this budget; there are: 0.5, 0.25"),
    ):
        assert answer(capsys, *command, records, *words) == (2, "", f"bench: usage: {says}\n")


def test_omitted_records_are_listed_with_exit_code_1(records, capsys):
    (records / "bad-s0.json").write_text("{")
    (records / "\x1b[31mred-s0.json").write_text("{")
    code, out, err = answer(capsys, "board", records)
    assert code == 1
    assert "good" in out
    assert "bench: bad-s0.json: refused: not JSON" in err
    assert "\x1b" not in err


PLAN = """
[plan]
margins = [1]

[[runs]]
method = ["random", "l1_norm"]
arch = "resnet20"
seeds = "0-4"

[[runs]]
method = ["dense", "uniform_thin"]
arch = "resnet20"
seeds = "0-4"
"""


@pytest.fixture
def planned(tmp_path):
    """Records that a plan names, and one that it does not; the file of the plan."""
    asked = {"recipe": load_recipe("digits"), "arch": "resnet20"}
    found = [
        *history.seeds("dense", [5, 6, 4, 5, 6], keep=None, **asked),
        *history.seeds("random", [30, 31, 33, 29, 30], **asked),
        *history.seeds("l1_norm", [10, 11, 12, 10, 9], **asked),
        *history.seeds("uniform_thin", [20, 21, 19, 22, 20], **asked),
        *history.seeds("taylor", [1, 2, 1, 2, 1], **asked),
    ]
    (tmp_path / "plan.toml").write_text(PLAN)
    return put(tmp_path / "planned", *found), tmp_path / "plan.toml"


def test_plan_gives_verdicts_to_what_it_names(planned, capsys):
    folder, plan = planned
    code, out, err = answer(capsys, "board", folder, "--plan", plan)
    assert (code, err) == (0, "")
    assert "against dense, random, uniform_thin, margins 1 points" in out
    lines = {line.split()[2]: line for line in out.splitlines() if line.count("  ") > 8}
    assert "+4.04*" in lines["l1_norm"]
    assert "+5.84 " in lines["taylor"]
    assert "not ranked: exploratory, no plan names it" in out
    code, out, _ = answer(capsys, "board", folder)
    assert "note: exploratory: no plan names these rows" in out and "--plan FILE" in out
    assert "*" not in out.partition("\ntop-1 of")[0]
    plan.write_text(PLAN.replace("[plan]", "[defaults]").replace("margins = [1]", ""))
    assert answer(capsys, "board", folder, "--plan", plan)[0] == 2


def test_records_that_contradict_each_other_are_listed_with_exit_code_1(records, capsys):
    put(records, made("good", 0, 400))
    code, out, err = answer(capsys, "board", records)
    assert code == 1
    assert err.count("conflict: another result than") == 2
    assert "1 missing" not in out and "good" in out


def test_compare(planned, records, capsys):
    folder, plan = planned
    code, out, _ = answer(capsys, "compare", "l1_norm", "random", folder, "--plan", plan)
    assert code == 0
    assert "l1_norm: better" in out and "keep 0.5 of the MACs" in out
    assert "p (t)" not in out
    (found,) = json.loads(answer(capsys, "compare", "random", "l1_norm", folder, "--plan", plan, "--json")[1])
    assert (found["budget"], found["verdict"], found["subject"], len(found["seeds"])) == ("macs-0.5", "better", "b", 5)
    assert found["p_board"] < 0.05 and "p" not in found
    code, out, _ = answer(capsys, "compare", "l1_norm", "random", folder, "--single")
    assert "p (t)" in out and "uncorrected" in out and "give the plan of the runs" in out
    (found,) = json.loads(answer(capsys, "compare", "l1_norm", "random", folder, "--single", "--json")[1])
    assert (found["verdict"], found["p_board"]) == ("", None)
    assert found["p"] < 0.05
    code, _, err = answer(capsys, "compare", "god", "random", records)
    assert code == 2
    assert "did you mean good?" in err


def test_lint_of_what_board_prints(records, tmp_path, capsys):
    table = tmp_path / "table.md"
    table.write_text(answer(capsys, "board", records, "--format", "markdown")[1])
    assert answer(capsys, "lint", table, "--records", records)[0] == 0
    row = next(line for line in table.read_text().splitlines() if line.startswith("|") and "good" in line)
    mean = next(cell for cell in row.split("|") if "±" in cell)
    table.write_text(table.read_text().replace(mean, mean.replace("97.92", "98.92"), 1))
    code, out, err = answer(capsys, "lint", table)
    assert (code, out) == (2, "")
    assert "give --records DIR, or put table.json or table.csv" in err
    (tmp_path / "table.json").write_text(answer(capsys, "board", records, "--json")[1])
    code, out, err = answer(capsys, "lint", table)
    assert code == 1
    assert "good" in out
    assert "1 tables, " in err
    assert answer(capsys, "lint", tmp_path / "none.md")[0] == 2


@pytest.mark.slow
def test_site_and_verifications(records, tmp_path, capsys):
    verified = tmp_path / "verified.json"
    file = next(records.rglob("*.json"))
    verified.write_text(json.dumps({str(file): [{"name": "masks", "outcome": "ok", "detail": "as hashed"}]}))
    code, out, _ = answer(capsys, "board", records, "--site", tmp_path / "site", "--verified", verified)
    assert code == 0
    assert (tmp_path / "site" / "index.html").is_file()
    assert "index.html" in out
    (page,) = (tmp_path / "site" / "records").glob(f"{file.stem}-*.html")
    assert "as hashed" in page.read_text()


def test_figures_and_wrong_verifications(records, tmp_path, capsys):
    code, out, _ = answer(capsys, "board", records, "--figures", tmp_path / "figures")
    assert code == 0
    assert {line.rpartition(".")[2] for line in out.splitlines()} == {"svg", "png"}
    verified = tmp_path / "verified.json"
    verified.write_text("[]")
    assert answer(capsys, "board", records, "--site", tmp_path / "site", "--verified", verified)[0] == 2
    assert answer(capsys, "board", records, "--verified", verified)[0] == 2


def test_tables_need_no_torch(records):
    code = f"from bench.cli import main; main(['board', {str(records)!r}]); import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_made_up_method_with_one_seed_is_shown_and_not_ranked(tmp_path, capsys):
    out = answer(capsys, "board", put(tmp_path, made("new")))[1]
    assert "1 of 5 seeds, too few to be read" in out


@pytest.mark.parametrize(
    ("words", "columns"),
    [(["board"], 80), pytest.param(["compare", "good", "random"], 60, marks=pytest.mark.slow)],
)
def test_no_line_is_longer_than_the_terminal(records, words, columns):
    code, lines = on_a_terminal([*words, records], columns)
    assert code == 0
    assert max(map(wide, lines)) <= columns
    assert any("not shown:" in line for line in lines)
    code, lines = on_a_terminal([*words, records, "--wide"], columns)
    assert max(map(wide, lines)) > columns
    assert not any("not shown:" in line for line in lines)


@pytest.mark.parametrize(
    "fmt",
    [
        [],
        ["--json"],
        *(pytest.param(["--format", name], marks=pytest.mark.slow) for name in ("csv", "markdown", "latex")),
    ],
)
def test_terminal_of_ascii_only(tmp_path, capsys, fmt):
    """Question marks for people; what may be kept in a file is written as it is."""
    failed = made("good", 3, status="failed", error="\u0441\u043d\u0438\u043c\u043a\u0438")
    folder = put(tmp_path, *seeds("good", [10, 11, 12]), failed)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "bench", "board", str(folder), *fmt]
    plain = subprocess.run(command, capture_output=True, check=True, env=os.environ | ascii_only)
    full = answer(capsys, "board", folder, *fmt)[1]
    if fmt:
        assert plain.stdout == full.encode()
    else:
        assert plain.stdout.decode("ascii") == full.encode("ascii", "replace").decode()
    assert plain.stderr == b""
