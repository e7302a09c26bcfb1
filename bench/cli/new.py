"""``bench new``: a method file and its test, to start from."""

from __future__ import annotations

import argparse
import keyword
import sys
from pathlib import Path
from string import Template
from typing import Any

from bench.cli import arguments, output
from bench.errors import SetupError, UsageError, WordsError
from bench.spec.registry import METHODS

TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("importance", "regularizer", "method")


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("new", help="write a method file and its test, to start from")
    p.set_defaults(function=run)
    p.add_argument("name", metavar="NAME", help="of the method: a Python identifier that no method has yet")
    p.add_argument("--kind", required=True, choices=KINDS, help="a function of a site, or a class with hooks")
    p.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where to write it (here)")
    arguments.add_json(p, "the files' names as JSON")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    name, folder = chosen.name, chosen.dir
    if not name.isidentifier() or keyword.iskeyword(name):
        raise WordsError(f"new {name}: not a Python identifier; use letters, digits and _, such as my_norm")
    if name in METHODS.entries():
        raise WordsError(f"new {name}: this name is taken ({METHODS.entries()[name].origin}); choose another")
    files = {folder / f"{name}.py": chosen.kind, folder / f"test_{name}.py": f"test_{chosen.kind}"}
    for path in files:
        if path.exists():
            raise UsageError(f"new {name}: {path} is already there and stays as it is; choose another name or --dir")
    words = {"name": name, "class_name": "".join(part.capitalize() for part in name.split("_")) or "Mine"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in files.items():
            text = (TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8")
            with path.open("x", encoding="utf-8") as file:
                file.write(Template(text).substitute(words))
            if not chosen.json:
                print(path)
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror}; choose another folder with --dir") from error
    method, test = files
    if chosen.json:
        output.print_json({"method": str(method), "test": str(test)})
    print(
        f"edit {method}, then: python -m bench check {method}\n"
        f"its test: python -m pytest {test}\n"
        f"a run: python -m bench run --plugin {method} --method {name} --arch resnet20",
        file=sys.stderr,
    )
    return 0
