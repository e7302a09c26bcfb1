"""Records come from strangers: whatever stands in a file, reading it ends in one line, and soon."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import changed, cost, ended, finished, quality, timing

from bench.records.fields import DEPTH, LABEL, NAME, TEXT, Wrong, anything, fitting, text
from bench.records.store import LARGEST, RecordError, check_form, load, parse, seal, to_text

GOOD = seal(finished())
TEXT_OF_GOOD = to_text(GOOD)


def refusal(content):
    """What :func:`parse` says of it, in one line that names the file."""
    with pytest.raises(RecordError) as caught:
        parse(content, "some.json")
    said = str(caught.value)
    assert said.startswith("record some.json: ")
    assert "\n" not in said
    assert len(said) < 600
    return said.removeprefix("record some.json: ")


def test_a_good_record_is_read_from_text_and_bytes():
    assert parse(TEXT_OF_GOOD, "x") == parse(TEXT_OF_GOOD.encode(), "x") == GOOD


# --- what is no JSON, or more than JSON -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"resumes": 0', '"resumes": NaN', "not JSON (NaN is no number)"),
        ('"resumes": 0', '"resumes": Infinity', "not JSON (Infinity is no number)"),
        ('"resumes": 0', '"resumes": -Infinity', "not JSON (-Infinity is no number)"),
        ('"resumes": 0', '"resumes": 0, "resumes": 1', "the key 'resumes' stands twice"),
        ('"schema": 1', '"schema": 1, "schema": 1', "the key 'schema' stands twice"),
        ('"resumes": 0', '"resumes": 0, "\\u0072esumes": 1', "the key 'resumes' stands twice"),
        ('"load_average": 0.5', '"load_average": 1e999', "latency[0].load_average is inf, not a finite number"),
        ('"train_loss": 0.5', '"train_loss": -1e999', "curve[0].train_loss is -inf, not a finite number"),
        ('"train_loss": 0.5', '"train_loss": 0.5, "own": 1e999', "curve[0].own is inf, not a finite number"),
        ('"train": 12.0', '"train": 12.0, "new": 1e999', "clock.seconds.new is inf, not a finite number"),
        ('"config": {}', '"config": {"a": [1e999]}', "spec.config.a[0] is inf, not a finite number"),
        ('"torch": "2.15.0"', '"torch": "2.15.0", "b": [1e999]', "environment.packages.b is a list, not text"),
        ("1.9,", "1e999,", "latency[0].dense_samples_ms has values that are not finite"),
        ("1.9,", "1" + "0" * 400 + ",", "latency[0].dense_samples_ms has values that are not finite"),
        ('"resumes": 0', '"resumes": ' + "9" * 5000, "not JSON (Exceeds the limit"),
        ('"resumes": 0', '"resumes": ' + "9" * 4000, "clock.resumes is a number of more than 30 digits, too large"),
        ('"train_loss": 0.5', '"train_loss": ' + "9" * 4000, "curve[0].train_loss is a number of more than 30"),
        ('"a CPU"', '"a \\ud800 CPU"', "'a \\ud800 CPU', which has characters that cannot be printed"),
        ('"why"', '"\\udfff"', "error.message is '\\udfff', which has control characters"),
    ],
)
def test_numbers_keys_and_letters_that_are_none(old, new, said):
    text = to_text(ended()) if old == '"why"' else TEXT_OF_GOOD
    assert old in text
    assert said in refusal(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        ("", "not JSON"),
        (b"\xef\xbb\xbf" + TEXT_OF_GOOD.encode(), "BOM"),
        (TEXT_OF_GOOD.encode("utf-16"), "not JSON ('utf-8' codec can't decode"),
        (TEXT_OF_GOOD.replace("a CPU", "a \xff CPU").encode("latin-1"), "not JSON ('utf-8' codec can't decode"),
        (TEXT_OF_GOOD.replace("a CPU", "a \t CPU"), "not JSON (Invalid control character"),
        (TEXT_OF_GOOD + "{}", "not JSON (Extra data"),
        (TEXT_OF_GOOD[: len(TEXT_OF_GOOD) // 2], "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("null", "not a record"),
        ('"bench.run"', "not a record"),
        ('{"kind": ["bench.run"]}', "not a record"),
    ],
    ids=range(13),
)
def test_files_of_another_kind(content, said):
    assert said in refusal(content)


def test_a_key_that_stands_twice_among_very_many_is_found_soon():
    keys = ",".join(f'"{k}":0' for k in range(50_000))
    assert "'49999' stands twice" in refusal("{" + keys + ',"49999":0}')


def test_what_is_too_large_is_not_even_read(tmp_path):
    file = tmp_path / "large.json"
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST + 1)
    with pytest.raises(RecordError, match=r"large\.json: 16,777,217 bytes, more than 16,777,216"):
        load(file)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(RecordError, match=r"pipe\.json: not a file"):
        load(tmp_path / "pipe.json")


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "x.json").symlink_to(tmp_path / "x.json")
    with pytest.raises(RecordError, match=r"x\.json: "):
        load(tmp_path / "x.json")


def test_what_no_table_names_is_bounded_in_depth():
    deep = 0
    for _ in range(DEPTH):
        deep = [deep]
    anything(deep)
    with pytest.raises(Wrong, match=f"nested more than {DEPTH} levels"):
        anything([deep])
    said = refusal(to_text(changed(GOOD, ("environment", "more"), {"x": [[deep]]})))
    assert said.startswith("environment.more")


@pytest.mark.parametrize(
    "written", ["x" * (TEXT + 1), "x" * TEXT, "\x1b[31mred\x07", "a\ud800b", "two\n\tlines", "\u202eabc"]
)
def test_any_text_can_be_made_to_fit(written):
    fitted = fitting(written)
    text(fitted)
    assert fitting(fitted) == fitted
    try:
        text(written)
    except Wrong:
        assert fitted != written
    else:
        assert fitted == written


# --- fields of another kind -------------------------------------------------------------------------------------

FIELDS = [
    # The field, a value, and what is said of it after its name.
    (("id",), "0123456789ab-s", "not 12 hexadecimal digits"),
    (("id",), "../../../x-s0", "not 12 hexadecimal digits"),
    (("id",), "0123456789AB-s0", "not 12 hexadecimal digits"),
    (("id",), GOOD["id"] + "\n", "not 12 hexadecimal digits"),
    (("schema",), 1.0, "not a whole number"),
    (("spec_sha256",), "0" * 63, "not a hash"),
    (("spec_sha256",), "g" * 64, "not a hash"),
    (("record_sha256",), "", "not a hash"),
    (("spec", "seed"), True, "not a whole number"),
    (("spec", "seed"), -1, "less than 0"),
    (("spec", "seed"), 0.0, "not a whole number"),
    (("spec", "seed"), 2**63, "too large"),
    (("spec", "method"), "a" * (LABEL + 1), "a name has 1 to 80"),
    (("spec", "method"), "", "a name has 1 to 80"),
    (("spec", "coupling"), "a" * (NAME + 1), "a name has 1 to 200"),
    (("spec", "method"), "r\u0430ndom", "visible ASCII characters only"),
    (("spec", "method"), "rando\uff4d", "visible ASCII characters only"),
    (("spec", "method"), "random\u0323", "visible ASCII characters only"),
    (("spec", "method"), "l1l2 share=30", "visible ASCII characters only"),
    (("spec", "method"), "random ", "spaces at an end or side by side"),
    (("spec", "method"), "\U0001f525" * 50, "U+1F525 lies outside Unicode's basic plane"),
    (("spec", "method"), "random\u034f", "invisible character U+034F"),
    (("spec", "method"), "random\u3164", "invisible character U+3164"),
    (("spec", "method"), "l1_norm\u2800", "invisible character U+2800"),
    (("spec", "arch"), "net\ufe0f", "invisible character U+FE0F"),
    (("spec", "arch"), "net\u200b", "cannot be printed"),
    (("spec", "arch"), "net\xa0", "cannot be printed"),
    (("spec", "arch"), "net  two", "spaces at an end or side by side"),
    (("spec", "dataset"), "d" * (LABEL + 1), "a name has 1 to 80"),
    (("spec", "dataset"), "photos \U0001d518", "U+1D518 lies outside"),
    (("spec", "recipe", "name"), "my\u115frecipe", "invisible character U+115F"),
    (("environment", "device"), "a \U0001f5a5 chip", "U+1F5A5 lies outside"),
    (("spec", "method"), "\x1b[31mred", "cannot be printed"),
    (("spec", "method"), "right\u202eleft", "cannot be printed"),
    (("spec", "method"), ["a"], "not text"),
    (("spec", "arch"), "two\nlines", "cannot be printed"),
    (("spec", "dataset"), None, "not text"),
    (("spec", "recipe", "batch_size"), 0, "less than 1"),
    (("spec", "recipe", "batch_size"), True, "not a whole number"),
    (("spec", "recipe", "train", "epochs"), -3, "less than 0"),
    (("spec", "recipe", "train", "drops"), [0.5, "x"], "[1] is 'x', not a number"),
    (("spec", "recipe", "momentum"), 1.5, "not within 0 to 1"),
    (("spec", "recipe", "nesterov"), 1, "not true or false"),
    (("spec", "recipe"), None, "not a table"),
    (("spec", "recipe_sha256"), 7, "not a hash"),
    (("spec", "budget", "keep_macs"), "0.5", "not a number"),
    (("spec", "budget", "min_keep"), 0, "less than 1"),
    (("spec", "budget", "widths"), [4, -4], "[1] is -4, less than 1"),
    (("spec", "config"), [], "not a table"),
    (("spec", "config"), {"a\x00": 1}, "no name of 1 to 200"),
    (("spec", "config"), {"": 1}, "no name of 1 to 200"),
    (("spec", "config"), {"sh\u0430re": 1}, "an option whose name is 'sh\\u0430re'"),
    (("spec", "config"), {"a": "x" * 10_000}, "has 10,000 characters: a name has 1 to 80"),
    (("spec", "config"), {"a": "x\u2800"}, "invisible character U+2800"),
    (("spec", "config"), {"a": {"b": 1}}, "is a table, not an option's value"),
    (("spec", "config"), {f"option_{k}": k for k in range(3000)}, "characters, more than 500"),
    (("spec", "config"), {"a": list(range(200))}, "characters, more than 500"),
    (("spec", "rules"), 0.1, "not text"),
    (("code", "commit"), "main", "not a commit"),
    (("code", "method_sha256"), 0, "not a hash"),
    (("environment", "threads"), 0, "less than 1"),
    (("environment", "device"), {"name": "x"}, "not text"),
    (("environment", "packages"), {"torch": None}, "not text"),
    (("environment", "packages"), {"numpy": "2"}, "torch is missing"),
    (("data", "test"), -10, "less than 0"),
    (("data", "shape"), [1, 8], "has 2 values, not 3"),
    (("data", "test_sha256"), "2", "not a hash"),
    (("training", "epochs"), 1.5, "not a whole number"),
    (("training", "macs"), -1, "less than 0"),
    (("training", "macs"), 10**25, "too large"),
    (("training", "plan"), ["prune", "other"], "[1] is 'other', not a table"),
    (("training", "base", "sha256"), "", "not a hash"),
    (("structure", "widths"), {"a": [4]}, "has 1 values, not 2"),
    (("structure", "widths"), {"a": [True, True]}, "not a whole number"),
    (("structure", "rejected"), {"a": "x" * (TEXT + 1)}, "more than 10,000"),
    (("structure", "gate_slice_difference"), -1.0, "not within"),
    (("cost", "final", "macs_by_op"), {"conv": 490.0}, "not a whole number"),
    (("cost", "final", "counter"), 1, "not text"),
    (("metrics", "final", "top1"), "0.5", "not a number"),
    (("metrics", "final", "examples"), 0, "less than 1"),
    (("metrics", "pruned"), 0.5, "not a table"),
    (("curve",), {}, "not a list"),
    (("curve",), [1], "not a table"),
    (("curve", 0, "phase"), None, "not a whole number"),
    (("curve", 0, "val_top1"), 1.1, "not within"),
    (("curve", 0, "logged"), "x", "not a number"),
    (("artifacts", "network", "file"), "../network.safetensors", "without a folder"),
    (("artifacts", "network", "file"), "/etc/passwd", "without a folder"),
    (("artifacts", "network", "file"), "a\\b", "without a folder"),
    (("artifacts", "network", "file"), "..", "without a folder"),
    (("artifacts", "masks", "bytes"), -1, "less than 0"),
    (("latency",), {"batch": 1}, "not a list"),
    (("latency", 0, "batch"), 0, "less than 1"),
    (("latency", 0, "dense_ms"), 0.0, "not within"),
    (("latency", 0, "speedup_ci95"), [1.0], "has 1 values, not 2"),
    (("latency", 0, "dense_samples_ms"), [1.0, "x", 2.0], "has values that are no numbers"),
    (("latency", 0, "dense_samples_ms"), [1.0, True, 2.0], "has values that are no numbers"),
    (("latency", 0, "dense_samples_ms"), None, "not a list"),
    (("memory", "batch"), "4", "not a whole number"),
    (("clock", "started_at"), "yesterday", "not a time"),
    (("clock", "started_at"), "2026-01-01T00:00:00", "not a time"),
    (("clock", "started_at"), 0, "not a time"),
    (("clock", "seconds", "train"), -1.0, "not within"),
    (("clock", "resumes"), False, "not a whole number"),
    (("job",), {"id": 7}, "not text"),
    (("job",), [], "not a table"),
    (("error",), {"type": "E", "message": "x" * (TEXT + 1), "traceback": []}, "more than 10,000"),
    (("error",), {"type": "E", "message": "\x1b]0;title\x07", "traceback": []}, "control characters"),
    (("error",), {"type": "E", "message": "m", "traceback": [1]}, "[0] is 1, not text"),
]


@pytest.mark.parametrize(("path", "value", "said"), FIELDS)
def test_a_field_of_another_kind(path, value, said):
    found = refusal(to_text(changed(GOOD, path, value)))
    field = ".".join(map(str, path)).replace(".0", "[0]")
    assert found.startswith(field)
    assert said in found.removeprefix(field)


MISSING = [
    *[(), ("spec",), ("spec", "recipe"), ("spec", "recipe", "train"), ("code",), ("data",), ("training",)],
    *[("structure",), ("training", "base"), ("cost", "dense"), ("metrics", "final"), ("latency", 0), ("curve", 0)],
    *[("clock",), ("memory",), ("artifacts", "masks")],
]
OPTIONAL = {"drops", "widths", "shape", "classes", "runtime_version", "units_left"}


@pytest.mark.parametrize("path", MISSING)
def test_fields_that_are_missing(path):
    at = GOOD
    for key in path:
        at = at[key]
    for key in at.keys() - OPTIONAL:
        without = {k: v for k, v in at.items() if k != key}
        found = refusal(to_text(changed(GOOD, path, without) if path else without))
        assert key in found or "record of this suite" in found


@pytest.mark.parametrize(("path", "keys"), [(("data",), ("shape", "classes")), (("latency", 0), ("runtime_version",))])
def test_what_older_records_lack(path, keys):
    older = json.loads(to_text(GOOD))
    at = older
    for key in path:
        at = at[key]
    for key in keys:
        del at[key]
    assert parse(to_text(older), "x") == older


def test_newer_records_may_say_more():
    newer = GOOD
    for path in ((), ("spec",), ("data",), ("cost", "final"), ("latency", 0), ("job",)):
        if path == ("job",):
            newer = changed(newer, path, {})
        newer = changed(newer, (*path, "new"), {"of": ["any", 1, None, True]}) if path else newer
    assert parse(to_text(newer), "x") == newer
    assert "'new' does not belong there" in refusal(to_text(GOOD | {"new": 1}))


PHASE = {"epochs": 0, "part": "train", "rewind": None}


# --- what cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "seed"), 1, "id is"),
        (("spec_sha256",), "0" * 64, "id is"),
        (("id",), "0" * 12 + "-s0", "id is 000000000000-s0, by spec_sha256"),
        (("metrics", "final", "top1"), 0.55, "metrics.final.top1 is 0.55, not a whole number of 10 test images"),
        (("metrics", "dense", "top5"), 0.9000002, "metrics.dense.top5"),
        (("metrics", "final"), quality(examples=20), "metrics.final.examples is 20, data.test 10"),
        (("metrics", "pruned"), quality(examples=20), "metrics.pruned.examples is 20"),
        (("data", "test"), 20, "metrics.dense.examples is 10, data.test 20"),
        (("metrics", "final", "loss"), None, "metrics.final.loss is null"),
        (("cost", "final", "macs"), 489, "cost.final.macs is 489, the sum of macs_by_op 490"),
        (("cost", "dense"), cost(480, 200), "cost: 490 macs after, 480 before"),
        (("structure", "units_before"), 9, "structure.units_before is 9, the sum of the widths 8"),
        (("structure", "units_after"), 3, "structure.units_after is 3, the sum of the widths 4"),
        (("latency", 0, "speedup"), 2.1, "latency[0].speedup is 2.1, dense_ms over sliced_ms 2.0"),
        (("latency", 0), timing(speedup_ci95=[2.2, 2.5]), "latency[0].speedup is 2.0, its interval 2.2 to 2.5"),
        (("latency", 0), timing(speedup_ci95=[2.5, 1.5]), "latency[0].speedup is 2.0, its interval 2.5 to 1.5"),
        (("latency", 0), timing(rounds=2), "latency[0].dense_samples_ms has 3 values, rounds is 2"),
        (("clock", "finished_at"), "2025-12-31T23:59:59+00:00", "clock.finished_at is 2025"),
        (("clock", "finished_at"), "2026-01-01T00:30:00+01:00", "clock.finished_at is 2026-01-01T00:30:00+01:00"),
        (("clock", "base_seconds"), None, "'clock.base_seconds' is null"),
        (("clock", "seconds"), {}, "'clock.seconds.train' is null"),
        (("artifacts",), {}, "'artifacts.network' is null"),
        # any two fields that say the same thing, one of them altered
        (("metrics", "final", "worst_class"), 10, "metrics.final.worst_class is 10, data.classes 10"),
        (("data", "classes"), 3, "metrics.dense.worst_class is 3, data.classes 3"),
        (("spec", "recipe", "precision"), "bf16", "training.precision is 'fp32', spec.recipe.precision 'bf16'"),
        (("metrics", "pruned"), None, "metrics.pruned is null, and training.plan prunes before it trains"),
        (("training", "plan", 0), PHASE, "metrics.pruned is there, and training.plan has no prune"),
        (("training", "epochs"), 9, "training.epochs is 9, of the plan and the base 2"),
        (("training", "epochs"), 0, "training.epochs is 0, of the plan and the base 2"),
        (("training", "epochs"), 1, "curve has 1 epochs, by training.epochs it has 0"),
        (("curve",), [], "curve has 0 epochs, by training.epochs it has 1"),
        (("training", "base", "epochs"), 2, "curve has 1 epochs, by training.epochs it has 0"),
        (("training", "macs"), 299_999, "training.macs is 299,999, of the base alone 300,000"),
        (("training", "base", "examples"), 201, "training.examples is 200, of the base alone 201"),
        (("training", "starts_from"), "init", "training.epochs is 2, of the plan and the base 1"),
        (("cost", "final", "counter"), "mine", "cost.final.counter is 'mine', cost.dense.counter 'fvcore'"),
        (("spec", "budget", "min_keep"), 5, "structure.widths: 0 has 4 units, spec.budget.min_keep is 5"),
        (("spec", "budget", "widths"), [5], "structure.widths are not those of spec.budget.widths"),
        (("environment", "device"), "a GPU", "latency[0].device is 'a CPU', of the environment 'a GPU'"),
        (("latency", 0, "threads"), 2, "latency[0].threads is 2, of the environment 1"),
        (("environment", "packages", "torch"), "3", "latency[0].runtime_version is '2.15.0', of the environment '3'"),
    ],
)
def test_content_that_cannot_be(path, value, said):
    assert refusal(to_text(changed(GOOD, path, value))).startswith(said)


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_an_unfinished_run_claims_nothing_but_has_the_same_form(status):
    assert parse(to_text(ended(status)), "x")["status"] == status
    assert "clock.resumes" in refusal(to_text(changed(ended(status), ("clock", "resumes"), -1)))


# --- chance -----------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**400, 1e308, -1e308, 5e-324, 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(["", "ok", "prune", "0" * 64, "\ud800", "\x1b[0m", "../x", "2026-01-01T00:00+00:00", "x" * 20_000]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(value, path=()):
    """Paths of all values inside of ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def outcome(content):
    """What is said of a file; empty when it is read."""
    try:
        return str(parse(content, "x") and "")
    except RecordError as error:
        return str(error)


PLACES = [[*places(made)] for made in (GOOD, ended())]


@settings(max_examples=60, deadline=5000, derandomize=True)
@given(st.data())
def test_no_damage_raises_anything_but_a_record_error(data):
    which = data.draw(st.sampled_from([0, 1]))
    damaged = (GOOD, ended())[which]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(PLACES[which]))
        try:
            damaged = changed(damaged, path, data.draw(values))
            if data.draw(st.booleans()):
                at = damaged
                for key in path[:-1]:
                    at = at[key]
                del at[path[-1]]
        except (KeyError, IndexError, TypeError):  # an earlier damage took the place away
            continue
    problems = check_form(damaged)
    assert all(isinstance(line, str) for line in problems)
    text = json.dumps(damaged)  # halves of surrogate pairs as \\ud800
    said = outcome(text)
    assert (said == "") == (problems == [])
    assert "\n" not in said
    said.encode()  # can be printed


@settings(max_examples=60, deadline=5000, derandomize=True)
@given(st.integers(0, len(TEXT_OF_GOOD) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_no_bytes_raise_anything_but_a_record_error(at, put, cut):
    raw = TEXT_OF_GOOD.encode()
    assert "\n" not in outcome(raw[:at] + put + raw[at + cut :])
