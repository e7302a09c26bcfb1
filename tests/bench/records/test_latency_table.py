"""Files of latency tables: what was measured is added, whatever a process that was killed has left."""

import resource

import msgspec
import pytest

from bench.errors import UsageError
from bench.records import latency_table
from bench.records.latency_table import Chosen, Table

KEY = {
    "network_sha256": "0" * 64, "shape": [3, 8, 8], "coupling": "inner", "units": "width", "terms_sha256": "1" * 64,
    "runtime": "eager", "runtime_version": "1", "device": "a machine", "threads": 1, "batch": 1, "dtype": "float32",
    "layout": "channels_last",
}  # fmt: skip
HERE = {
    "device": "a machine", "device_type": "cpu", "threads": 1, "os": "x", "python": "3", "cuda": None, "packages": {},
    "instructions": "x",
}  # fmt: skip
FIRST, SECOND = Chosen([8], 0.5, 1.0, 0.49, 0.51), Chosen([4], 0.25, 1.0, 0.24, 0.26)


@pytest.fixture
def file(tmp_path):
    facts = {"kind": "bench.latency_table", "schema": 1, "arch": "net", "key": KEY, "grid": {"a": [4, 8]}}
    facts |= {"timed": [([8], 1.0)], "environment": HERE, "measured_at": "2026-01-01T00:00:00Z"}
    path = tmp_path / "table.jsonl"
    latency_table.write(path, msgspec.convert(facts, Table))
    latency_table.remember(path, FIRST)
    return path


@pytest.mark.parametrize("length", [1, 20, -2])
def test_a_torn_line_costs_itself_alone(file, length):
    """At the end of the file, and before what was added later."""
    file.write_bytes(file.read_bytes() + msgspec.json.encode(SECOND)[:length])
    assert latency_table.read(file)[1] == [FIRST]
    for _ in range(2):
        latency_table.remember(file, SECOND)
    assert latency_table.read(file)[1] == [FIRST, SECOND, SECOND]


@pytest.mark.parametrize("text", [b"milliseconds\n", b'{"vector":[8],"ms":-1,"dense_ms":1,"low":1,"high":1}\n'])
def test_other_lines_are_refused(file, text):
    file.write_bytes(file.read_bytes() + text)
    with pytest.raises(UsageError, match=r"table\.jsonl: line 3: "):
        latency_table.read(file)


def test_a_disk_that_takes_a_part_of_a_line_is_full(file):
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, most))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            latency_table.remember(file, SECOND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latency_table.read(file)[1] == [FIRST]
    latency_table.remember(file, SECOND)
    assert latency_table.read(file)[1] == [FIRST, SECOND]
