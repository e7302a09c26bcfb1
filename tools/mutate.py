"""Plant small faults, one at a time, in a clone of the repository, and count how many the tests find.

    python tools/mutate.py [--all] [NUMBER ...]

The faults are those of tools/mutations.toml. For each, the fast tests of the room run first, then all fast tests;
``--all`` runs the slow ones, too, of faults that the fast ones miss.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_TESTS = 5
"""Exit code of pytest where nothing was chosen; a failure is 1, or 2 with several workers and ``-x``."""
GIT = ("git", "-c", "user.name=mutate", "-c", "user.email=")
"""Each fault is a commit of the clone: some tests look at the commit and at changes since."""


def rooms(file: str) -> list[str]:
    """Folders or files of tests that belong to the room of ``file``."""
    path = Path("tests", file).with_suffix("")
    alone = path.parent / f"test_{path.name}.py"
    return [str(found) for found in (alone, path.parent) if (ROOT / found).exists()]


def is_found(copy: Path, *words: str) -> bool:
    """Whether a test fails in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=copy, capture_output=True).returncode not in (0, NO_TESTS)


def main() -> int:
    """Try the faults; the exit code is the number that no test found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="slow tests, too")
    parser.add_argument("numbers", nargs="*", type=int, help="faults to plant, counted from 1 (default: all)")
    chosen = parser.parse_args()
    faults = tomllib.loads((ROOT / "tools" / "mutations.toml").read_text())["mutation"]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
        if is_found(copy):
            raise SystemExit("the fast tests fail without any fault: nothing can be concluded")
        for number in chosen.numbers or range(1, len(faults) + 1):
            fault = faults[number - 1]
            file = copy / fault["file"]
            text = file.read_text()
            if text.count(fault["old"]) != 1:
                raise SystemExit(f"fault {number}: its text is {text.count(fault['old'])} times in {fault['file']}")
            file.write_text(text.replace(fault["old"], fault["new"]))
            subprocess.run([*GIT, "commit", "-qam", "A planted fault"], cwd=copy, check=True)
            stages = [*((tests,) for tests in rooms(fault["file"])), (), *([("-m", "")] if chosen.all else [])]
            by = next((" ".join(words) or "all fast tests" for words in stages if is_found(copy, *words)), None)
            subprocess.run(["git", "reset", "-q", "--hard", "HEAD~"], cwd=copy, check=True)
            missed += [] if by else [number]
            print(f"{number:3} {fault['file']}: {f'found by {by}' if by else 'NOT FOUND'}", flush=True)
    print(f"{len(missed)} of {len(chosen.numbers or faults)} faults were not found")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
