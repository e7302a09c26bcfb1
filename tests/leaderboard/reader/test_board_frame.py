"""``bench.load_board``: the numbers of a board's JSON as a frame."""

import json

import pytest

import bench
import leaderboard


def test_numbers_are_those_of_the_file():
    frame = bench.load_board()
    boards = json.loads(leaderboard.BOARD.read_text())["boards"]
    tables = [(board, table) for board in boards for table in board["tables"]]
    assert frame["table"].max() == len(tables)
    for number, (board, table) in enumerate(tables, 1):
        rows = frame[frame["table"] == number].to_dict("records")
        assert len(rows) == len(table["rows"])
        for found, row in zip(rows, table["rows"], strict=True):
            assert found["board_arch"] == board["key"]["arch"]
            assert found["budget_keep"] == table["keep"] or table["keep"] is None
            for name, value in row.items():
                if name != "runs":
                    assert found[name] == value or (value is None and found[name] != found[name]) or found[name] is None


def test_columns_are_those_of_csv(capsys):
    from bench.cli import main

    assert main(["board", str(leaderboard.BOARD.parents[1] / "records"), "--format", "csv"]) in (0, 1)
    header = capsys.readouterr().out.partition("\n")[0].split(",")
    assert set(bench.load_board().columns) <= set(header)


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "board.json"
    for text, why in (
        (None, "No such file or directory; bench board PATH --json > FILE writes one"),
        ("{", "not JSON"),
        ("[]", "no board; give what bench board --json printed"),
        ('{"kind": "bench.board", "schema": 1}', "its form is 1, this version reads 2; write it again"),
    ):
        if text is not None:
            file.write_text(text)
        with pytest.raises(bench.UsageError, match=why):
            bench.load_board(file)
