"""Latency files: what is looked up, and that no damaged, forged or foreign line is believed."""

import gzip
import hashlib
import shutil

import msgspec
import pytest
from support.timed_shapes import EAGER, made, measured

from bench.errors import RunFailed
from bench.records.latency import Restart, Samples, samples_sha256
from bench.records.latency_files import SAMPLES, add, check_samples, encode, path_of, read, read_samples
from bench.records.store import RecordError
from bench.runs.latency_pass import wanted
from bench.spec.digest import widths_sha256
from leaderboard.reader.latency_files import Latencies, Setting, load

WIDTHS = made(4).structure.widths


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with the file of this device: two shapes at two batches."""
    folder = tmp_path_factory.mktemp("latency")
    lines, samples, _ = measured([made(4), made(5)])
    add(path_of(folder, lines[0].key.device), lines, samples)
    return folder, lines


@pytest.fixture
def file(stored, tmp_path):
    """A copy of it that may be changed."""
    folder, lines = stored
    shutil.copytree(folder, tmp_path / "latency")
    return path_of(tmp_path / "latency", lines[0].key.device)


def line_of(stored, batch=1):
    return next(
        line for line in stored[1] if line.key.batch == batch and line.key.widths_sha256 == widths_sha256(WIDTHS)
    )


def rewritten(line, **changes):
    """Bytes of a line with other values, with the hash that fits; ``a__b`` is the field b of the table a."""
    for path, value in changes.items():
        first, _, inner = path.partition("__")
        new = msgspec.structs.replace(getattr(line, first), **{inner: value}) if inner else value
        line = msgspec.structs.replace(line, **{first: new})
    return encode(line)


def test_found_by_shape_and_setting(stored):
    folder, lines = stored
    found = load(folder)
    assert (len(found.lines), found.problems) == (4, ())
    arch, shape = lines[0].key.arch_sha256, lines[0].key.shape
    small, large = found.settings(arch)
    assert (small.batch, large.batch) == (1, 64)
    line = found.find(small, arch, shape, widths_sha256(WIDTHS))
    assert (line.times.speedup, line.key.batch) == (line_of(stored).times.speedup, 1)
    assert line.line_sha256
    assert found.find(small, arch, (3, 8, 8), widths_sha256(WIDTHS)) is None
    assert found.find(small, arch, shape, widths_sha256({"0": (8, 7)})) is None
    assert found.find(small, "0" * 64, shape, widths_sha256(WIDTHS)) is None
    assert found.settings("0" * 64) == []


def test_no_folder_is_no_latency(tmp_path):
    assert load(tmp_path / "none") == Latencies()


def test_onnxruntime_comes_first(stored):
    lines = stored[1]
    key = lines[0].key
    other = {key: lines[0], msgspec.structs.replace(key, runtime="onnxruntime", runtime_version="1"): lines[0]}
    settings = Latencies(other | {msgspec.structs.replace(key, batch=9): lines[0]}).settings(key.arch_sha256)
    assert [(s.runtime, s.batch) for s in settings] == [("onnxruntime", 1), ("eager", 1), ("eager", 9)]


def test_two_devices_never_mix(stored, file):
    """Each has a file and settings of its own; a line in the file of another device is not believed."""
    line = line_of(stored)
    there = rewritten(line, key__device="Other CPU", environment__device="Other CPU")
    own = path_of(file.parent, "Other CPU")
    own.write_bytes(there)
    found = load(file.parent)
    assert found.problems == ()
    devices = {setting.device for setting in found.settings(line.key.arch_sha256)}
    assert devices == {"Other CPU", line.key.device}
    for setting in found.settings(line.key.arch_sha256):
        one = found.find(setting, line.key.arch_sha256, line.key.shape, line.key.widths_sha256)
        assert one is None or one.key.device == setting.device
    file.write_bytes(file.read_bytes() + there)
    found = load(file.parent)
    assert [problem.file for problem in found.problems] == [f"{file.name}:5"]
    assert "is of the device 'Other CPU', another one than the file" in found.problems[0].message
    assert len(found.lines) == 5


FORGED = [
    # another value in a line whose hash fits, and what is said of it
    ({"times__speedup": 1e21}, "times.speedup"),
    ({"times__speedup": 10.0}, "times.speedup is 10 (1."),
    ({"times__speedup_ci95": (1.3, 1.4)}, "not that of ratio"),
    ({"times__ratio": [9.0] * 5}, "ratio is not dense_p50_ms over final_p50_ms"),
    ({"times__ratio": [9.0] * 4}, "restarts, and 5 are needed"),
    ({"times__rounds": [3] * 5}, "3 samples in a restart, less than 20"),
    ({"times__final_p90_ms": [0.1] * 5}, "final_p90_ms is below final_p50_ms"),
    ({"key__threads": 64}, "key.threads is 64, of the environment 1"),
    ({"key__device": "Apple M9"}, "key.device is 'Apple M9', of the environment"),
    ({"key__dtype": "int8"}, "Invalid enum value 'int8'"),
    ({"key__runtime_version": "99"}, "key.runtime_version is '99'"),
    ({"key__widths_sha256": "0" * 64}, "key.widths_sha256 is not the hash of widths"),
    ({"key__batch": 0}, "Expected `int` >= 1"),
    ({"widths": {"0": (8, 9)}, "key__widths_sha256": widths_sha256({"0": (8, 9)})}, "'0' has 9 of 8 units"),
    ({"quiet__others_cores": 0.8}, "others used 0.8 cores"),
    ({"quiet__stolen": 0.02}, "2 % was stolen"),
    ({"arch": "net\u034f"}, "arch: expected printable ASCII characters"),
    ({"widths": {"0\u034f": (8, 4)}}, "U+034F"),
    ({"schema": 2}, "Invalid enum value 2"),
    ({"line_sha256": "x"}, "a doubled key"),
]


@pytest.mark.parametrize(("changes", "said"), FORGED)
def test_a_forged_line_is_refused_and_listed(stored, file, changes, said):
    line = line_of(stored)
    forged = file.read_bytes().replace(encode(line), _forged(line, changes))
    assert forged != file.read_bytes()
    file.write_bytes(forged)
    found = load(file.parent)
    assert line.key not in found.lines
    assert len(found.lines) == 3
    [problem] = found.problems
    assert said in problem.message
    assert "\n" not in problem.message


def _forged(line, changes):
    if "line_sha256" in changes:  # encode would take it out
        body = encode(line).rpartition(b',"line_sha256"')[0] + b',"line_sha256":"x"}'
        return body[:-1] + b',"line_sha256":"%b"}\n' % hashlib.sha256(body).hexdigest().encode()
    return rewritten(line, **changes)


def test_a_control_of_unequal_networks_is_refused(stored, file):
    """The line of a shape that is 1.3 times as fast, as the control of another."""
    line = line_of(stored)
    file.write_bytes(file.read_bytes().replace(encode(line), rewritten(line, control=line.times)))
    assert "control: a dense network against its copy: 1.3" in load(file.parent).problems[0].message


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace(b'"threads":1', b'"threads":2', 1), "not what line_sha256 was made of"),
        (lambda text: text[:-1], "not one line of JSON"),
        (lambda text: text[:-40], "not one line of JSON"),
        (lambda text: b"{}\n" + text, "not one line of JSON"),
        (lambda text: b"\n" + text, "not one line of JSON"),
        (lambda text: b"\x00\xff" * 60 + b"\n" + text, "not one line of JSON"),
    ],
)
def test_a_damaged_line_is_refused_and_the_others_are_read(file, damage, said):
    before = load(file.parent)
    file.write_bytes(damage(file.read_bytes()))
    found = load(file.parent)
    assert [said in problem.message for problem in found.problems] == [True]
    assert found.lines.items() <= before.lines.items()
    assert len(found.lines) >= 3


def test_of_two_lines_of_one_key_neither_counts(stored, file):
    line = line_of(stored)
    file.write_bytes(file.read_bytes() + rewritten(line, measured_at=line.measured_at.replace(year=2020)))
    found = load(file.parent)
    assert line.key not in found.lines
    assert ["neither counts" in problem.message for problem in found.problems] == [True]


def test_of_two_lines_of_the_same_samples_neither_counts(stored, file):
    small, large = line_of(stored), line_of(stored, batch=64)
    file.write_bytes(file.read_bytes().replace(encode(large), rewritten(large, times=small.times)))
    found = load(file.parent)
    assert {small.key, large.key}.isdisjoint(found.lines)
    assert [problem.message.startswith("has the samples of line ") for problem in found.problems] == [True]
    assert len(found.lines) == 2


def test_runtime_that_looks_like_another_is_refused(stored, file):
    line = line_of(stored)
    forged = rewritten(line, key=msgspec.structs.replace(line.key, runtime="e\N{CYRILLIC SMALL LETTER A}ger"))
    file.write_bytes(file.read_bytes().replace(encode(line), forged))
    found = load(file.parent)
    assert len(found.lines) == 3
    assert found.problems[0].message.startswith("key.runtime: ")


def test_nothing_is_added_to_a_file_with_a_forged_line(stored, file):
    before = file.read_bytes() + b"{}\n"
    file.write_bytes(before)
    with pytest.raises(RunFailed, match=r"line 5: not one line of JSON.*; take that line out first"):
        add(file, *measured([made(6)])[:2])
    assert file.read_bytes() == before


def test_what_is_added_twice_has_the_same_bytes(stored, file):
    before = file.read_bytes(), samples_file(file).read_bytes()
    add(file, *measured([made(5)])[:2])
    assert len(read(file)[0]) == 4
    add(file, stored[1], [])
    assert (file.read_bytes(), samples_file(file).read_bytes()) == before


def samples_file(file):
    return file.with_name(file.name.removesuffix(".jsonl") + SAMPLES)


def verdicts(file):
    return [why for _, why in check_samples(read(file)[0].values(), read_samples(file))]


def test_samples_say_what_the_lines_say(file):
    assert verdicts(file) == []


def test_samples_that_are_gone_or_others_are_found(stored, file):
    """Two shapes at two batches, each with its control."""
    samples_file(file).unlink()
    assert len(verdicts(file)) == 8
    assert all("there are no samples of the hash" in why for why in verdicts(file))
    samples_file(file).write_bytes(b"no pack")
    with pytest.raises(RecordError, match="samples"):
        read_samples(file)


@pytest.mark.parametrize(
    ("made_up", "said"),
    [
        (lambda ns: [ns[0]] * len(ns), "its samples are equal, as no clock measures them"),
        (lambda ns: [value * 2 for value in ns], "of its samples"),
        (lambda ns: ns[:19], "of less than two restarts, or 20 rounds"),
        (lambda ns: ns[:-1], "of less than two restarts, or 20 rounds"),
    ],
)
def test_numbers_that_are_not_those_of_their_samples(stored, made_up, said):
    """A forger who writes samples to his numbers, under their true hash."""
    line, samples = line_of(stored), read_samples(path_of(stored[0], stored[1][0].key.device))
    own = samples[line.times.samples_sha256]
    forged = Samples([Restart(made_up(r.dense_ns), made_up(r.final_ns)) for r in own.restarts])
    times = msgspec.structs.replace(line.times, samples_sha256=samples_sha256(forged))
    line = msgspec.structs.replace(line, times=times)
    [(key, why)] = check_samples([line], samples | {samples_sha256(forged): forged})
    assert key == line.key
    assert said in why


def test_one_process_is_not_five(stored):
    line, samples = line_of(stored), read_samples(path_of(stored[0], stored[1][0].key.device))
    once = samples[line.times.samples_sha256].restarts[0]
    forged = Samples([once] * 5)
    times = msgspec.structs.replace(line.times, samples_sha256=samples_sha256(forged))
    [(_, why)] = check_samples([msgspec.structs.replace(line, times=times)], samples | {samples_sha256(forged): forged})
    assert "equal, as no clock" in why


def test_a_file_is_text_and_its_samples_a_small_one(file):
    assert all(text.startswith(b'{"arch":"two_layers","control":') for text in file.read_bytes().splitlines())
    unpacked = gzip.decompress(samples_file(file).read_bytes())
    assert len(unpacked.splitlines()) == 4 + 2  # of two shapes and their controls at two batches


def test_a_setting_is_the_part_of_a_key_that_is_not_the_network():
    key = next(iter(wanted([made()], EAGER)))
    what = {"arch_sha256": key.arch_sha256, "shape": key.shape, "widths_sha256": key.widths_sha256}
    assert type(key)(**what, **vars(Setting.of(key))) == key
