"""The page on the architecture is true: files, functions, tests, parts of a record and rooms exist."""

import ast
import re
from functools import cache
from pathlib import Path

from test_layers import FLAT, ROOMS

from bench.records.schema import Record

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()
TABLES = [
    [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.M)
]
STEPS, QUESTIONS, ROWS = (table[2:] for table in TABLES)
CODE = re.compile(r"`([^`]+)`")


@cache
def names(file):
    """Names that a file defines: functions, classes and values, and members of classes behind their class."""
    found = set()

    def collect(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse((ROOT / file).read_text()).body, "")
    return found


def test_page_has_the_steps_of_a_run():
    assert [cells[0].split()[0] for cells in STEPS] == [str(number) for number in range(1, 15)]


def test_files_functions_and_tests_exist():
    for title, files, functions, *_, test in [*STEPS, *QUESTIONS]:
        paths = [path for path in CODE.findall(files) if path.endswith(".py")]
        assert paths, title
        known = {name: file for file in paths for name in names(file)}
        wanted = [name for name in CODE.findall(functions) if "=" not in name]
        assert wanted, title
        assert [name for name in wanted if name not in known] == [], title
        used = {known[name] for name in wanted}
        assert {file for file in paths if file not in used} <= {paths[-1]}, title
        (test_file, name) = CODE.findall(test)[0].split("::")
        assert name in names(test_file), f"{title}: {test}"


def test_parts_of_the_record_exist():
    for title, _, _, parts, _ in STEPS:
        assert {part.split(".")[0] for part in CODE.findall(parts)} <= set(Record.__struct_fields__), title


def test_rooms_are_those_of_the_layer_test():
    def short(room):
        return room.removeprefix("bench.")

    wanted = {room: None if arrows is None else {short(a) for a in arrows} for room, arrows in ROOMS.items()}
    del wanted["bench.__main__"]
    shown = {CODE.findall(room)[0]: arrows for room, _, arrows in ROWS}
    assert {
        room: None if arrows == "everything" else set(arrows.split(", ")) - {"-"} for room, arrows in shown.items()
    } == wanted
    assert {f"`{name}`" for name in FLAT - {"bench", "bench.moved"}} <= set(re.findall(r"`[^`]+`", TEXT))


def test_picture_has_every_room():
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    labels = {label.rstrip("/") for label in re.findall(r">([a-z.]+/?)</text>", picture)}
    assert {room.removeprefix("bench.") for room in ROOMS} - {"__main__"} == labels


def test_functions_of_the_page_on_statistics_exist():
    named = re.findall(r"`(\w+)\.(\w+)`", (ROOT / "docs" / "statistics.md").read_text())
    assert len(named) > 25
    assert [(file, name) for file, name in named if name not in names(f"leaderboard/stats/{file}.py")] == []
