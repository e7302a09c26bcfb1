"""Journals: what happened to a run is told from lines that anybody may append and anything may tear."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm import journal
from slurm.journal import DONE, KILLED, PREEMPTED, TERMINATED, TIMED_OUT, Journal, Leg, fruitless, history

ROOT = Path(__file__).parents[2]
ENDS = (DONE, "failed", PREEMPTED, TIMED_OUT, TERMINATED)


@pytest.fixture
def notes(tmp_path):
    return Journal(tmp_path / "journal", "some-s0")


def test_legs_are_what_was_told(notes):
    assert notes.legs() == []
    notes.add("start", batch="b1", job="7")
    assert notes.legs() == [Leg("b1", "7", notes.legs()[0].began)]
    notes.add("epoch", done=1, of=4)
    notes.add("epoch", done=2, of=4)
    notes.add("end", how=PREEMPTED)
    notes.add("start", batch="b1", job="7")
    notes.add("end", how=DONE, base="net-s0")
    first, second = notes.legs()
    assert (first.batch, first.job, first.ended, first.facts) == ("b1", "7", PREEMPTED, {})
    assert [point[1:] for point in first.epochs] == [(1, 4), (2, 4)]
    assert first.began <= first.epochs[0][0] <= first.epochs[1][0] <= second.began
    assert (second.epochs, second.ended, second.facts) == ((), DONE, {"base": "net-s0"})


def test_a_leg_goes_on_until_it_has_an_end(notes):
    notes.add("start", batch="b", job="1")
    assert notes.legs()[0].ended is None
    notes.add("start", batch="b", job="1")  # the first was killed
    assert [leg.ended for leg in notes.legs()] == [None, None]
    assert history(notes.legs())["kills"] == 1


def test_what_belongs_to_no_leg_is_passed_over(notes):
    notes.add("epoch", done=1, of=2)
    notes.add("end", how=DONE)
    assert notes.legs() == []


def test_history_counts_the_ends_of_all_legs_but_the_one_at_work(notes):
    for how in (PREEMPTED, None, TIMED_OUT, PREEMPTED, TERMINATED, None, DONE):
        notes.add("start", batch="b", job="1")
        if how:
            notes.add("end", how=how)
    counts = history(notes.legs())
    assert counts == {"legs": 7, "preemptions": 2, "timeouts": 1, "terminations": 1, "kills": 2}
    assert history([]) == {"legs": 0, "preemptions": 0, "timeouts": 0, "terminations": 0, "kills": 0}
    assert history(notes.legs()[:1]) == {"legs": 1, "preemptions": 0, "timeouts": 0, "terminations": 0, "kills": 0}


def leg(ended=TIMED_OUT, batch="b", epochs=0):
    return Leg(batch, "1", 0.0, tuple((float(k), k, 9) for k in range(epochs)), ended)


@pytest.mark.parametrize(
    ("legs", "count"),
    [
        ([], 0),
        ([leg()], 1),
        ([leg(), leg(), leg()], 3),
        ([leg(), leg(epochs=1), leg()], 1),
        ([leg(), leg(PREEMPTED), leg()], 1),
        ([leg(), leg(None), leg()], 1),
        ([leg(), leg(batch="other"), leg()], 1),
        ([leg(), leg(), leg(PREEMPTED)], 0),
        ([leg(), leg(), leg(batch="other")], 0),
    ],
)
def test_fruitless_legs_are_those_in_a_row_that_reached_the_limit_without_an_epoch(legs, count):
    assert fruitless(legs, "b") == count


def test_time_left_is_told_from_the_epochs_of_the_leg(monkeypatch):
    monkeypatch.setattr(journal.time, "time", lambda: 1000.0)
    points = ((940.0, 2, 10), (950.0, 3, 10), (990.0, 7, 10))
    assert Leg("b", "1", 0.0).seconds_left() is None
    assert Leg("b", "1", 0.0, points[:1]).seconds_left() is None
    assert Leg("b", "1", 0.0, points).seconds_left() == pytest.approx(10 * 3 - 10)  # ten seconds each, ten are over
    assert Leg("b", "1", 0.0, ((1.0, 1, 10), (2.0, 2, 10))).seconds_left() == 0.0  # long overdue, never negative
    assert Leg("b", "1", 0.0, ((980.0, 0, 1), (990.0, 0, 1))).seconds_left() is not None  # a prune is no epoch


# --- damage --------------------------------------------------------------------------------------------------

TOLD = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.fixed_dictionaries({"batch": st.text(), "job": st.text()})),
        st.tuples(st.just("epoch"), st.fixed_dictionaries({"done": st.integers(0, 9), "of": st.integers(0, 9)})),
        st.tuples(st.just("end"), st.fixed_dictionaries({"how": st.sampled_from(ENDS)})),
    ),
    max_size=12,
)
JUNK = st.one_of(
    st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")),
    st.sampled_from([b"\0" * 50, b"3", b"null", b"[1]", b'"text"', b"{}", b"{", b"\xff", b'{"at": 1}']),
    st.sampled_from([b'{"event": "end"}', b'{"event": "start", "at": 1}', b'{"event": "epoch", "at": 1, "done": 1}']),
    st.sampled_from([b'{"event": "no such thing", "at": 1}', b'{"event": null, "at": null}', b'{"event": "sta']),
)


def told(notes, events):
    for event, facts in events:
        notes.add(event, **facts)


@settings(deadline=None)
@given(TOLD, TOLD, st.floats(0, 1))
def test_a_torn_line_costs_itself_and_nothing_else(before, after, share):
    """Whatever is cut off at whatever byte, what is told later is read, and so is what stood before the cut."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Journal(Path(folder), "some")
        notes.file.touch()
        told(notes, before)
        whole = notes.file.read_bytes()
        cut = int(share * len(whole))
        notes.file.write_bytes(whole[:cut])
        events = before[: sum(map(ends_well, whole[:cut].split(b"\n")))]
        told(notes, [*after, ("start", {"batch": "last", "job": "1"})])
        found = notes.legs()
        assert (found[-1].batch, found[-1].ended) == ("last", None)
        expected = Journal(Path(folder), "expected")
        told(expected, [*events, *after, ("start", {"batch": "last", "job": "1"})])
        assert list(map(timeless, found)) == list(map(timeless, expected.legs()))


def ends_well(line):
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def timeless(leg):
    return leg.batch, leg.job, [point[1:] for point in leg.epochs], leg.ended, leg.facts


@settings(deadline=None)
@given(TOLD, st.lists(st.tuples(st.integers(0, 40), JUNK), max_size=6))
def test_garbage_between_the_lines_is_passed_over(events, junk):
    with tempfile.TemporaryDirectory() as folder:
        notes = Journal(Path(folder), "some")
        notes.file.touch()
        told(notes, events)
        expected = notes.legs()
        lines = notes.file.read_bytes().split(b"\n")
        for place, garbage in junk:
            lines.insert(min(place, len(lines)), garbage)
        notes.file.write_bytes(b"\n".join(lines))
        assert notes.legs() == expected


WRITER = """
import sys
from pathlib import Path
from slurm.journal import Journal
notes = Journal(Path(sys.argv[1]), "some")
for k in range(int(sys.argv[3])):
    notes.add("start", batch=sys.argv[2], job=str(k), padding="x" * (k % 700))
    if k == 20:
        print("going", flush=True)
"""


def test_what_many_processes_append_at_once_is_all_there(tmp_path):
    """Also while one of them is killed in the middle."""

    def start(name, lines):
        command = [sys.executable, "-c", WRITER, str(tmp_path), name, str(lines)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    writers = [start(name, 400) for name in "abcd"]
    victim = start("victim", 10**9)
    try:
        assert victim.stdout.readline() == b"going\n"
        assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0] * 4
    finally:
        for process in (*writers, victim):
            process.kill()
            process.communicate()
    assert victim.returncode == -signal.SIGKILL
    legs = Journal(tmp_path, "some").legs()
    for name in "abcd":
        assert [leg.job for leg in legs if leg.batch == name] == [str(k) for k in range(400)]
    mine = [leg.job for leg in legs if leg.batch == "victim"]
    assert mine == [str(k) for k in range(len(mine))]
    assert len(mine) > 20


def test_a_journal_that_cannot_be_written_raises_and_one_that_is_not_there_is_empty(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        Journal(tmp_path / "file" / "journal", "some").add("start", batch="b", job="1")
    assert Journal(tmp_path / "none", "some").legs() == []
    assert not (tmp_path / "none").exists()


def test_how_a_leg_ended_is_one_word_of_a_few():
    assert len({*ENDS, KILLED}) == 6
