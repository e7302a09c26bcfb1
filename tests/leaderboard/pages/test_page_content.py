"""what a page shows, before it is HTML: notes that all rows share, order of sites, downloads."""

import json
import re
from dataclasses import replace

import pytest
from support.boards import boards_of, large, plan_for, put, records
from support.html_pages import broken_links

from bench import RULES
from leaderboard.figures import draw
from leaderboard.pages import page_content, site
from leaderboard.pages.site import Sources


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Folder of records and the board of them."""
    folder = put(tmp_path_factory.mktemp("work") / "records", records())
    ((board,), _) = boards_of(folder, plan_for(records()))
    return folder, board


def test_note_that_all_rows_share_is_there_once():
    board = large(3)
    rows = [replace(row, notes=("of all", f"of {n}")) for n, row in enumerate(board.tables[0].rows)]
    ((section,)) = page_content.sections(replace(board, tables=(replace(board.tables[0], rows=tuple(rows)),)))
    assert section["shared"] == ["of all"] and section["notes"] == ["of 0", "of 1", "of 2"]
    assert [line.marks for line in section["lines"]] == [(1,), (2,), (3,)]


def test_sites_are_in_the_order_of_their_numbers():
    sites = ["blocks.10.conv1", "blocks.2.conv2", "conv", "blocks.2.conv1", "1a"]
    assert sorted(sites, key=page_content.natural) == [
        *("1a", "blocks.2.conv1", "blocks.2.conv2", "blocks.10.conv1", "conv"),
    ]


def test_families_are_counted(found):
    board = found[1]
    budgets, references, questions = 3, 3, 3  # is there a difference, is it within each of two margins
    letters, pooled = 3, 1
    assert page_content.families(board) == budgets * references * questions + letters + pooled
    assert page_content.families(replace(board, terms=None, tables=())) == 0


def test_downloads_are_the_tables_and_links_hold_far_from_the_records(found, tmp_path, monkeypatch):
    folder, board = found
    monkeypatch.setattr(draw, "svg", lambda spec: "<svg/>")
    monkeypatch.setattr(draw, "bundle", lambda: "// draws")
    more = {"made_with": lambda record: "fp32, 1 thread, commit 0123", "commit": "f" * 40}
    site.write(tmp_path / "far/site", [board], Sources(folder, lambda record: "bench run", **more))
    assert broken_links(tmp_path / "far/site") == []
    for table in board.tables:
        text = (tmp_path / f"far/site/data/digits-net-{table.slug}.json").read_text()
        (shown,) = json.loads(text)["boards"][0]["tables"]
        assert [row["name"] for row in shown["rows"]] == [row.name for row in table.rows]
        assert (tmp_path / f"far/site/data/digits-net-{table.slug}.csv").read_text().count("\n") == len(table.rows) + 1
    page = (tmp_path / "far/site/boards/digits-net.html").read_text()
    wanted = (
        f"rules {RULES}, commit ffffffffffff",
        f"Plan {board.terms.sha256[:12]}, 31 families",
        "Apache-2.0",
        f"Records of rules {RULES}.",
    )
    assert all(words in page for words in wanted)
    record = next((tmp_path / "far/site/records").iterdir()).read_text()
    assert "Made with fp32, 1 thread, commit 0123." in record


KEYS = {
    "Top-1, %": ("top1_percent", "top1_half_points"),
    "\N{MINUS SIGN} random": ("minus_random_points", "minus_random_half_points"),
    "\N{MINUS SIGN} thin": ("minus_uniform_thin_points", "minus_uniform_thin_half_points"),
    "\N{MINUS SIGN} dense": ("minus_dense_points", "minus_dense_half_points"),
    "Not tuned, %": ("pruned_top1_percent",),
    "MACs, %": ("macs_percent",),
    "Params, %": ("params_percent",),
    "Training \N{MULTIPLICATION SIGN}": ("training_cost_times_dense",),
    "Step \N{MULTIPLICATION SIGN}": ("step_cost_times_dense",),
}
"""Column of a page's table -> its fields in JSON."""


def in_json(row, key):
    """The value of a field; of an interval that over other test images, too, where there is one."""
    with_images = row.get(key.replace("half_points", "images_half_points"))
    return row[key] if with_images is None else with_images


def test_numbers_of_a_page_are_those_of_its_json(found, tmp_path, monkeypatch):
    folder, board = found
    monkeypatch.setattr(draw, "svg", lambda spec: "<svg/>")
    monkeypatch.setattr(draw, "bundle", lambda: "// draws")
    site.write(tmp_path / "site", [board], Sources(folder, lambda record: "bench run"))
    page = (tmp_path / "site/boards/digits-net.html").read_text()
    count = 0
    for slug, body in re.findall(r'<section class="budget" data-budget="([^"]+)"(.*?)</section>', page, re.DOTALL):
        (table,) = json.loads((tmp_path / f"site/data/digits-net-{slug}.json").read_text())["boards"][0]["tables"]
        rows = {row["name"]: row for row in table["rows"]}
        heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', body)
        for line in re.findall(r"<tr[^>]*>(<th scope=\"row\".*?)</tr>", body, re.DOTALL):
            cells = [re.sub("<.*?>", "", c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)]
            row = rows[cells[0]]
            for head, cell in zip(heads, cells, strict=True):
                wanted = [
                    f"{value:.2f}" for key in KEYS.get(head, ()) for value in [in_json(row, key)] if value is not None
                ]
                shown = re.findall(r"-?\d+\.\d+", cell.replace("\N{MINUS SIGN}", "-")) if head in KEYS else []
                assert list(map(float, shown)) == list(map(float, wanted)), (slug, cells[0], head)
                count += len(shown)
        for name, top1 in re.findall(r'class="name"[^>]*>(.*?)</a> <span class="top1">([\d.]+)', body):
            assert top1 == f"{rows[name]['top1_percent']:.2f}"
            count += 1
    assert count > 200
