"""The site: whole, the same bytes each time, never over what is not its own, and nothing of a record runs in it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.boards import PUBLISHED, boards_of, large, plan_for, put, records
from support.html_pages import Page, broken_links, pages
from support.made_records import made
from support.records import refitted

from bench.errors import SetupError, UsageError
from bench.spec.option_scan import Option
from leaderboard.figures import draw
from leaderboard.pages import site, site_folder, templating
from leaderboard.pages.site import About, Sources
from leaderboard.reader.frame import Problem
from leaderboard.render import naming

HOSTILE = """<script>hacked=1</script>"><img/src=x/onerror="hacked=1">{{7*7}}'&amp;"""
"""As hostile as the name of a method may be: visible ASCII characters, at most 80."""
WORSE = f"{HOSTILE}\u202e\x1b[31m\x00\ud800"
"""What a record's form does not let through, and other sources may."""
CHECK = [("own hash", "ok", ""), ("masks", "FAILED", "another hash"), ("stored network", "not run", "no file")]


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """What takes seconds and is tested elsewhere: drawing, and the script that draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "svg", lambda spec: "<svg/>")
        patch.setattr(draw, "bundle", lambda: "// draws")
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Folder of records, boards, problems."""
    folder = put(tmp_path_factory.mktemp("work") / "records", records())
    (folder / "broken-s0.json").write_text("{")
    return folder, *boards_of(folder, plan_for(records()))


@pytest.fixture(scope="module")
def whole(found):
    """A site beside the records with all that can be said."""
    folder, boards, problems = found
    about = {"ddrop": About("drops by distance", "A. Author 2025", "https://example.org/x", "methods/ddrop.py")}
    about["slimming"] = About("by scale", "B", "javascript:alert(1)", options=(Option("l", "1", "float", "strength"),))
    published = [replace(PUBLISHED, note="read off a figure"), replace(PUBLISHED, dataset="other")]
    verified = {json.loads((folder / run_of(boards, "slimming").file).read_text())["record_sha256"]: CHECK}
    target = folder.parent / "whole"
    more = {"about": about, "published": published, "problems": problems, "verified": verified}
    made_files = site.write(target, boards, sources(folder, **more))
    assert {path.relative_to(target).as_posix() for path in made_files} == set(texts(target))
    return target


def run_of(boards, method, status="ok"):
    """The first run of a method that ended so."""
    rows = [row for table in boards[0].tables for row in table.rows if row.method == method]
    return next(run for row in rows for run in row.runs if run.status == status)


def sources(folder, **more):
    return Sources(folder, lambda found: f"python -m bench run --method {found.spec.method} -p 'a=b  c'", **more)


def texts(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_row_says_what_verify_found_of_its_records(whole):
    for page in (whole / "methods" / "l1_norm.html", *(whole / "boards").glob("*.html")):
        assert 'title="5 records: 5 consistent"' in page.read_text()


def test_site_has_whole_pages_that_ask_for_nothing_outside(found, whole):
    boards, names = found[1], set(texts(whole))
    runs = {run.page for table in boards[0].tables for row in table.rows for run in row.runs}
    assert {f"records/{page}.html" for page in runs} == {name for name in names if name.startswith("records/")}
    methods = {row.method for table in boards[0].tables for row in table.rows}
    assert {f"methods/{name}.html" for name in methods} == {name for name in names if name.startswith("methods/")}
    assert {"index.html", "boards/digits-net.html", "assets/board.css", "assets/board.js", "assets/vega.js"} <= names
    assert broken_links(whole) == []
    for file, page in pages(whole).items():
        policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert len(policy) == 1 and policy[0].startswith("default-src 'none'; script-src 'self';"), file
        assert "unsafe-eval" not in policy[0]
        loaded = [a.get("src", a.get("href")) for tag, a in page.tags if tag in ("script", "link", "img", "iframe")]
        assert not any(re.match(r"[a-z]+:|//", link) for link in loaded if link and link != "data:,"), file


def test_same_records_same_bytes_and_a_site_is_replaced(found, tmp_path):
    folder, boards, problems = found
    site.write(tmp_path / "one", [], sources(folder))
    for name, read in (("one", boards), ("two", boards_of(folder, plan_for(records()))[0])):
        site.write(tmp_path / name, read, sources(folder, problems=problems))
    assert texts(tmp_path / "one") == texts(tmp_path / "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_board_page_has_the_numbers_of_the_board(found, whole):
    boards = found[1]
    text = (whole / "boards/digits-net.html").read_text()
    for table in boards[0].tables:
        assert f'id="{table.slug}"' in text
        for row in table.rows:
            if row.top1 is not None:
                assert f"{row.top1.mean:.2f} <i>± {row.top1.half:.2f}</i>" in text
            for difference in row.differences.values():
                shown = f"{difference.mean:+.2f}".replace("-", templating.MINUS)
                assert (shown if float(f"{difference.mean:.2f}") else "0.00") in text
            assert all(note in text for note in row.notes)
    assert "1 failed" in text
    index = (whole / "index.html").read_text()
    assert "significantly fewer errors than random units (slimming:" in index
    assert "than random units at 1.2 times the training cost (slimming by 8.00 points)" in text


def test_record_page_has_the_run_and_its_file(found, whole, tmp_path):
    folder, boards, _ = found
    good, bad = run_of(boards, "slimming"), run_of(boards, "taylor", "failed")
    text = (whole / f"records/{good.page}.html").read_text()
    said = " ".join(Page(text).said)
    command = "python -m bench run --method slimming -p 'a=b  c'"
    assert all(piece in said for piece in (good.id, command, "100,000", "50,000", "a chip, 1 thread"))
    assert "another hash" in said and "were checked when this page" not in said
    assert f"<td>{100 * (1 - good.wrong / 500):.2f}" in text
    failed = (whole / f"records/{bad.page}.html").read_text()
    assert "the loss was odd" in failed and "somewhere" in failed
    assert f"python -m bench verify {bad.file}" in failed
    assert f"../../records/{good.file}" in Page(text).links  # next to the site
    site.write(tmp_path / "far", boards, sources(folder))
    far = Page((tmp_path / f"far/records/{good.page}.html").read_text())
    assert not any(link.endswith(".json") for link in far.links)
    assert good.file in far.said
    copied = put(tmp_path / "records", [made("ddrop", 0)])
    boards, _ = boards_of(copied, plan_for(records()))
    run = boards[0].tables[0].rows[0].runs[0]
    (copied / run.file).write_text("{}")  # it cannot be read any more
    site.write(tmp_path / "site", boards, sources(copied))
    assert "cannot be shown" in (tmp_path / f"site/records/{run.page}.html").read_text()


def test_pages_describe_methods_publications_and_problems(whole):
    method = (whole / "methods/ddrop.html").read_text()
    assert "drops by distance" in method and '<a href="https://example.org/x"' in method
    assert method.count("93.25") == 2
    board = (whole / "boards/digits-net.html").read_text()
    assert board.count("93.25") == 1 and "not measured here" in board and "read off a figure" in board
    slimming = (whole / "methods/slimming.html").read_text()
    assert "javascript:" not in slimming and "strength" in slimming
    assert "broken-s0.json" in (whole / "index.html").read_text()


def test_nothing_of_a_record_becomes_part_of_a_page(tmp_path):
    names = {"arch": HOSTILE, "dataset": HOSTILE, "config": {"p": HOSTILE[:40]}}
    hostile = made("own", 0, device=HOSTILE, **names)
    failed = made("own", 1, status="failed", error=HOSTILE, **names)
    folder = put(tmp_path / "records", [hostile, failed])
    boards, problems = boards_of(folder)
    assert not problems and HOSTILE in {board.key["arch"] for board in boards}
    problems = [Problem(WORSE, WORSE)]
    about = {"own": About(WORSE, WORSE, WORSE, WORSE, WORSE, (Option(*[WORSE] * 4),))}
    published = [replace(PUBLISHED, method="own", note=WORSE, source=WORSE)]
    all_checks = {hostile["record_sha256"]: [(WORSE, "ok", WORSE)]}
    command = sources(folder, about=about, published=published, problems=problems, verified=all_checks)
    site.write(tmp_path / "site", boards, command)
    for file, page in pages(tmp_path / "site").items():
        scripts = [attrs for tag, attrs in page.tags if tag == "script"]
        assert scripts[0].get("src", "").endswith("assets/board.js")
        assert all(attrs == {"type": "application/json"} for attrs in scripts[1:]), file
        assert all(tag != "img" or attrs["src"].startswith(("../figures/", "figures/")) for tag, attrs in page.tags)
        assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs), file
        text = file.read_text(encoding="utf-8")
        assert not any(sign in text for sign in "\u202e\x1b\x00") and "{{" not in text.replace("{{7*7}}", "")
        for attrs, block in page.blocks:
            if attrs.get("type") == "application/json":
                json.loads(block)
    assert any("<script>hacked=1</script>" in " ".join(page.said) for page in pages(tmp_path / "site").values())


def test_folder_with_other_files_is_left_alone(found, tmp_path):
    folder, boards, _ = found
    for name in ("thesis", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "thesis/chapter.tex").write_text("x")
    (tmp_path / "mine/bench-site.txt").write_bytes(b"a list of sites\xff\nbench-site.txt\n")
    for name in ("thesis", "file", "mine"):
        with pytest.raises(UsageError, match="site "):
            site.write(tmp_path / name, boards, sources(folder))
    assert set(texts(tmp_path)) == {"thesis/chapter.tex", "file", "mine/bench-site.txt"}
    target = tmp_path / "site"
    target.mkdir()
    site.write(target, boards, sources(folder))
    (target / "CNAME").write_text("pruning.example")  # the user's own
    (target / "boards/link").symlink_to(tmp_path)
    for name in ("CNAME", "boards/link"):
        with pytest.raises(UsageError, match=name):
            site.write(target, [], sources(folder))
        (target / name).unlink()
    site.write(target, [], sources(folder))
    assert "No record has been read" in (target / "index.html").read_text()


def test_writing_that_fails_leaves_the_old_site(found, tmp_path, monkeypatch):
    folder, boards, _ = found
    target, rename = tmp_path / "site", Path.rename
    site.write(target, [], sources(folder))
    old = texts(target)
    failure = KeyboardInterrupt()

    def stop():
        raise failure

    def stubborn(self, goal):
        if self.name == "new":
            raise OSError(13, "Permission denied")
        return rename(self, goal)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "bundle", stop)
        with pytest.raises(KeyboardInterrupt):
            site.write(target, boards, sources(folder))
        failure = OSError(28, "No space left on device")
        with pytest.raises(SetupError, match="No space"):
            site.write(target, boards, sources(folder))
    monkeypatch.setattr(Path, "rename", stubborn)  # the new one cannot take its place
    with pytest.raises(SetupError, match="Permission denied"):
        site.write(target, boards, sources(folder))
    assert texts(target) == old
    assert list(tmp_path.iterdir()) == [target]


def test_page_has_a_plain_name_of_its_own(tmp_path):
    folder = site_folder.Folder(tmp_path)
    for name in ("../x.html", "a/../../x.html", "/x.html", "a/b/c.html", "", "..", "a b.html"):
        with pytest.raises(ValueError, match="no name of a page"):
            folder.add(name, "x")
    folder.add("a/x.html", "1")
    for name in ("a/x.html", "a/X.html"):
        with pytest.raises(ValueError, match="two pages"):
            folder.add(name, "2")
    assert (tmp_path / "a/x.html").read_text() == "1"
    one, other = large(1, "a", count=1), large(1, "b", count=1)
    site.write(tmp_path / "site", [one, other], sources(tmp_path))  # a run on two boards has one page
    assert len(list((tmp_path / "site/records").iterdir())) == 1
    (row,) = other.tables[0].rows
    rows = (replace(row, runs=(row.runs[0]._replace(file="another.json"),)),)
    other = replace(other, tables=(replace(other.tables[0], rows=rows),))
    site.write(tmp_path / "site", [one, other], sources(tmp_path))  # so have the same bytes in two folders
    assert len(list((tmp_path / "site/records").iterdir())) == 1


def test_names_are_plain_where_they_can_be_and_never_alike():
    wanted = ["l1", "L1", "a b", "a/b", "a-b", "", ".", "..", "é", "a+b", "x" * 200, "x" * 201]
    found = naming.names(wanted)
    assert set(found) == set(wanted)
    assert (found["l1"], found["a-b"], found["a+b"]) == ("l1", "a-b", "a+b")
    assert len({name.lower() for name in found.values()}) == len(wanted)
    assert all(re.fullmatch(r"[a-z0-9+-][a-z0-9+.-]{0,80}", name) for name in found.values()), found
    taken = naming.names(["L1", found["L1"]])
    assert len(set(taken.values())) == 2 and taken[found["L1"]] == found["L1"]


def test_pages_of_many_rows_boards_and_epochs_are_light(tmp_path):
    site.write(tmp_path / "rows", [large(160)], sources(tmp_path))
    assert (tmp_path / "rows/boards/digits-net.html").stat().st_size < 1_000_000
    assert len(list((tmp_path / "rows/records").iterdir())) == 800
    site.write(tmp_path / "boards", [large(1, f"net{n}", n, 1) for n in range(125)], sources(tmp_path))
    assert (tmp_path / "boards/index.html").stat().st_size < 200_000
    run = made("ddrop", 0, starts_from="init", epochs=40)
    run["curve"] |= {"val_top1": [n / 41 for n in range(1, 41)], "units_left": [1.0] * 40}
    run["structure"]["widths"] = {f"blocks.{n}.conv1": [64, 31] for n in range(9)}
    run["structure"] |= {"units_before": 9 * 64, "units_after": 9 * 31}
    folder = put(tmp_path / "records", [refitted(run)])
    boards, problems = boards_of(folder)
    assert not problems
    site.write(tmp_path / "site", boards, sources(folder))
    (page,) = (tmp_path / "site/records").iterdir()
    assert page.stat().st_size < 8000
