"""The source of a method at a commit, in a repository of its own."""

import subprocess

import pytest

from bench.records.method_history import MethodHistory
from bench.spec.source_hash import of_files

OWN = (
    "from bench.api import importance\nfrom methods.shared import weigh\n\n\n"
    '@importance("own")\ndef own(site):\n    """Sum."""\n    return weigh(site)\n'
)
SHARED = "def weigh(site):\n    return site.rows().sum(1)\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q")
    for name, text in (("__init__", ""), ("own", OWN), ("shared", SHARED)):
        (folder / "methods").mkdir(exist_ok=True)
        (folder / "methods" / f"{name}.py").write_text(text)
    (folder / "records" / "acme").mkdir(parents=True)
    (folder / "records" / "acme" / "a b.json").write_text("{}")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first", date="2026-01-02T00:00:00Z")
    return folder


def git(folder, *words, date="2026-01-01T00:00:00Z"):
    names = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = names | {
        "GIT_COMMITTER_DATE": date,
        "GIT_AUTHOR_DATE": date,
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }
    done = subprocess.run(["git", "-C", folder, *words], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_hash_covers_the_file_and_its_local_imports_at_the_commit(repository):
    history = MethodHistory(repository)
    first, files = git(repository, "rev-parse", "HEAD"), repository / "methods"
    then = of_files(files / "own.py").sha256
    assert history.head == first
    assert history.wrong(first, "own", then) == ""
    (files / "shared.py").write_text(SHARED.replace("sum", "mean"))
    git(repository, "commit", "-q", "-a", "-m", "second")
    second, now = git(repository, "rev-parse", "HEAD"), of_files(files / "own.py").sha256
    assert now != then
    assert history.wrong(second, "own", now) == history.wrong(first, "own", then) == ""
    assert "code.method_sha256 is" in history.wrong(first, "own", now)
    assert "code.method_sha256 is null" in history.wrong(first, "own", None)


def test_shallow_clone_knows_nothing_of_other_commits(repository, tmp_path):
    git(repository, "commit", "-q", "--allow-empty", "-m", "one more")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{repository}", tmp_path / "clone"], check=True)
    history, head = MethodHistory(tmp_path / "clone"), git(repository, "rev-parse", "HEAD")
    assert history.wrong("f" * 40, "own", "0" * 64) == ""
    assert "code.method_sha256 is" in history.wrong(head, "own", "0" * 64)


def test_what_the_repository_does_not_have_is_named(repository):
    history, head = MethodHistory(repository), git(repository, "rev-parse", "HEAD")
    assert "method 'other' is not in the repository" in history.wrong(head, "own+other", "0" * 64)
    assert "code.commit ffffffffffff is not in this repository" in history.wrong("f" * 40, "own", "0" * 64)
    assert "code.commit is null" in history.wrong(None, "own", "0" * 64)


def test_files_have_the_time_of_the_commit_that_added_them(repository, tmp_path):
    added = MethodHistory(repository).added(repository / "records")
    assert added == {"acme/a b.json": 1767312000}
    nowhere = MethodHistory(tmp_path)
    assert (nowhere.head, nowhere.added(tmp_path)) == ("", {})
