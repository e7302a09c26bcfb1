"""What version 0.1 of the suite wrote is refused, in one line that says which version reads it."""

import dataclasses

import msgspec
import pytest
from support.records import SPEC, changed, ended, finished, line

from bench import __version__
from bench.cli import main
from bench.records.store import RecordError, decode

OLD = dataclasses.replace(SPEC, rules="0.1")
TIMING = {"batch": 4, "dense_ms": 2.0, "sliced_ms": 1.0, "speedup": 2.0}
OLDER = {
    "schema 1": changed(finished(OLD), ("schema",), 1) | {"latency": [TIMING]},
    "rules 0.1 with timings": finished(OLD) | {"latency": [TIMING], "converted_from": "0" * 64},
    "rules 0.1": finished(OLD),
    "rules 0.1, failed": ended(spec=OLD),
}
"""Schema 1 is that of version 0.1; its records were once converted to schema 2."""


def text_of(table):
    """The table as a line, with bits or without them."""
    found = line(table)
    assert msgspec.json.decode(found)["spec"]["rules"] == "0.1"
    return found


@pytest.mark.parametrize("name", OLDER)
def test_one_line_says_which_version_reads_it(name):
    with pytest.raises(RecordError) as caught:
        decode(text_of(OLDER[name]), "some.json")
    what = name.partition(",")[0].removesuffix(" with timings")
    assert str(caught.value) == (
        f"record some.json: {what}, made by version 0.1 of the suite, which reads it; this is version {__version__}"
    )


@pytest.mark.parametrize("name", OLDER)
def test_commands_refuse_it(name, tmp_path, capsys):
    table = OLDER[name]
    file = tmp_path / "records" / f"{table['id']}.json"
    file.parent.mkdir()
    file.write_bytes(text_of(table))
    (file.parent / f"{SPEC.id}.json").write_bytes(line(finished()))
    for words in (["show", file], ["verify", file], ["board", file.parent]):
        assert main([*map(str, words)]) == 1, words
        printed = capsys.readouterr()
        (said,) = [text for text in (printed.out + printed.err).splitlines() if "version 0.1 of the suite" in text]
        assert file.name in said
