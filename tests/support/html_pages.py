"""The pages of a site as tests read them."""

from html.parser import HTMLParser
from urllib.parse import unquote


class Page(HTMLParser):
    """Tags, ids, addresses and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.said, self.blocks = [], set(), [], [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.inside = (tag, attrs)
        if "id" in attrs:
            assert attrs["id"] not in self.ids
            self.ids.add(attrs["id"])
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]

    def handle_data(self, data):
        if self.inside and self.inside[0] == "script":
            self.blocks.append((self.inside[1], data))
            self.inside = None
        else:
            self.said.append(data)


def pages(folder):
    return {file: Page(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.html"))}


def broken_links(folder):
    """(page, link) of every link within the folder that leads to no file or to no anchor."""
    known = pages(folder)
    found = []
    for file, page in known.items():
        for link in page.links:
            if link.startswith(("data:", "https://", "http://")):
                continue
            path, _, anchor = link.partition("#")
            goal = (file.parent / unquote(path)).resolve() if path else file
            if not goal.is_file() or (anchor and anchor not in known[goal].ids):
                found.append((file.name, link))
    return found
