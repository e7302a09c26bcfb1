"""Hook of mkdocs: pages from the repository's root, links out of ``docs/``, and docstrings without markup of Sphinx."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
AT_ROOT = ("RULES.md", "CHANGELOG.md", "CONTRIBUTING.md")
"""Files of the root that are pages of the site."""
TAG = re.compile(r"\[(code|rules|board)\](?!\()")
"""Marks of lines in the changelog; they look like references to headings."""
ROLE = re.compile(r":(?:class|meth|func|data|attr):<code>~?(?:[\w.]+\.)?(\w+)</code>")
LINK = re.compile(r"(?s:^```.*?^```)|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)", re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept in the root."""
    for name in AT_ROOT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links as the site needs them."""
    markdown = TAG.sub(r"\\[\1]", markdown) if page.file.src_uri == "CHANGELOG.md" else markdown
    return rewritten(markdown, page.file.src_uri, config.repo_url or "")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's HTML with names in place of the roles that docstrings have."""
    return ROLE.sub(r"<code>\1</code>", html).replace("::</p>", ":</p>")


def rewritten(text: str, page: str, repository: str) -> str:
    """``text`` of the page (path in the site) with links to files of the repository that are no pages resolved.

    They point into ``repository``; where that is empty, their words remain.
    """
    folder = "" if page in AT_ROOT else posixpath.dirname(f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        image, words, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = path.removeprefix("docs/")
        if path in AT_ROOT or (path.startswith("docs/") and "." in inside):
            target = posixpath.relpath(inside, posixpath.dirname(page) or ".")
            return f"{image}[{words}]({target}{anchor})"
        if not repository:
            return words
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{words}]({repository.rstrip('/')}/{kind}/main/{path}{anchor})"

    return LINK.sub(link, text)
