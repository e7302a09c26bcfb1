"""Published accuracies: the files, and what they refuse."""

import dataclasses

import pytest

from bench.errors import UsageError
from bench.spec.registry import ARCHS, DATASETS, METHODS
from leaderboard.published.publications import PublishedAccuracy, accuracies, load, names

ROW = """
source = "a paper"
[[accuracies]]
method = "l1_norm"
arch = "resnet56"
dataset = "cifar10"
base_percent = 93.36
pruned_percent = 92.97
where = "Tab. 1"
"""
TWICE = ROW.split("\n", 2)[2] + "[[accuracies]]"


def test_published_files_are_complete():
    claims = accuracies()
    assert len(names()) > 10
    assert len(claims) > 50
    assert len(
        {(c.method, c.arch, c.dataset, c.variant, c.source, c.selection, c.pruned_percent) for c in claims}
    ) == len(claims)
    for claim in claims:
        ARCHS.require(claim.arch)
        DATASETS.require(claim.dataset)
        texts = [value for value in dataclasses.asdict(claim).values() if isinstance(value, str)]
        assert all(text.isprintable() and text == text.strip() for text in texts)
    named = {claim.method for claim in claims if claim.method.islower()}
    assert named <= set(METHODS.entries())
    assert len(named) > 3


def test_anchors():
    """Some of them by hand: what the source counts, and what is left of it when channels are really removed."""
    found = {(c.method, c.pruned_percent): c for c in accuracies() if (c.arch, c.dataset) == ("resnet56", "cifar10")}
    greg = found["l1_norm", 92.97]
    assert (greg.base_percent, greg.deviation, greg.speedup, greg.physical_speedup, greg.runs) == (
        *(93.36, 0.15, 1.99, 1.99),
        "3 runs",
    )
    hrank = found["HRank", 93.17]
    assert (hrank.speedup, hrank.physical, hrank.physical_speedup, hrank.selection) == (
        2.0,
        False,
        2.59,
        "best on test",
    )
    fpgm = found["fpgm", 93.49]
    assert (fpgm.speedup, fpgm.physical_speedup, fpgm.base_deviation) == (2.11, 1.66, 0.58)
    assert found["l1_norm", 92.93].selection == "best on test"
    assert found["l1_norm", 92.74].selection == "last epoch"


def test_accuracies_of_a_file_agree_with_its_targets():
    targets = load("dropnet-mnist")
    claims = [claim for claim in accuracies() if claim.method == "dropnet"]
    assert len(claims) == 3
    for claim in claims:
        groups = [group for group in targets.groups.values() if group.request.arch == claim.arch]
        assert groups
        metric = claim.variant.split(",")[0].removeprefix("metric ")
        (group,) = (group for group in groups if group.request.options["metric"] == metric)
        final = next(target for target in group.targets if target.quantity == "final.top1")
        assert claim.pruned_percent == final.paper
        assert f"{final.left:g} of the units" in claim.variant
        assert final.where in claim.source
        dense = {t.paper for one in groups for t in one.targets if t.quantity == "dense.top1"}
        assert dense == {claim.base_percent}


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_row_has_the_values_of_its_file(file):
    found = load(file(ROW))
    (row,) = found.accuracies
    told = {"base_percent": 93.36, "where": "Tab. 1", "source": "a paper, Tab. 1"}
    assert row == PublishedAccuracy("l1_norm", "resnet56", "cifar10", 92.97, **told)
    assert (row.speedup, row.physical, row.runs, row.selection) == (None, None, "not stated", "not stated")
    assert (found.name, found.groups) == ("mine", {})
    assert load(file('source = "a paper"')).accuracies == ()


WRONG = [
    ("92.97", "929.7", "accuracies[0]: pruned_percent = 929.7 is not within 0 to 100"),
    ("93.36", "-1.0", "accuracies[0]: base_percent = -1 is not within 0 to 100"),
    ("93.36", '"93.36"', "base_percent = '93.36' is not a number"),
    ("93.36", "nan", "base_percent = nan is not within"),
    ("93.36", "93.36\nspeedup = 0.5", "speedup = 0.5 is not within 1 to 1000"),
    ("93.36", "93.36\ndeviation = -0.1", "deviation = -0.1 is not within 0 to 50"),
    ("93.36", '93.36\nphysical = "yes"', "physical = 'yes' is not true or false or none"),
    ("93.36", '93.36\nselection = "best"', "selection = 'best' is not one of last epoch, best on test"),
    ("93.36", "93.36\nruns = 3", "runs = 3 is not text"),
    ('"a paper"', '" "', "source is empty"),
    ('source = "a paper"', "", "source missing"),
    ("base_percent", "base", "unknown key in publication mine: accuracies[0] 'base'"),
    ("[[accuracies]]", "[accuracies]", "accuracies is not a list of tables"),
    ("[[accuracies]]", "other = 1\n[[accuracies]]", "unknown key in publication mine 'other'"),
    ("[[accuracies]]", "accuracies", "publication mine: "),
    ("[[accuracies]]", TWICE, "l1_norm on resnet56, 92.97 % is there twice"),
    (ROW, "accuracies = [1]", "accuracies[0] is not a table"),
]


def test_damaged_file_is_refused_in_one_line(file, tmp_path):
    for old, new, message in WRONG:
        assert old in ROW
        with pytest.raises(UsageError) as caught:
            load(file(ROW.replace(old, new, 1)))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"none\.toml: no such file"):
        load(str(tmp_path / "none.toml"))
