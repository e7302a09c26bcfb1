"""The documentation as a site: built strictly, with links that leave docs/ resolved."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.api import Context

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def links():
    pytest.importorskip("mkdocs")
    from tools import docs_links

    return docs_links


@pytest.mark.slow
def test_site_builds_without_warning(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site" / "reference" / "context" / "index.html").read_text()
    names = [name for name in dir(Context) if not name.startswith("_")]
    assert [name for name in names if f"Context.{name}" not in page and f"<code>{name}</code>" not in page] == []


def test_links_that_leave_the_pages_lead_to_the_repository(links):
    for page, text, wanted in [
        ("sites.md", "[a](budgets.md#x)", "[a](budgets.md#x)"),
        ("methods/ddrop.md", "[a](../../RULES.md)", "[a](../RULES.md)"),
        ("RULES.md", "[a](docs/sites.md)", "[a](sites.md)"),
        ("sites.md", "[a](../bench/api.py)", "[a](https://x.y/z/blob/main/bench/api.py)"),
        ("methods/ddrop.md", "[a](../../methods)", "[a](https://x.y/z/tree/main/methods)"),
        ("sites.md", "```\n[a](../bench/api.py)\n```", "```\n[a](../bench/api.py)\n```"),
        ("index.md", "![a](board.png)", "![a](board.png)"),
        ("index.md", "[a](https://b.c) [d](#e)", "[a](https://b.c) [d](#e)"),
    ]:
        assert links.rewritten(text, page, "https://x.y/z/") == wanted, page
    assert links.rewritten("[`a`](../bench/api.py)", "sites.md", "") == "`a`"  # words without a repository
