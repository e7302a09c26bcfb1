"""Names in records: what is refused, and that whatever is not refused goes through board, lint, figures and site."""

from dataclasses import replace

import pytest
from support.boards import load
from support.made_records import made, put, seeds
from support.records import line, seal

from bench.cli import main
from bench.errors import UsageError
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from leaderboard.figures import draw, figures_of_boards
from leaderboard.lint.check import check_text
from leaderboard.render.tables import FORMATS, render
from leaderboard.stats.boards import build

REFUSED = {
    "pairs": "\U0001f525" * 50,
    "one pair": "l1_norm\U00020000",
    "a Cyrillic letter": "r\u0430ndom",
    "a full-width letter": "\uff52andom",
    "a grapheme joiner": "random\u034f",
    "a Hangul filler": "random\u3164",
    "an empty Braille cell": "l1_norm\u2800",
    "a variation selector": "random\ufe0e",
    "a zero-width space": "random\u200b",
    "a space": "random share=1",
    "a no-break space": "l1_norm\u00a0",
    "capitals": "RANDOM",
    "a formula": "=HYPERLINK()",
    "a command": "\\input{}",
    "a tag": "<script>",
    "a link": "[x](javascript:)",
    "a path": "../../x",
    "a template": "{{7*7}}",
    "an escape": "\x1b[31m",
    "a zero": "a\x00",
    "a part that is empty": "a++b",
    "200 letters": "a" * 200,
}
ACCEPTED = {
    "a space": "my photos",
    "marks": "a<b>&'\"${c}|d",
    "100 letters": "x" * 100,
}


def found_in(folder):
    return build(load(folder))


def sealed_as(found, method):
    """A record under another method's name, with the hashes that belong to it."""
    from bench.spec.spec import Spec

    found["spec"]["method"] = method
    found["spec_sha256"] = Spec.from_dict(found["spec"]).sha256
    found["id"] = f"{found['spec_sha256'][:12]}-s{found['spec']['seed']}"
    return seal(found)


def test_refused_name_costs_its_record_and_nothing_else(tmp_path):
    put(tmp_path / "r", *seeds("random", [30, 31, 33]), *seeds("fpgm", [20, 21, 23]))
    for name in REFUSED.values():
        altered = sealed_as(made("l1_norm", 0, 10), name)
        (tmp_path / "r" / f"{altered['id']}.json").write_bytes(line(altered))
    boards, problems = found_in(tmp_path / "r")
    assert {row.name for board in boards for table in board.tables for row in table.rows} == {"random", "fpgm"}
    assert [problem.message.startswith("spec.method ") for problem in problems] == [True] * len(REFUSED)
    assert main(["board", str(tmp_path / "r"), "--no-cache"]) == 1
    assert main(["verify", str(tmp_path / "r")]) == 1


@pytest.mark.slow
def test_site_and_figures_are_written_despite_refused_names(tmp_path):
    put(tmp_path / "r", *seeds("random", [30, 31, 33]), *seeds("fpgm", [20, 21, 23]))
    for name in REFUSED.values():
        altered = sealed_as(made("l1_norm", 0, 10), name)
        (tmp_path / "r" / f"{altered['id']}.json").write_bytes(line(altered))
    assert main(["board", str(tmp_path / "r"), "--no-cache", "--site", str(tmp_path / "site")]) == 1
    assert main(["board", str(tmp_path / "r"), "--no-cache", "--figures", str(tmp_path / "figures")]) == 1


def test_names_of_networks_and_data_sets_are_any_printable_ascii(tmp_path):
    for number, name in enumerate(ACCEPTED.values()):
        asked = {"arch": name, "dataset": name, "config": {"option": name[:40]}}
        put(tmp_path / f"{number}", *seeds("random", [30, 31, 33], **asked), *seeds("fpgm", [20, 21, 23], **asked))
        boards, problems = found_in(tmp_path / f"{number}")
        assert problems == []
        assert [board.key["dataset"] for board in boards] == [name]
        for fmt in FORMATS:
            assert check_text(render(boards, fmt), fmt, boards) == []
        assert "<svg" in draw.svg(figures_of_boards.costs(boards[0]))


def test_no_text_takes_a_figure_down(tmp_path):
    """Also one that no record may have: the drawer cuts long labels anywhere."""
    put(tmp_path, *seeds("random", [30, 31, 33]), *seeds("fpgm", [20, 21, 23]))
    (board,), _ = found_in(tmp_path)
    for name in ("\U0001f525" * 50, "a" * 60 + "\U0001f525" * 20, "\ud83d"):
        rows = tuple(replace(row, name=name, method=name) for row in board.tables[0].rows)
        spec = figures_of_boards.costs(replace(board, tables=(replace(board.tables[0], rows=rows),)))
        draw.save(spec, tmp_path / "figure.png")
        assert "<svg" in draw.svg(spec)


def test_run_whose_record_nobody_could_read_is_refused():
    for asked, message in [
        ({"arch": "a" * 101}, "spec.arch is 'aaaa.*length <= 100; choose another"),
        ({"arch": "file:\U0001f525.py:build#01234567"}, "spec.arch is "),
        ({"dataset": "folder:a\u3164b#01234567"}, "spec.dataset is .*invisible or unusable character U.3164"),
        ({"recipe": "\U0001f525"}, "spec.recipe.name is "),
        ({"options": {"share": "0." + "5" * 100, "other": "x" * 500}}, "has no option"),
    ]:
        asked = {"arch": "lenet", "dataset": "digits", "recipe": "digits", "options": None} | asked
        recipe = replace(load_recipe("digits"), name=asked["recipe"])
        with pytest.raises(UsageError, match=message):
            make_spec("ddrop", asked["arch"], asked["dataset"], recipe, Budget(0.5), options=asked["options"])


def test_unreadable_method_name_is_refused_before_training(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(
        "from bench.api import importance\n\n\n"
        '@importance("r\u0430ndom")\ndef own(site):\n    """Sum."""\n    return site.rows().sum(1)\n',
        encoding="utf-8",
    )
    words = ["run", "--plugin", str(file), "-m", "r\u0430ndom", "-a", "lenet", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "expected a-z, 0-9 and _" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
