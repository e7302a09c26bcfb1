"""The tables of many networks are the same, whoever makes them."""

import shutil
from pathlib import Path

import pytest
from support.made_records import made, put, seeds

from leaderboard.reader.frame import find
from leaderboard.render import several, tables
from leaderboard.stats import boards as board
from leaderboard.stats.boards import boards_of

NETWORKS = ("resnet20", "vgg11", "lenet")


@pytest.fixture
def found(tmp_path):
    for arch in NETWORKS:
        records = [*seeds("random", [3, 4, 5], arch=arch), *seeds("l1_norm", [1, 2, 3], keep=0.25, arch=arch)]
        put(tmp_path / arch, *records, made("ddrop", status="failed", arch=arch))
        put(tmp_path / arch / "copy", records[0])
    (tmp_path / "broken-s0.json").write_text("{")
    put(tmp_path / "lost", made("ddrop", status="failed", arch="nobody"))
    return find(tmp_path, cache=False)


@pytest.mark.parametrize(("fmt", "cores"), [*((fmt, 2) for fmt in tables.FORMATS), ("text", 1), ("text", 8)])
def test_processes_change_no_byte_and_no_problem(found, fmt, cores, monkeypatch):
    boards, problems = boards_of(found)
    monkeypatch.setattr(several, "MANY", 1)
    monkeypatch.setattr(several, "cores", lambda: cores)
    parts, told = several.written(found, fmt, cache=False)
    assert tables.whole(parts, fmt) == tables.render(boards, fmt)
    assert told == problems
    assert {p.file for p in told} > {"broken-s0.json"}
    assert len(told) == len(NETWORKS) + 2


def test_budgets_are_chosen_in_every_process(found, monkeypatch):
    monkeypatch.setattr(several, "MANY", 1)
    monkeypatch.setattr(several, "cores", lambda: 2)
    text = tables.whole(several.written(found, "text", [0.25], cache=False)[0], "text")
    assert text.count("keep 0.25") == len(NETWORKS)
    assert "keep 0.5" not in text


# --- what is kept --------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """Everything counts as many, and is made here; says which networks were made."""
    asked = []

    def note(rows):
        asked.append(rows[0][board.ARCH])
        return of_network(rows)

    of_network = several.of_network
    monkeypatch.setattr(several, "of_network", note)
    monkeypatch.setattr(several, "MANY", 1)
    monkeypatch.setattr(several, "cores", lambda: 1)
    return asked


def test_only_networks_whose_records_changed_are_made_again(found, alone):
    first = several.written(found, "text")
    assert sorted(alone) == sorted([*NETWORKS, "nobody"])
    alone.clear()
    assert several.written(find(found.root), "text") == first
    assert alone == []
    put(Path(found.root, "more"), *seeds("l2_norm", [0, 0, 0], arch="vgg11"))
    again = several.written(find(found.root), "text")
    assert alone == ["vgg11"]
    assert again == several.written(find(found.root), "text", cache=False) != first


@pytest.mark.parametrize("other", [("csv", []), ("text", [0.25])])
def test_what_is_asked_for_is_part_of_what_is_kept(found, alone, other):
    several.written(found, "text")
    fmt, keeps = other
    assert several.written(found, fmt, keeps) == several.written(found, fmt, keeps, cache=False)


def test_tables_that_came_with_the_records_are_not_believed(found, alone):
    first = several.written(found, "text")
    kept = Path(found.root, several.KEPT.format("text"))
    kept.write_bytes(kept.read_bytes().replace(b"l1_norm", b"ddrop"))
    assert several.written(found, "text") != first, "the file is used where nothing was copied"
    shutil.copytree(found.root, Path(found.root).parent / "ours")
    assert several.written(find(Path(found.root).parent / "ours"), "text") == first


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"edition": "another", "found": {}}'])
def test_a_damaged_file_of_tables_is_none(found, alone, damage):
    first = several.written(found, "text")
    Path(found.root, several.KEPT.format("text")).write_bytes(damage)
    assert several.written(found, "text") == first


@pytest.mark.parametrize("sizes", [[1], [5, 1, 1], [1, 1, 5], [2] * 7, [1, 100, 1, 100]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_network_is_in_one_part_in_order(sizes, count):
    networks = [[k] * size for k, size in enumerate(sizes)]
    parts = several._shared(networks, count)
    assert len(parts) == count
    assert [rows for part in parts for rows in part] == networks
    assert max(sum(map(len, part)) for part in parts) <= sum(sizes) / count + max(sizes)
