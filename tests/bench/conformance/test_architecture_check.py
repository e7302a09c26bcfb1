"""Every network gets a finding, whatever it does to its process."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from support.command_tools import answer
from support.image_folders import write_folder

from bench.conformance import architecture_check
from bench.conformance.architecture_check import Finding, Request, every_name, examine
from bench.models.external import torchvision_names
from bench.spec import registry
from bench.spec.registry import ARCHS, add_plugin

PLUGINS = "tests/plugins/surveyed.py"
SMALL = ("resnet20", "resnet20b", "lenet", "mlp_40_40", "dropnet_a_20_20", "dropnet_b_20_20", "densenet40", "vgg16_bn")
SMALL += ("mobilenet_v2_cifar", "vit_small_cifar", "squeezenet1_1", "wrn16_4")


@pytest.fixture(autouse=True)
def _known(request):
    registry.PLUGINS.clear()
    add_plugin(str(request.config.rootpath / PLUGINS))


def found(*names):
    return list(architecture_check.check_architectures(names, Request()))


def test_all_names_are_the_suites_own_and_torchvisions():
    names = every_name()
    assert len(names) == len(set(names)) == len(ARCHS.entries()) + len(torchvision_names())
    assert "resnet56" in names
    assert "torchvision:resnet50" in names


def test_a_network_that_passes():
    finding = examine("prunable")
    assert (finding.outcome, finding.why, finding.shape) == ("pass", "", (3, 32, 32))
    assert (finding.sites, finding.units) == (2, 10)
    # at half: 3 and 2 units; 30x30 and 28x28 positions; the pool reads 28x28 of each channel
    dense = 27 * 6 * 900 + 54 * 4 * 784 + 4 * 784 + 40
    half = 27 * 3 * 900 + 27 * 2 * 784 + 2 * 784 + 20
    assert finding.keep_macs == half / dense
    assert finding.least == (27 * 900 + 9 * 784 + 784 + 10) / dense
    assert finding.keep_params == (28 * 3 + 28 * 2 + 30) / (28 * 6 + 55 * 4 + 50)
    assert finding.difference <= 1e-12


def test_the_smallest_images_it_takes():
    assert examine("choosy").shape == (3, 128, 128)
    assert examine("torchvision:squeezenet1_1").shape == (3, 64, 64)


def test_network_without_sites_or_deaf_to_them_does_not_pass():
    for name, outcome, why in (
        ("siteless", "skipped", "the network has no site that can be pruned"),
        ("deaf", "FAILED", "its output does not depend on the units that were removed"),
    ):
        finding = examine(name)
        assert (finding.outcome, why in finding.why) == (outcome, True), finding


@pytest.mark.slow
def test_no_network_ends_the_survey():
    findings = found("dies", "leaves", "raises", "prunable")
    assert [f.outcome for f in findings] == ["FAILED", "skipped", "skipped", "pass"]
    died, left, raised, fine = (f.why for f in findings)
    assert "ended with code 7" in died
    assert "SystemExit: 5" in left
    assert "it fails in eval mode with KeyError: 'odd\\nin two lines' (surveyed.py:" in raised
    assert fine == ""


def test_network_that_is_never_done_is_killed(monkeypatch):
    monkeypatch.setattr(architecture_check, "LIMIT_S", 0.2)
    (finding,) = found("hangs")
    assert (finding.outcome, finding.why) == ("FAILED", "not done after 0.2 s")


def test_what_a_network_prints_is_no_part_of_the_table(capsys):
    answers = []
    architecture_check._work("prunable", Request(), [], SimpleNamespace(send=answers.append))
    assert [f.outcome for f in answers] == ["pass"]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a network is made\n")


def listing(capsys, *arguments):
    return answer(capsys, "list", "archs", *arguments)


def test_table_json_and_their_exit_codes(capfd):
    code, out, err = listing(capfd, "--check", "-a", "prunable,siteless")
    assert code == 0
    table, reasons = out.strip().split("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == [
        *("architecture", "images", "sites", "units", "least MACs"),
        *("MACs at half", "params at half", "gate - slice", "outcome"),
    ]
    assert rows[2][:4] == ["prunable", "32x32", "2", "10"]
    assert rows[2][-1] == "pass"
    assert rows[3][-1] == "skipped"
    assert reasons.startswith("* skipped siteless: the network has no site")
    assert len(rows) == 4
    assert err.strip().splitlines()[-1] == "1 of 2 pass (50.0 %), 1 skipped, 0 failed"
    code, out, _ = listing(capfd, "--check", "-a", "prunable,dies", "--json")
    assert code == 1
    passed, failed = (Finding(**row) for row in json.loads(out))
    same = dataclasses.replace(examine("prunable"), shape=[3, 32, 32], seconds=passed.seconds)
    assert passed == same
    assert passed.rejected == {"6": "it makes the network's output"}
    assert all(0 <= seconds < 60 for seconds in passed.seconds)
    assert (failed.name, failed.outcome) == ("dies", "FAILED")


def surveyed(capfd, *arguments):
    """The findings of ``list archs --check`` with these arguments, which passes."""
    code, out, err = listing(capfd, "--check", "--json", *arguments)
    assert code == 0, err
    return [Finding(**row) for row in json.loads(out)]


@pytest.mark.parametrize(("coupling", "sites", "units"), [("inner", 1, 4), ("full", 2, 10)])
def test_coupling_chooses_the_sites_that_are_checked(capfd, coupling, sites, units):
    (finding,) = surveyed(capfd, "-a", "streamed", "--coupling", coupling)
    assert (finding.outcome, finding.sites, finding.units) == ("pass", sites, units)
    assert finding.difference <= 1e-12


@pytest.mark.parametrize(("dataset", "shape", "classes"), [("digits", [1, 8, 8], 10), ("cifar100", [3, 32, 32], 100)])
def test_dataset_gives_shape_and_classes(dataset, shape, classes, capfd):
    (finding,) = surveyed(capfd, "-a", "prunable", "--dataset", dataset)
    assert (finding.outcome, finding.shape, finding.units) == ("pass", shape, 10)
    size, first, second = 9 * shape[0], (shape[1] - 2) ** 2, (shape[1] - 4) ** 2
    dense = 6 * size * first + 4 * (54 + 1) * second + 4 * classes
    half = 3 * size * first + 2 * (27 + 1) * second + 2 * classes
    assert finding.keep_macs == half / dense


def test_small_images_skip_and_a_folder_gives_its_shape(capfd, tmp_path):
    (finding,) = surveyed(capfd, "-a", "choosy", "--dataset", "digits")
    assert (finding.outcome, finding.sites) == ("skipped", 0)
    assert "needs images of at least 65x65 pixels, these have 8x8" in finding.why
    write_folder(tmp_path / "leaves", train=2, test=1, size=(20, 20))
    (finding,) = surveyed(capfd, "-a", "prunable", "--dataset", "folder:leaves@16", "--data-dir", str(tmp_path))
    assert (finding.outcome, finding.shape) == ("pass", [3, 16, 16])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check", "-a", "prunable", "--dataset", "digit"), "did you mean digits"),
        (("--check", "-a", "prunable", "--coupling", "outer"), "unknown value 'outer': known: full, inner"),
        (("--check", "-a", "torchvision:resnet65"), "unknown torchvision model"),
        (("--check", "-a", "file:none.py:f"), "no file none.py"),
    ],
)
def test_names_are_looked_up_before_anything_is_examined(capsys, arguments, said):
    code, out, err = listing(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_plain_list_names_further_lists(capsys):
    code, out, _ = listing(capsys)
    assert code == 0
    assert "torchvision:NAME[:WEIGHTS]" in out.strip().splitlines()[-1]
    assert "file:PATH:FUNCTION" in out.strip().splitlines()[-1]
    _, out, _ = listing(capsys, "--json")
    assert "torchvision:NAME" not in out
    assert list(json.loads(out)) == ["archs"]
    code, _, err = answer(capsys, "list", "methods", "--check")
    assert (code, "list archs --check" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sites"),
    [
        *((f"shufflenet_v2_x{size}", 18) for size in ("0_5", "2_0")),
        ("swin_s", 24),  # swin_b is as deep
    ],
)
def test_shufflenets_and_a_deep_swin_pass(name, sites):
    finding = examine(f"torchvision:{name}")
    assert (finding.outcome, finding.why, finding.sites) == ("pass", "", sites)
    assert finding.difference <= 1e-12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_suites_own_small_architectures_pass():
    findings = found(*SMALL)
    assert [(f.name, f.outcome, f.why) for f in findings] == [(name, "pass", "") for name in SMALL]
    assert all(f.difference <= 1e-10 and 0.2 < f.keep_macs < 0.8 for f in findings)
