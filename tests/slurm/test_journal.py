"""Journals: what happened to a run is told from lines that anybody may append and anything may tear."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT

from slurm import journal
from slurm.journal import (
    DONE,
    FILE,
    KILLED,
    PREEMPTED,
    TERMINATED,
    TIMED_OUT,
    Attempt,
    Journal,
    attempts_in,
    attempts_of,
    fruitless,
    history,
)

ENDS = (DONE, "failed", PREEMPTED, TIMED_OUT, TERMINATED)
KEYS = ("some-s0", "some-s1", "some-s10")


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "LOCK_S", 0.1)
    return journal_in(tmp_path)


def journal_in(folder, token="b1", keys=KEYS):
    (folder / token).mkdir()
    return Journal(folder / token, keys)


def attempts(notes, key="some-s0"):
    return attempts_in(notes.folder, [key]).get(key, [])


def test_attempts_are_what_was_written(notes):
    assert attempts(notes) == []
    notes.start("some-s0", "7", after_s=3.5)
    (attempt,) = attempts(notes)
    assert attempt == Attempt("b1", "7", attempt.began, facts={"after_s": 3.5})
    notes.saved("some-s0", 1, 10**6)
    sizes = [file.stat().st_size for file in sorted(notes.folder.iterdir())]
    for epoch in range(2, 300):
        notes.saved("some-s0", epoch, 10**6)
    assert [file.stat().st_size for file in sorted(notes.folder.iterdir())] == sizes
    for number, key in enumerate(KEYS[1:]):  # tasks of a batch do not mix
        notes.start(key, "7")
        notes.saved(key, number, 9)
        assert [attempt.last[1:] for attempt in attempts(notes, key)] == [(number, 9)]
    assert attempts_in(notes.folder, ["some-s"]) == {}
    (attempt,) = attempts(notes)
    assert (attempt.ended, attempt.saves, attempt.first[1:], attempt.last[1:]) == (None, 299, (1, 10**6), (299, 10**6))
    notes.end("some-s0", PREEMPTED)
    with journal.Lock(notes.folder.parent, "journal of b1"):  # which is never given back
        notes.start("some-s0", "7")
    notes.end("some-s0", DONE, base="net-s0")
    first, second = attempts(notes)
    assert (first.batch, first.job, first.ended, first.facts) == ("b1", "7", PREEMPTED, {"after_s": 3.5})
    assert (first.saves, first.first[1:], first.last[1:]) == (299, (1, 10**6), (299, 10**6))
    assert first.began <= first.first[0] <= first.last[0] <= second.began
    assert (second.saves, second.last, second.ended, second.facts) == (0, None, DONE, {"base": "net-s0"})


def test_saves_of_a_killed_attempt_are_kept(notes):
    notes._append("some-s0", "end", 1.0, how=DONE, saves=0, first=None, last=None)
    assert attempts(notes) == []  # the end of no attempt
    notes.start("some-s0", "7")
    notes.saved("some-s0", 3, 9)
    again = Journal(notes.folder, KEYS)  # another process: the first was killed
    again.start("some-s0", "7")
    again.saved("some-s0", 4, 9)
    first, second = attempts(notes)
    assert (first.ended, first.saves, first.last[1:]) == (KILLED, 1, (3, 9))
    assert (second.ended, second.saves, second.last[1:]) == (None, 1, (4, 9))
    assert history(attempts(notes))["kills"] == 1


def test_progress_that_is_damaged_or_of_another_attempt(notes):
    notes.start("some-s0", "7")
    notes.saved("some-s0", 3, 9)
    for damage in (b"", b"\0" * 500, b"[1, 2", b"{}", b"[1, 2, 3, 4]" + b" " * 200):
        whole = (notes.folder / journal.PROGRESS).read_bytes()
        (notes.folder / journal.PROGRESS).write_bytes(damage)
        (attempt,) = attempts(notes)
        assert (attempt.job, attempt.saves) == ("7", 0), damage
        (notes.folder / journal.PROGRESS).write_bytes(whole)
    assert attempts(notes)[0].saves == 1
    notes._append("some-s0", "start", 1.0, job="8", slot=0)  # the line of a start before it did not fit on a full disk
    assert attempts(notes)[-1].saves == 0


def test_attempts_of_all_batches_come_oldest_first(tmp_path):
    later, earlier = journal_in(tmp_path, "a"), journal_in(tmp_path, "b")
    for notes in (earlier, later):
        notes.start("some-s0", "7")
        notes.end("some-s0", PREEMPTED)
    assert [attempt.batch for attempt in attempts_of(tmp_path, ["some-s0"])["some-s0"]] == ["b", "a"]
    assert attempts_of(tmp_path, ["some-s1"]) == attempts_of(tmp_path / "none") == attempts_in(tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        Journal(tmp_path / "file" / "b1", KEYS).start("some-s0", "1")


def test_news_are_the_events_since_the_last_look(notes):
    reader = Journal(notes.folder, KEYS)
    assert list(reader.news()) == []
    notes.start("some-s0", "7")
    with (notes.folder / FILE).open("ab") as file:
        file.write(b'{"run": "some-s1", "event"')  # somebody is writing
        file.flush()
        assert [(event["run"], event["event"]) for event in reader.news()] == [("some-s0", "start")]
        file.write(b': "start", "at": 1, "job": "8", "slot": 1}\n')
    assert [(event["run"], event["job"]) for event in reader.news()] == [("some-s1", "8")]
    assert list(reader.news()) == []


def test_history_counts_ends_of_all_attempts_but_the_current(notes):
    for how in (PREEMPTED, None, TIMED_OUT, PREEMPTED, TERMINATED, None, DONE):
        notes.start("some-s0", "1")
        if how:
            notes.end("some-s0", how)
    counts = history(attempts(notes))
    assert counts == {"attempts": 7, "preemptions": 2, "timeouts": 1, "terminations": 1, "kills": 2}
    assert history([]) == {"attempts": 0, "preemptions": 0, "timeouts": 0, "terminations": 0, "kills": 0}
    once = {"attempts": 1, "preemptions": 0, "timeouts": 0, "terminations": 0, "kills": 0}
    assert history(attempts(notes)[:1]) == once


def test_fruitless_attempts_are_the_last_ones_without_an_epoch():
    def attempt(ended=TIMED_OUT, batch="b", saves=0):
        return Attempt(batch, "1", 0.0, saves, ended=ended)

    for mine, count in [
        ([], 0),
        ([attempt(), attempt(PREEMPTED), attempt(TERMINATED)], 3),
        ([attempt(), attempt(None), attempt(KILLED)], 3),
        ([attempt(), attempt(saves=1), attempt()], 1),
        ([attempt(), attempt(batch="other"), attempt()], 1),
        ([attempt(), attempt(), attempt("failed")], 0),
        ([attempt(), attempt(), attempt(PREEMPTED, saves=1)], 0),
        ([attempt(), attempt(), attempt(batch="other")], 0),
    ]:
        assert len(fruitless(mine, "b")) == count, mine


def test_time_left_is_estimated_from_epochs_of_attempt(monkeypatch):
    monkeypatch.setattr(journal.time, "time", lambda: 1000.0)
    assert Attempt("b", "1", 0.0).seconds_left() is None
    assert Attempt("b", "1", 0.0, 1, (940.0, 2, 10), (940.0, 2, 10)).seconds_left() is None
    left = Attempt("b", "1", 0.0, 3, (940.0, 2, 10), (990.0, 7, 10)).seconds_left()
    assert left == pytest.approx(10 * 3 - 10)  # ten seconds each, ten are over
    assert Attempt("b", "1", 0.0, 2, (1.0, 1, 10), (2.0, 2, 10)).seconds_left() == 0.0  # long overdue, never negative
    assert Attempt("b", "1", 0.0, 2, (980.0, 0, 1), (990.0, 0, 1)).seconds_left() is not None  # a prune is no epoch


# --- damage --------------------------------------------------------------------------------------------------

TOLD = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.fixed_dictionaries({"job": st.text()})),
        st.tuples(st.just("saved"), st.fixed_dictionaries({"done": st.integers(0, 9), "of": st.integers(0, 9)})),
        st.tuples(st.just("end"), st.fixed_dictionaries({"how": st.sampled_from(ENDS)})),
    ),
    max_size=12,
)
JUNK = st.one_of(
    st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")),
    st.sampled_from([b"\0" * 50, b"3", b"null", b"[1]", b'"text"', b"{}", b"{", b"\xff", b'{"at": 1}']),
    st.sampled_from([b'{"event": "end"}', b'{"event": "start", "at": 1}', b'{"run": "some-s0", "event": "s']),
    st.sampled_from([b'{"run": "some-s0", "event": "end", "at": 1}', b'{"run": "some-s0", "event": null, "at": 1}']),
    st.sampled_from([b'{"run": 3, "event": "start", "at": 1, "job": "1", "slot": 0}', b'{"event": null}']),
    st.sampled_from([b'{"run": "some-s0", "event": "start", "at": 1, "job": "1", "slot": "x"}']),
)


def told(notes, events):
    """Tell a journal; what belongs to no attempt it would refuse."""
    begun = False
    for event, facts in events:
        begun |= event == "start"
        if begun:
            getattr(notes, event)("some-s0", **facts)


@settings(deadline=None)
@given(TOLD, TOLD, st.floats(0, 1))
def test_torn_line_costs_itself_and_nothing_else(before, after, share):
    """Whatever is cut off at whatever byte, what is told later is read, and so is what stood before the cut."""
    with tempfile.TemporaryDirectory() as folder:
        notes = journal_in(Path(folder))
        file = notes.folder / FILE
        file.touch()
        told(notes, before)
        whole = file.read_bytes()
        cut = int(share * len(whole))
        file.write_bytes(whole[:cut])
        kept = []
        for line in whole[:cut].split(b"\n"):
            with contextlib.suppress(ValueError):  # of the torn one
                kept.append(json.loads(line))
        kept = [event for event in kept if isinstance(event, dict)]
        told(Journal(notes.folder, KEYS), [*after, ("start", {"job": "last"})])
        found = attempts(notes)
        assert found[-1].ended is None
        jobs = [event["job"] for event in kept if event.get("event") == "start"]
        jobs += [facts["job"] for event, facts in after if event == "start"]
        assert [attempt.job for attempt in found] == [*jobs, "last"]


@settings(deadline=None)
@given(TOLD, st.lists(st.tuples(st.integers(0, 40), JUNK), max_size=6))
def test_garbage_between_the_lines_is_passed_over(events, junk):
    with tempfile.TemporaryDirectory() as folder:
        notes = journal_in(Path(folder))
        file = notes.folder / FILE
        file.touch()
        told(notes, events)
        expected = attempts(notes)
        lines = file.read_bytes().split(b"\n")
        for place, garbage in junk:
            lines.insert(min(place, len(lines)), garbage)
        file.write_bytes(b"\n".join(lines))
        assert attempts(notes) == expected
        assert attempts_in(notes.folder).get("some-s0", []) == expected


WRITER = """
import sys
from pathlib import Path
from slurm.journal import Journal
notes = Journal(Path(sys.argv[1]), [sys.argv[2]])
for k in range(int(sys.argv[3])):
    notes._append(sys.argv[2], "start", float(k), job=str(k), slot=0, padding="x" * (k % 700))
    if k == 20:
        print("going", flush=True)
"""


def test_lines_of_many_processes_are_all_kept(tmp_path):
    """Also while one of them is killed in the middle."""
    folder = tmp_path / "b1"
    folder.mkdir()

    def start(name, lines):
        command = [sys.executable, "-c", WRITER, str(folder), name, str(lines)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    writers = [start(name, 200) for name in "abcd"]
    victim = start("victim", 10**9)
    try:
        assert victim.stdout.readline() == b"going\n"
        assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0] * 4
    finally:
        for process in (*writers, victim):
            process.kill()
            process.communicate()
    assert victim.returncode == -signal.SIGKILL
    found = attempts_in(folder)
    for name in "abcd":
        assert [attempt.job for attempt in found[name]] == [str(k) for k in range(200)]
    mine = [attempt.job for attempt in found["victim"]]
    assert mine == [str(k) for k in range(len(mine))]
    assert len(mine) > 20
