"""The draw of replays: of what a merge adds, one run a row; a forged cell is always found, one forged run sometimes."""

import os
import subprocess

import pytest
from support.history import made, seeds
from support.made_records import put
from support.records import changed, line, read, seal

from bench.records import publish, store
from tools import replay_drawn

THEIRS = [*seeds("fpgm", [12, 13, 11, 12, 14]), *seeds("fpgm", [40, 41, 39, 40, 42], keep=0.1)]


def git(folder, *words):
    dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2090-01-01T00:00:00Z")
    who = {f"GIT_{part}_{key}": "x@y" for part in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, env=os.environ | dates | who)
    return done.stdout.decode().strip()


@pytest.fixture
def records(tmp_path):
    """A folder of records, of which a commit has the suite's."""
    root = tmp_path / "repository" / "records"
    put(root / "suite", *seeds("random", [30, 31, 33, 29, 30]))
    git(root, "init", "-q", root.parent)
    commit(root, "the suite's")
    return root


def commit(root, message):
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    return git(root, "rev-parse", "HEAD")


def draw(root, *words):
    return replay_drawn.main([str(root), "--out", str(root.parent.parent / "out"), *map(str, words)])


@pytest.fixture
def asked(monkeypatch):
    """The records that were to be run again; ``asked.codes``: record -> exit code."""

    class Asked(list):
        codes = {}

        def __call__(self, words):
            self.append(words[1].rpartition("/")[2])
            return self.codes.get(self[-1], 0)

    found = Asked()
    monkeypatch.setattr(replay_drawn.cli, "main", found)
    return found


def test_one_run_of_each_new_row_is_run_again(records, asked, capsys):
    put(records / "acme", *THEIRS)
    put(records / "suite", *seeds("l1_norm", [20, 21, 22, 20, 19]))
    head = commit(records, "acme's")
    assert draw(records) == 0
    rows = [{f"{found['id']}.json" for found in THEIRS[part]} for part in (slice(5), slice(5, 10))]
    assert len(asked) == 2
    assert all(len(row & {*asked}) == 1 for row in rows)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"2 new rows by others; one run of each was drawn by {head[:12]}"
    assert [text.partition(": ")[0] for text in out[1:]] == ["as before"] * 2
    git(records, "commit", "-q", "--allow-empty", "-m", "later")
    assert (draw(records), len(asked)) == (0, 2)  # nothing is new
    assert (draw(records, "--since", ""), len(asked)) == (0, 4)  # as once a week


def test_runs_that_join_a_pack_are_the_new_ones(records, asked):
    put(records / "acme", *THEIRS[:4])
    packed(records / "acme")
    commit(records, "four seeds")
    put(records / "acme", THEIRS[4])
    packed(records / "acme")
    commit(records, "the fifth")
    assert draw(records) == 0
    assert asked == [f"digits-net.jsonl.gz#{THEIRS[4]['id']}"]


def packed(folder):
    found = [store.load(file) for file in store.find(folder)]
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        file.unlink()
    publish.write_packs(folder, found)


def test_run_for_which_there_is_no_time_or_no_machine_is_named_and_no_error(records, asked, capsys):
    put(records / "acme", *THEIRS[:5])
    commit(records, "acme's")
    assert draw(records, "--minutes", 0) == 0
    assert "not replayed, the time is over: acme/" in capsys.readouterr().out
    assert asked == []
    asked.codes = {f"{found['id']}.json": 3 for found in THEIRS}
    assert draw(records) == 0
    assert "not replayed, this machine cannot: acme/" in capsys.readouterr().out


def test_forged_run_is_found_where_it_is_drawn_and_a_forged_cell_always(records, asked):
    put(records / "acme", *THEIRS)
    asked.codes = {f"{THEIRS[3]['id']}.json": 1} | {f"{found['id']}.json": 1 for found in THEIRS[5:]}
    found = set()
    commit(records, "acme's")
    for number in range(12):
        git(records, "commit", "-q", "--allow-empty", "-m", f"another hash, {number}")
        asked.clear()
        assert draw(records, "--since", "") == 1  # the cell
        found |= {*asked}
    assert len(found & {f"{each['id']}.json" for each in THEIRS[:5]}) > 1  # the draw moves


def test_without_an_earlier_commit_nothing_is_drawn(records, capsys):
    assert draw(records) == 0
    assert "nothing is drawn: " in capsys.readouterr().out


@pytest.mark.slow
def test_forged_record_is_found_by_running_it_again(finished, tmp_path, capsys):
    spec, _, options = finished("l1_norm", "two_layers", "tiny8", train__epochs=3, out=tmp_path / "theirs")
    honest = read(store.path_of(options.out, spec))
    forged = honest
    top1 = 1.0 if honest["metrics"]["final"]["top1"] < 0.6 else 0.1
    for key, value in (("top1", top1), ("top5", 1.0), ("worst_class_top1", 0.0)):
        forged = changed(forged, ("metrics", "final", key), value)
    del forged["metrics"]["final"]["correct"]  # made to fit
    for name, found, code in (("honest", honest, 0), ("forged", forged, 1)):
        root = tmp_path / name / "records"
        (root / "acme").mkdir(parents=True)
        put(root / "suite", made("random"))
        git(tmp_path, "init", "-q", root.parent)
        commit(root, "the suite's")
        (root / "acme" / f"{honest['id']}.json").write_bytes(line(seal(found)))
        commit(root, "acme's")
        assert draw(root) == code, capsys.readouterr()
