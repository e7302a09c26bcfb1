import ast
import subprocess
import sys

import pytest

from bench.cli import main, method_page
from bench.spec.class_scan import ROOT
from bench.spec.option_scan import SOURCES, Option, options_of
from bench.spec.registry import METHODS


@pytest.fixture(autouse=True)
def _suite_only():
    METHODS._plugins = {}


def read(source, hidden=()):
    """Options of the last decorated class or function of a source text."""
    tree = ast.parse(source)
    node = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.decorator_list][-1]
    return options_of(node, node.decorator_list[0], tree, source, hidden)


# --- reading options ------------------------------------------------------------------------------------------


def test_fields_of_a_config_with_their_comments():
    found = read(
        """
@method("m")
class M(Method):
    @dataclass(frozen=True)
    class Config:
        '''Options.'''

        p: float = 1 / 3  # a share, from (0 to 1) (paper)
        how: Literal[
            "one",
            "two",
        ] = "one"  # which (code: two)
        # stands above, where there is no room (third party)
        tau: float | None = None
        on: bool = True
        names: ClassVar[int] = 3  # nothing

        def __post_init__(self):
            count: int = 1
"""
    )
    assert found[:4] == (
        Option("p", "1 / 3", "number", "a share, from (0 to 1) (paper)"),
        Option("how", "one", "`one`, `two`", "which (code: two)"),
        Option("tau", "none", "number or none", "stands above, where there is no room (third party)"),
        Option("on", "true", "true or false", ""),
    )
    assert [(o.meaning, o.source) for o in found[:4]] == [
        ("a share, from (0 to 1)", "paper"),
        ("which", "code: two"),
        ("stands above, where there is no room", "third party"),
        ("", ""),
    ]


def test_comment_is_split_into_meaning_and_source():
    for comment in ("ours", "code: 5e-4"):
        option = Option("p", "1", "number", comment)
        assert (option.meaning, option.source) == ("", comment)
    for comment in ("no source", "of the last one (as it was)", "a (code) word", "(papers)"):
        option = Option("p", "1", "number", comment)
        assert (option.meaning, option.source) == (comment, "")


BASES = """
class Base(Method):
    class Config:
        a: int = 1  # first (ours)
        b: int = 2  # second (ours)

class Between(Base):
    pass
"""


def test_config_is_inherited_as_python_does():
    method = "\n@method('m')\nclass M"
    assert [o.name for o in read(f"{BASES}{method}(Between): pass\n")] == ["a", "b"]
    own = f"{method}(Base):\n    class Config(Base.Config):\n        b: int = 5\n        c: str = 'x'\n"
    assert [(o.name, o.default) for o in read(BASES + own)] == [("a", "1"), ("b", "5"), ("c", "x")]
    hides = f"{method}(Base):\n    class Config:\n        c: int = 1\n"
    assert [o.name for o in read(BASES + hides)] == ["c"]


def test_a_function_has_the_keywords_of_its_decorator():
    source = (
        '@importance("f", paper=P, needs="activations", p=2.0,\n'
        "    on=True,  # whether (ours)\n    x=-1)\ndef f(): pass\n"
    )
    found = read(source, hidden=("paper", "needs"))
    assert [(o.name, o.default, o.kind, o.source) for o in found] == [
        ("batches", "none", "whole number or none", "ours"),
        ("p", "2.0", "number", ""),
        ("on", "true", "true or false", "ours"),
        ("x", "-1", "whole number", ""),
    ]


def test_what_is_read_is_what_is_there():
    import dataclasses

    from bench.spec.decode import parse

    for name, entry in METHODS.entries().items():
        fields = {f.name: f for f in dataclasses.fields(METHODS.get(name).Config)}
        assert [option.name for option in entry.options] == list(fields), name
        for option in entry.options:
            if "/" not in option.default:
                value = parse(option.default, fields[option.name].type, option.name)
                assert value == fields[option.name].default, f"{name}: {option.name}"


def test_every_option_says_what_it_means_and_where_it_comes_from():
    missing = [
        f"{name}: {option.name}"
        for name, entry in METHODS.entries().items()
        for option in entry.options
        if not option.meaning or not option.source.startswith(SOURCES)
    ]
    assert missing == []


def test_the_list_shows_the_options_of_classes(capsys):
    assert main(["list", "methods"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "p_min=0.2" in lines["ddrop"]
    assert "strength=none" in lines["l1l2"]
    assert "variant=v3" in lines["l1l2"]
    assert "batches=none" in lines["taylor"]


# --- blocks ---------------------------------------------------------------------------------------------------


def test_a_block_says_what_the_method_is():
    text = method_page.block(["dropnet"])
    for words in ("Tan and Motani 2020, *DropNet", "ICML", "<https://arxiv.org/abs/2207.06646>", "matched, native"):
        assert words in text
    assert "| starts from | the initial weights |" in text
    assert "| implementation | [methods/dropnet.py](../../methods/dropnet.py) |" in text
    assert "| ranking | within each site, depending on its options |" in text
    assert "| `p` | `0.2` | number | " in text


def test_block_of_several_names_the_owner_of_an_option():
    text = method_page.block(["taylor", "l1_norm"])
    assert "| `batches` | `taylor` | `none` |" in text
    assert text.count("1608.08710") == 1
    assert "| `strength` | all | " in method_page.block(["l1l2", "group_lasso"])
    assert method_page.block(["l1_norm"]).endswith("No options.")
    assert "| tracks | training cost |" in method_page.block(["dense"])


def test_tables_escape_bars():
    for names in METHODS.entries():
        rows = [line.replace("\\|", "") for line in method_page.block([names]).splitlines() if line.startswith("| `")]
        assert {row.count("|") for row in rows} <= {6}


def test_printing_a_plugins_block(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from bench.api import importance\n\n\n@importance('mine', p=2.0)  # the norm (ours)\n"
        "def mine(site, p):\n    '''Mine.'''\n    return site.rows().norm(p, dim=1)\n"
    )
    assert main(["page", "mine", "--plugin", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!-- generated: mine -->\n\nMine.\n")
    assert "| `p` | `2.0` | number | the norm | ours |" in out
    assert main(["page", "mien", "--plugin", str(file)]) == 2


def test_reading_options_is_without_torch():
    code = "import sys; from bench.spec.registry import METHODS; METHODS.entries(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
