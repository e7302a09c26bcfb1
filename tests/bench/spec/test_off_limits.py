"""What is refused while code of a method runs, what is not, and what it costs whoever does nothing wrong."""

import contextlib
import gzip
import os
import socket
import sys
import threading

import pytest
import sklearn
from support.paths import PLUGINS

from bench.errors import METHOD, RunFailed, UsageError
from bench.spec.off_limits import off_limits
from bench.spec.registry import DATASETS, METHODS, Registry, add_plugin, import_file

DIGITS = os.path.join(os.path.dirname(sklearn.__file__), "datasets", "data", "digits.csv.gz")


@pytest.fixture
def folders(tmp_path):
    """A folder with data, an output folder in it, a cache in that, a file in each."""
    out = tmp_path / "results"
    for folder in (tmp_path / "sets", out / "records", out / "cache"):
        folder.mkdir(parents=True)
        (folder / "file.bin").write_bytes(b"x")
    return tmp_path, out


def refused(action, *folders, but=None):
    """What is said when ``action`` is refused; None where it is not."""
    try:
        with off_limits("it", *folders, but=but):
            action()
    except RunFailed as error:
        return str(error) if error.blame == METHOD else error.blame
    return None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sets/file.bin", "it opens file.bin, a file of a data set: images come from ctx.batches"),
        ("results/cache/file.bin", "it opens file.bin, a file of a data set"),
        ("results/records/file.bin", None),
        ("sets/module.py", None),
        ("env/lib/python3.11/site-packages/scipy/numbers.npz", None),
    ],
)
def test_data_folder_and_cache_are_closed_and_the_rest_of_the_output_is_not(folders, name, said):
    data, out = folders
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    (data / name).touch()
    found = refused((data / name).read_bytes, data, out / "cache", but=out)
    assert found == said or found.startswith(said)


def test_output_folder_that_is_the_data_folder_stays_open(folders):
    data, out = folders
    assert refused((data / "sets" / "file.bin").read_bytes, data, out / "cache", but=data) is None


@pytest.mark.parametrize(
    "name", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "cifar-10-batches-py/test_batch"]
)
def test_files_of_known_data_sets_are_refused_wherever_they_lie(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert "a file of a data set" in refused(file.read_bytes)
    (tmp_path / "link").symlink_to(file)
    assert "opens link, a file of a data set" in refused((tmp_path / "link").read_bytes)


def test_every_way_of_opening_is_heard():
    for action in (
        lambda: open(DIGITS, "rb").close(),
        lambda: os.close(os.open(DIGITS, os.O_RDONLY)),
        lambda: gzip.open(DIGITS).close(),
        lambda: open(os.fsencode(DIGITS), "rb").close(),
    ):
        assert "opens digits.csv.gz" in refused(action)


def test_module_that_loads_data_sets_is_refused_to_all_but_its_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    assert (
        refused(lambda: __import__("sklearn.datasets")) == "it imports sklearn.datasets: images come from ctx.batches"
    )
    code = compile("import sklearn.datasets", "inside", "exec")
    assert refused(lambda: exec(code, {"__name__": "sklearn.ensemble"})) is None


def test_connections_are_refused_but_not_those_to_processes_of_this_machine(tmp_path):
    def connect(family, address):
        with socket.socket(family) as one:
            one.connect(address)

    assert "it connects to ('127.0.0.1', 9): no method needs" in refused(
        lambda: connect(socket.AF_INET, ("127.0.0.1", 9))
    )
    assert "it connects to localhost" in refused(lambda: socket.getaddrinfo("localhost", 80))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert refused(lambda: connect(socket.AF_UNIX, str(tmp_path / "s"))) is None


def test_refusal_that_is_kept_to_itself_is_raised_at_the_end():
    def quietly():
        with contextlib.suppress(Exception):
            open(DIGITS, "rb").close()

    assert "opens digits.csv.gz" in refused(quietly)


def test_other_threads_and_later_code_open_what_they_like():
    read = []

    def elsewhere():
        with open(DIGITS, "rb") as file:
            read.append(file.read(2))

    def start():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    assert refused(start) is None
    elsewhere()
    assert read == [b"\x1f\x8b"] * 2


def test_inner_block_gives_the_outer_one_back():
    def outer():
        with off_limits("inner"):
            pass
        open(DIGITS, "rb").close()

    assert refused(outer).startswith("it opens")


# --- plugins ------------------------------------------------------------------------------------------------------

AT_IMPORT = "open({!r}, 'rb').close()\n\nfrom bench.api import importance{}\n\n"
SCORES = "@importance('{}')\ndef scores(site):\n    return site.rows().norm(dim=1)\n"
SET = "@dataset('{}', shape=(1, 8, 8), classes=2, sizes=(8, 8))\ndef images(part, folder, download):\n    pass\n"


@pytest.mark.usefixtures("forgets")
def test_plugin_that_reads_images_when_it_is_imported_is_refused(tmp_path):
    file = tmp_path / "reads_at_import.py"
    file.write_text(AT_IMPORT.format(DIGITS, "") + SCORES.format("reads_at_import"))
    add_plugin(str(file))
    with pytest.raises(
        UsageError, match=r"reads_at_import.py: RunFailed: it opens digits.csv.gz, a file of a data set"
    ):
        METHODS.get("reads_at_import")


@pytest.mark.usefixtures("forgets")
def test_plugin_with_a_data_set_may_read_it(tmp_path):
    file = tmp_path / "has_a_set.py"
    imports = "\nfrom bench.data.loading import dataset"
    file.write_text(AT_IMPORT.format(DIGITS, imports) + SCORES.format("has_a_set") + "\n\n" + SET.format("its_set"))
    add_plugin(str(file))
    METHODS.get("has_a_set")
    assert DATASETS.get("its_set").classes == 2


def test_installed_plugin_that_reads_images_is_refused(monkeypatch, tmp_path):
    class Point:
        name, value = "installed", "package:thing"

        def load(self):
            open(DIGITS, "rb").close()

    monkeypatch.setattr("bench.spec.registry._entry_points", lambda group: [Point()])
    registry = Registry("method", ("method",), str(tmp_path), group="some")
    with pytest.raises(UsageError, match=r"package:thing: RunFailed: it opens digits.csv.gz"):
        registry.get("installed")


def test_plugins_of_these_tests_are_imported_under_the_same_rules():
    assert import_file(PLUGINS / "reading.py").Trains
