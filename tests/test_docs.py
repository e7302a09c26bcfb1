"""The documents are true: links resolve, commands parse, examples run."""

import dataclasses
import re
import shlex

import pytest
import torch
from support.paths import ROOT
from support.requested import specs_of

import bench
from bench import RULES, __version__
from bench.cli import parser
from bench.measure import environment
from bench.runs import python_api
from bench.runs.execute import execute
from bench.spec.entries import scan
from bench.spec.registry import METHODS, add_plugin

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def test_relative_links_resolve():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", FENCE.sub("", page.read_text())):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def commands():
    """Every command of the suite in a block of a page, with the page's name."""
    for page in PAGES:
        for _, block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    found = re.match(r"\s*(?:\$ )?python -m bench (.*)", re.split(r" #| > ", part)[0])
                    if found:
                        yield page.name, found[1]


def test_commands_parse(capsys):
    known = list(commands())
    assert len(known) > 50
    for page, command in known:
        words = shlex.split(command)
        try:
            assert "--help" in words or parser().parse_args(words).command == words[0]
        except SystemExit:
            pytest.fail(f"{page}: {command}: {capsys.readouterr().err}")


def check_methods_of(file, make_run, tmp_path):
    """Every method that a file defines finishes a run."""
    entries = scan(file, METHODS.decorators, lambda: None)
    assert entries
    add_plugin(str(file))
    for entry in entries:
        of_blocks = METHODS.get(entry.name).kinds == ("block",)
        what = {"arch": "resnet20", "units": "depth", "keep": 0.7} if of_blocks else {}
        spec, options = make_run(entry.name, dataset="tiny8", out=tmp_path / "out", train__epochs=2, **what)
        assert execute(spec, options).status == "ok"


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda f: f.name)
def test_examples_run(file, make_run, tmp_path):
    check_methods_of(file, make_run, tmp_path)


def test_page_on_adding_a_method_is_true(make_run, tmp_path):
    blocks = FENCE.findall((ROOT / "docs" / "add_a_method.md").read_text())
    methods = [
        b
        for language, b in blocks
        if language == "python" and re.search(r"^@(importance|regularizer|method)\(", b, re.M)
    ]
    assert len(methods) > 5
    for number, block in enumerate(methods):
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        check_methods_of(file, make_run, tmp_path)


def interface_blocks():
    text = (ROOT / "docs" / "python.md").read_text()
    return [block for language, block in FENCE.findall(text) if language == "python"]


@pytest.mark.parametrize("block", interface_blocks())
def test_python_interface_does_what_its_page_says(block, make_run, tmp_path, monkeypatch):
    """On a small network with short training."""
    small = {"train.epochs": 1, "finetune.epochs": 0, "latency_batch": 4, "recalibrate": 2}
    asked = {"arch": "two_layers", "dataset": "tiny", "recipe": "synthetic", "settings": small, "quiet": True}
    monkeypatch.setattr(python_api, "run", lambda run=python_api.run, **given: run(**given | asked))
    monkeypatch.chdir(tmp_path)
    names = {"bench": bench}
    exec(block, names)
    if "frame" in names:
        assert len(names["frame"])
        return
    assert names["record"].status == "ok"
    network = names.get("network", names.get("dense"))
    assert network(torch.zeros(2, *names["record"].data.shape)).shape == (2, names["record"].data.classes)
    assert len(names.get("records", [0, 1, 2])) == 3


def test_first_pages_stay_short():
    for page, lines in (("README.md", 120), ("CONTRIBUTING.md", 80)):
        assert len((ROOT / page).read_text().splitlines()) <= lines


def test_versions_agree():
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / "RULES.md").read_text().startswith(f"# Rules, version {RULES}\n")
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[(.+?)\]", changes, re.M)[1] == __version__  # the newest entry
    assert f"[rules] Version {RULES}" in changes
    assert environment.code()["version"] == __version__


def test_readme_names_the_id_of_its_first_run():
    readme = (ROOT / "README.md").read_text()
    words = shlex.split(re.search(r"python -m bench (run --method .*)", readme)[1])
    expected = specs_of(*words[1:])[0].id
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        found = set(re.findall(r"\b[0-9a-f]{12}-s[0-9]+", page.read_text())) - {"0123456789ab-s0"}
        assert found <= {expected}, page
    assert expected in readme


def test_every_method_has_its_options_on_a_page(plugins):
    METHODS._plugins.clear()
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "methods").glob("*.md"))
    for name in METHODS.entries():
        assert f"`{name}`" in pages or f"# {name}" in pages.lower(), name
        for option in dataclasses.fields(METHODS.get(name).Config):
            assert f"`{option.name}`" in pages, f"{name}: {option.name}"
