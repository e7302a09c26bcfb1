import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest
from support.paths import ROOT

from bench import files as module
from bench.files import Lock, write_atomic


def text(content):
    def write(path):
        path.write_text(content)

    return write


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_file_is_written_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    assert write_atomic(path, text("all"))
    assert path.read_text() == "all"
    assert path.stat().st_mode & 0o777 == 0o644
    assert files(tmp_path) == ["file"]


def test_writer_that_raises_leaves_what_was_there(tmp_path):
    def half(path):
        path.write_text("half")
        raise error("in the middle")

    path = tmp_path / "file"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        for error, exclusive in itertools.product((ValueError, OSError, KeyboardInterrupt), (True, False)):
            with pytest.raises(error, match="in the middle"):
                write_atomic(path, half, exclusive)
            assert files(tmp_path) == (["file"] if old else [])
            assert not old or path.read_text() == old


def test_reader_sees_the_old_file_until_the_new_one_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def slowly(temporary):
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        temporary.write_text("new")

    write_atomic(path, slowly)
    assert path.read_text() == "new"


def test_exclusive_leaves_an_existing_file_alone(tmp_path):
    path = tmp_path / "file"
    assert write_atomic(path, text("first"), exclusive=True) is True
    assert write_atomic(path, text("second"), exclusive=True) is False
    assert path.read_text() == "first"
    assert write_atomic(path, text("third")) is True
    assert path.read_text() == "third"
    assert files(tmp_path) == ["file"]


def test_one_of_many_exclusive_writers_wins(tmp_path):
    path, ready = tmp_path / "file", threading.Barrier(8)
    won = []

    def write(name):
        def put(temporary):
            temporary.write_text(name)
            ready.wait()  # all are about to publish

        if write_atomic(path, put, exclusive=True):
            won.append(name)

    threads = [threading.Thread(target=write, args=(str(k),)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [path.read_text()]
    assert files(tmp_path) == ["file"]


def test_place_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_atomic(tmp_path / "file" / "below", text("x"))


# --- locks ---------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from bench.files import Lock
with Lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[True, False], ids=["byte", "file"])
def kind(request, monkeypatch):
    """Locks as bytes of one file, and as files, where a system has no others."""
    if request.param and not module.RANGES:
        pytest.skip("this system has no locks that belong to an opening of a file")
    monkeypatch.setattr(module, "RANGES", request.param)


@pytest.mark.usefixtures("kind")
def test_lock_excludes_others_of_its_name_only(tmp_path):
    one, same, other = Lock(tmp_path / "new", "a"), Lock(tmp_path / "new", "a"), Lock(tmp_path / "new", "b")
    assert not one.busy()
    assert files(tmp_path) == []
    with one:
        assert same.busy()
        assert not other.busy()
        with pytest.raises(TimeoutError):
            same.acquire(timeout=0)
        with pytest.raises(TimeoutError):
            same.acquire(timeout=0.1)
        with other.acquire(timeout=0):
            assert other.busy()
        assert same.busy()  # that another was given back gave back nothing else
    assert not same.busy()
    with same.acquire(timeout=0):
        assert one.busy()


@pytest.mark.usefixtures("kind")
def test_lock_is_waited_for(tmp_path):
    order, first = [], Lock(tmp_path, "a").acquire()

    def wait():
        with Lock(tmp_path, "a"):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.1)
    order.append("first")
    first.release()
    thread.join(20)
    assert order == ["first", "second"]


def test_lock_dies_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "a"]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert Lock(tmp_path, "a").busy()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with Lock(tmp_path, "a").acquire(timeout=0):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_thousand_locks_are_one_empty_file(tmp_path):
    if not module.RANGES:
        pytest.skip("this system has no locks that belong to an opening of a file")
    held = [Lock(tmp_path, f"run-{k}").acquire(timeout=0) for k in range(200)]
    assert files(tmp_path) == ["locks"]
    assert (tmp_path / "locks").stat().st_size == 0
    for lock in held:
        lock.release()


def test_lock_that_the_file_system_does_not_know_is_reported(tmp_path, monkeypatch, capsys):
    def refuse(*given):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "fcntl", refuse)
    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with Lock(tmp_path, "a"):
        assert not Lock(tmp_path, "a").busy()
    assert "two processes may do the same work" in capsys.readouterr().err
