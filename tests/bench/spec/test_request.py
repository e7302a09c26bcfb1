"""A request from words, tables and specifications is one and the same; what is wrong with a table is said in a line."""

import dataclasses
import itertools
import json
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from support.requested import request_of

from bench.cli import parser
from bench.errors import UsageError
from bench.spec.option_text import as_seeds, seeds_text
from bench.spec.request import BUDGETS, SHORT, TABLES, RunOptions, RunRequest

FIELDS = [f.name for f in dataclasses.fields(RunRequest)]
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).filter(lambda text: text != "--")
"""Values of options; ``--`` is the end of the options, and refused."""
NAMES = TEXTS.map(str.strip).filter(bool)
KEYS = NAMES.filter(lambda key: "=" not in key)
SHARES = st.floats(allow_nan=False)
VALUES = st.one_of(TEXTS, st.integers(), SHARES, st.booleans(), st.none(), st.lists(SHARES, max_size=3))
TABLE = st.dictionaries(KEYS, VALUES, max_size=3)
SEEDS = st.lists(st.integers(0, 20), min_size=1, max_size=8)


@st.composite
def requests(draw):
    """Any request, with no budget or one."""
    budget = draw(st.sampled_from([None, *BUDGETS]))
    values = dict.fromkeys(BUDGETS, SHARES) | {"like": TEXTS, "native": st.just(True)}
    asked = {budget: draw(values[budget])} if budget else {}
    if budget != "native":
        asked |= {"ranking": draw(st.none() | TEXTS), "min_keep": draw(st.integers(0, 99))}
    return RunRequest(
        draw(TEXTS),
        draw(TEXTS),
        draw(TEXTS),
        recipe=draw(st.none() | TEXTS),
        settings=draw(TABLE),
        coupling=draw(st.sampled_from(["inner", "full"])),
        options=draw(TABLE),
        seeds=draw(SEEDS),
        **asked,
    )


@given(requests())
def test_request_survives_its_words(request):
    chosen = parser().parse_args(request.to_words())
    assert RunRequest.from_args(chosen) == request


@given(
    st.builds(
        RunOptions,
        device=TEXTS,
        threads=st.none() | st.integers(0, 99),
        plugins=st.lists(TEXTS, max_size=3).map(tuple),
        out=NAMES.map(type(RunOptions.out)),
        data_dir=NAMES.map(type(RunOptions.out)),
        download=st.booleans(),
        retry=st.booleans(),
        quiet=st.booleans(),
    )
)
def test_options_survive_their_words(options):
    chosen = parser().parse_args(["run", "-m", "x", "-a", "y", *options.to_words()])
    assert RunOptions.from_args(chosen) == options


def test_words_leave_out_defaults():
    expected = "run --method l1_norm --arch resnet20 --dataset digits --seeds 0"
    assert RunRequest("l1_norm", "resnet20").to_words() == expected.split()
    assert RunOptions().to_words() == []


@given(SEEDS)
def test_seeds_survive_their_text(seeds):
    assert as_seeds(seeds_text(as_seeds(seeds))) == tuple(dict.fromkeys(seeds))


def test_seeds_of_all_forms_are_one():
    for given_seeds in (range(3), "0-2", [0, 1, 2, 1], ["0-1", 2], (0, "1", 2)):
        assert RunRequest("m", "a", seeds=given_seeds).seeds == (0, 1, 2)
    for wrong in ([], "", -1, 1.0, True, [True], {0: 1}, None):
        with pytest.raises(UsageError, match="seed"):
            RunRequest("m", "a", seeds=wrong)


# --- fields, options, keys, documents -------------------------------------------------------------------------


def test_every_field_is_an_option_of_the_run_command():
    actions = parser()._subparsers._group_actions[0].choices["run"]._actions
    known = {action.dest: action for action in actions}
    here = {f.name for f in dataclasses.fields(RunOptions)} - {"plugins", "plan_sha256", "replay_of"} | {"plugin"}
    rest = {"help", "json", "wide", "dry_run", "cluster", "profile", "jobs", "wait", *SHORT}
    assert set(known) == {*FIELDS} | here | rest
    default = RunRequest("m", "a")
    for name in FIELDS:
        if name not in ("method", "arch", "seeds", *TABLES):
            assert known[name].default == getattr(default, name)
    for name in here - {"plugin"}:
        assert known[name].default == getattr(RunOptions(), name)


def test_every_field_is_a_key_of_a_table():
    values = {"method": "m", "arch": "a", "dataset": "d", "recipe": "r", "ranking": "global", "min_keep": 2}
    values |= {"coupling": "full", "seeds": "1-2", "settings": {"k": 1}, "options": {"p": 0.5}}
    blocks = {"min_blocks": 2, "keep_blocks": 0.5}
    values |= {"units": "both"}
    shares = blocks | {"round_to": 8}
    where = {"runtime": "eager", "batch": 8, "runtime_threads": 2, "latency_table": "x.jsonl"}
    shared = {"keep_macs": 0.25, "keep_params": 1, "like": "x.json", "keep_latency": 0.5, "latency_ms": 2}
    for budget, value in shared.items():
        asked = values | {budget: value} | ({} if budget == "like" else shares)
        asked |= where if "latency" in budget else {}
        assert RunRequest.from_table(asked, "here") == [RunRequest(**asked)]
    native = {key: value for key, value in values.items() if key not in ("ranking", "min_keep")} | {"native": True}
    assert RunRequest.from_table(native, "here") == [RunRequest(**native)]
    assert {*values, *shares, *native, *shared, *where} == {*FIELDS}
    (found,) = RunRequest.from_table({"method": "m", "arch": "a", "epochs": 3, "finetune_epochs": 0}, "here")
    assert found.settings == {"train.epochs": "3", "finetune.epochs": "0"}


def test_every_field_is_documented():
    flags = TABLES | {name: f"--{name.replace('_', '-')}" for name in FIELDS if name not in TABLES}
    for page in ("docs/sweeps.md", "docs/commands.md"):
        text = (ROOT / page).read_text()
        for name in FIELDS:
            assert re.search(rf"`{name}`|`{flags[name]}[ `]", text), f"{page}: {name}"


# --- tables ---------------------------------------------------------------------------------------------------

CHOICES = {
    "method": ["l1_norm", "random", "ddrop", "dense"],
    "arch": ["resnet20", "resnet56"],
    "dataset": ["digits", "mnist"],
    "recipe": ["digits", "mnist", "cifar"],
    "keep_macs": [0.5, 1, 0.25, 1e-1],
    "ranking": ["global", "layer"],
    "min_keep": [1, 2],
    "coupling": ["inner", "full"],
    "epochs": [0, 3],
    "finetune_epochs": [0, 2],
}
SETTINGS = {"batch_size": [16, 64], "train.lr": [0.1, 1e-05], "nesterov": [True, False], "precision": ["fp32"]}


@st.composite
def crossed(draw):
    """For some of the keys a value of them, for up to three of these several: fields, and recipe values."""
    keys = draw(st.lists(st.sampled_from([*CHOICES, *SETTINGS]), unique=True))
    several = draw(st.lists(st.sampled_from(keys), unique=True, max_size=3)) if keys else []
    known = CHOICES | SETTINGS
    chosen = {key: known[key] if key in several else [draw(st.sampled_from(known[key]))] for key in keys}
    return [{key: few for key, few in chosen.items() if key in table} for table in (CHOICES, SETTINGS)]


def written(value):
    """As TOML has it, a single one also as itself."""
    return json.dumps(value[0] if isinstance(value, list) and len(value) == 1 else value)


def said(value):
    """As a user types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@settings(max_examples=25, deadline=None)
@given(crossed(), st.sampled_from(["0", "0-2", "4,1"]))
def test_table_is_every_combination_as_typed_words(tables, seeds):
    values, changes = tables
    values = {"method": ["l1_norm"], "arch": ["resnet20"]} | values
    table = ", ".join(f'"{key}" = {written(value)}' for key, value in changes.items())
    lines = [f"{key} = {written(value)}" for key, value in values.items()]
    text = "\n".join([*lines, f"settings = {{ {table} }}", f'seeds = "{seeds}"'])
    found = RunRequest.from_table(tomllib.loads(text), "here")
    expected = []
    for choice in itertools.product(*values.values(), *changes.values()):
        words = ["--seeds", seeds]
        for key, value in zip(values, choice, strict=False):
            words += [f"--{key.replace('_', '-')}", said(value)]
        for key, value in zip(changes, choice[len(values) :], strict=True):
            words += ["--set", f"{key}={said(value)}"]
        expected.append(request_of(*words))
    assert len(found) == len(expected)
    assert all(request in found for request in expected)


def test_order_of_combinations_is_that_of_the_fields_not_of_the_file():
    first = {"method": ["a", "b"], "arch": "x", "keep_macs": [0.5, 0.25], "epochs": [1, 2]}
    assert RunRequest.from_table(first, "") == RunRequest.from_table(dict(reversed(first.items())), "")
    assert [request.method for request in RunRequest.from_table(first, "")] == ["a"] * 4 + ["b"] * 4
