"""One word for one thing: words that docs/glossary.md replaces are in no page, message, docstring or test's name.

A room that is not clean is listed in DIRTY; the entry goes when the room is clean.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = {
    "told, tell": r"told|tells?|telling",
    "stands": r"stands?(?!-)|standing|stood",
    "is none": r"(?<!there )(is|are|was|were|as) (?-i:none)",
    "beside": r"beside",
    "goes on": r"(go|goes|going|gone|went) on(?! a\b)",
    "let go": r"lets? go",
    "at hand": r"at hand",
    "as good as": r"as good as",
    "likewise": r"likewise",
    "oftener": r"oftener",
    "anew": r"anew",
    "what is gone": r"what is gone",
    "excuse": r"excuses?",
}
"""A word of the left column of the glossary -> the pattern that finds it."""
PATTERN = re.compile(rf"\b({'|'.join(WORDS.values())})\b", re.I)
ROOMS = (
    *(f"bench/{room}" for room in ("spec", "models", "data", "measure", "pruning", "training", "records", "runs")),
    *("bench/conformance", "bench/deploy", "bench/cli", "leaderboard", "slurm", "methods", "examples", "tools", "docs"),
)
DIRTY: set[str] = set()
"""Rooms with words of the left column in their text or in the names of their tests."""
KINDS = {".py", ".txt", ".md", ".html", ".toml", ".j2", ".yml"}
DATA = ("leaderboard/records/", "leaderboard/tables/", "leaderboard/site/")


def hits(text):
    return [f"{text[: match.start()].count(chr(10)) + 1}: {match[0]}" for match in PATTERN.finditer(text)]


def of_text(file):
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".html":  # "is none" is an operator of templates
        text = re.sub(r"{%.*?%}", "", text)
    return [f"{file.relative_to(ROOT)}:{hit}" for hit in hits(text)]


def of_test_names(file):
    names = [n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)]
    return [f"{file.relative_to(ROOT)}: {n}" for n in names if n.startswith("test_") and hits(n.replace("_", " "))]


def found_in(room):
    files = [file for file in sorted((ROOT / room).rglob("*")) if file.suffix in KINDS and file.is_file()]
    texts = [file for file in files if not str(file.relative_to(ROOT)).startswith(DATA)]
    tests = sorted((ROOT / "tests" / room).rglob("test_*.py"))
    return [*(hit for file in texts for hit in of_text(file)), *(hit for file in tests for hit in of_test_names(file))]


def test_rooms_have_no_word_of_the_left_column():
    found = {room: found_in(room) for room in ROOMS}
    assert [hit for room in found if room not in DIRTY for hit in found[room]] == []
    assert {room for room in DIRTY if not found[room]} == set()  # what is clean leaves DIRTY


def test_flat_files_have_no_word_of_the_left_column():
    files = [*ROOT.glob("*.md"), *ROOT.glob("bench/*.py"), *ROOT.glob(".github/**/*.*"), ROOT / "mkdocs.yml"]
    assert [hit for file in files for hit in of_text(file)] == []
    tests = [*ROOT.glob("tests/*.py"), *ROOT.glob("tests/bench/*.py")]
    assert [hit for file in tests for hit in of_test_names(file)] == []


def test_every_word_of_the_left_column_is_found():
    for word in (word.split(",")[0] for word in WORDS):
        assert hits(f"a\nline with {word} in it") == [f"2: {word}"]
