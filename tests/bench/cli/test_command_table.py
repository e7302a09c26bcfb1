"""What a command answers: exit code and first line, one row each; and no listing wider than the terminal."""

import json
import shlex

import pytest
from support.command_tools import answer
from support.made_records import made, put, seeds
from support.paths import ROOT

from bench import __version__
from bench.records import store
from leaderboard.render.text_table import wide

RUN = ["run", "-m", "l1_norm", "-a", "lenet"]
HELP = "; see bench {} --help"
USAGE, ERROR = "bench: usage: ", "bench: error: "
TABLE = [
    # words, exit code, first line (of stderr where the code is not 0)
    ([], 2, "usage: bench [-h] [--version] COMMAND ..."),
    (["--version"], 0, f"bench {__version__}"),
    (["rnu"], 2, f"{USAGE}unknown command 'rnu': did you mean run"),
    (["run"], 2, f"{USAGE}the following arguments are required: -m/--method, -a/--arch{HELP.format('run')}"),
    ([*RUN, "--lr", "0.1"], 2, f"{USAGE}unrecognized arguments: --lr 0.1{HELP.format('run')}"),
    ([*RUN, "--finetune", "1", "--keep-mcas", "1"], 2, f"{USAGE}unrecognized arguments: --keep-mcas 1: did you mean "),
    (["list", "methds"], 2, f"{USAGE}argument what: unknown value 'methds': did you mean methods?"),
    (["run", "-m", "L1", "-a", "lenet"], 2, f"{USAGE}unknown method 'L1': did you mean l1l2 or l1_norm or l1_penalty?"),
    (
        ["run", "-m", "magnitude", "-a", "lenet"],
        2,
        f"{USAGE}unknown method 'magnitude': did you mean l1_norm or l2_norm",
    ),
    ([*RUN, "-d", "CIFAR10"], 2, f"{USAGE}unknown data set 'CIFAR10': did you mean cifar10?"),
    ([*RUN[:3], "-a", "LeNet"], 2, f"{USAGE}unknown architecture 'LeNet': did you mean lenet?"),
    ([*RUN[:3], "-a", "my_net.py"], 2, f"{USAGE}unknown architecture 'my_net.py': give file:my_net.py:FUNCTION, "),
    (
        [*RUN[:3], "-a", "keras:resnet18"],
        2,
        f"{USAGE}unknown architecture 'keras:resnet18': the prefixes are torchvision:",
    ),
    ([*RUN, "-p", "x"], 2, f"{USAGE}-p x: give KEY=VALUE"),
    ([*RUN, "--seeds", "a"], 2, f"{USAGE}--seeds a: give whole numbers such as 0, 0-4 or 1,5"),
    ([*RUN, "--native", "--keep-macs", "0.5"], 2, f"{USAGE}--keep-macs and --native: give one of them"),
    ([*RUN, "--jobs", "2"], 2, f"{USAGE}--jobs belongs to --cluster local, not to inline"),
    ([*RUN, "--recipe", "none.toml"], 2, f"{ERROR}recipe none.toml: no such file"),
    ([*RUN, "--plugin", "none.py"], 2, f"{ERROR}plugin none.py: no such file"),
    ([*RUN, "--like", "none.json"], 2, f"{ERROR}--like: record none.json: No such file or directory"),
    (["show", "nothing", "--out", "OUT"], 2, f"{ERROR}nothing: no record of that name under "),
    (["verify", "nowhere"], 2, f"{ERROR}verify nowhere: no such file or folder"),
    (["lint", "none.md"], 2, f"{ERROR}lint none.md: no such file"),
    (["board", "nowhere"], 2, f"{ERROR}board nowhere: no such file or folder"),
    (["board", "RECORDS", "--json", "--format", "csv"], 2, f"{USAGE}board --json --format csv: give one of them"),
    (["board", "RECORDS"], 0, "== net on digits"),
    (["compare", "l1norm", "fpgm", "RECORDS"], 2, f"{USAGE}unknown row 'l1norm': did you mean l1_norm"),
    (["list", "sites"], 2, f"{USAGE}list sites: say of which network with --arch NAME"),
    (["list", "sites", "resnet20"], 2, f"{USAGE}list sites takes no 'resnet20'; see bench list --help"),
    (["list", "methods", "tq_*"], 2, f"{USAGE}unknown method 'tq_*': no name matches"),
    (["list", "recipes", "sgd*"], 2, f"{USAGE}unknown recipe 'sgd*': no name matches"),
    (["list", "archs", "torchvision:swan*"], 2, f"{USAGE}unknown architecture 'torchvision:swan*': no name matches"),
    (["list", "archs", "--onnx"], 2, f"{USAGE}list --check and --onnx: say list archs --check"),
    (["list", "methods"], 0, "methods"),
    (["list", "runs", "--out", "OUT"], 0, "id "),
    (["check", "--list"], 0, "check "),
    (["page"], 2, f"{USAGE}the following arguments are required: NAME"),
    (["page", "l1norm"], 2, f"{USAGE}unknown method 'l1norm': did you mean l1_norm"),
    (["page", "l1_norm"], 0, "<!-- generated: l1_norm -->"),
    (["status", "--out", "EMPTY"], 2, f"{ERROR}nothing was run or submitted with --out "),
    (["status", "none.toml"], 2, f"{ERROR}sweep none.toml: No such file or directory"),
    (["logs", "abc", "--out", "OUT"], 2, f"{ERROR}abc: no run of that id was submitted with --out "),
    (["reproduce", "dropnet-mnits"], 2, f"{USAGE}unknown publication 'dropnet-mnits': did you mean dropnet-mnist?"),
    (["reproduce"], 0, "name "),
]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No width is given, and no sweep of another test is here."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    put(out / "records", *seeds("l1_norm", [10, 12, 11]), *seeds("fpgm", [20, 21, 22]), made("dense", 0, 5, None))
    put(out / "records", made("taylor", 1, status="failed", error="a reason of some length " * 5))
    return {"OUT": str(out), "RECORDS": str(out / "records"), "EMPTY": str(out / "empty")}


def test_exit_code_and_first_line(capsys, places):
    for words, code, line in TABLE:
        got, out, err = answer(capsys, *(places.get(word, word) for word in words))
        assert got == code, (words, err)
        assert (err if code else out).splitlines()[0].startswith(line), words
        if code:
            assert out == "", words
            assert not words or len(err.splitlines()) == 1, words


LISTINGS = [
    ["list"],
    ["list", "methods"],
    ["list", "archs"],
    ["list", "datasets"],
    ["list", "recipes"],
    ["list", "sites", "-a", "lenet", "-d", "mnist"],
    ["list", "runs", "--out", "OUT"],
    ["check", "--list"],
    ["reproduce"],
    ["board", "RECORDS"],
    ["compare", "l1_norm", "fpgm", "RECORDS"],
    ["status", "SWEEP", "--all"],
    ["show", "RECORD"],
    ["verify", "RECORD"],
]


@pytest.fixture(scope="module")
def more(places, tmp_path_factory):
    sweep = tmp_path_factory.mktemp("sweep") / "some.toml"
    sweep.write_text('[[runs]]\narch = "resnet20"\nmethod = ["spectral_energy", "uniform_thin_long"]\nseeds = "0-4"\n')
    committed = ROOT / "leaderboard" / "records"
    return places | {"SWEEP": str(sweep), "RECORD": str(next(store.find(committed)))}


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_listing_fits_the_terminal_and_wide_does_not(capsys, monkeypatch, more, words):
    """--wide shows what a pipe gets, --json one document."""
    words = [more.get(word, word) for word in words]
    code, piped, _ = answer(capsys, *words)
    assert code == 0
    for columns in (80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, out, _ = answer(capsys, *words)
        assert code == 0
        assert out.strip()
        assert [line for line in out.splitlines() if wide(line) > columns] == []
    assert answer(capsys, *words, "--wide")[:2] == answer(capsys, *words, "-v")[:2] == (0, piped)
    if words[0] != "verify":
        code, out, _ = answer(capsys, *words, "--json")
        assert code == 0
        assert json.loads(out) is not None


def test_a_wide_command_is_one_for_the_shell(capsys, monkeypatch, more):
    words = ["show", more["RECORD"]]
    whole = answer(capsys, *words)[1].splitlines()[-1].removeprefix("again: ")
    monkeypatch.setenv("COLUMNS", "60")
    folded = answer(capsys, *words)[1].partition("again:")[2]
    assert shlex.split(folded.replace("\\\n", " ")) == shlex.split(whole)
