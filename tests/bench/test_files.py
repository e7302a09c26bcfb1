import threading

import pytest

from bench.files import write_atomic


def text(content):
    def write(path):
        path.write_text(content)

    return write


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_file_is_written_into_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    assert write_atomic(path, text("whole"))
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_writer_that_raises_leaves_what_was_there(tmp_path, error, exclusive):
    def half(path):
        path.write_text("half")
        raise error("in the middle")

    path = tmp_path / "file"
    with pytest.raises(error, match="in the middle"):
        write_atomic(path, half, exclusive)
    assert files(tmp_path) == []
    path.write_text("old")
    with pytest.raises(error, match="in the middle"):
        write_atomic(path, half, exclusive)
    assert path.read_text() == "old"
    assert files(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
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


def test_the_error_of_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_atomic(tmp_path / "file" / "below", text("x"))
