"""What tests do with a page in a browser."""

import json
from dataclasses import replace

from support.waiting import until

HOSTILE = """<script>hacked=1</script>"><img/src=x/onerror="hacked=1">${hacked}'&amp;{{1}}"""
"""As hostile as the name of a method may be: visible ASCII characters, at most 80."""
KINDS = (
    *("index", "board", "hostile board", "method", "hostile method"),
    *("record", "failed record", "hostile record", "hostile failure"),
)


def with_name(board, method, name):
    """The board with another name for a method."""
    tables = [
        replace(
            table,
            rows=tuple(
                replace(r, method=name, name=f"{name} depth={name}") if r.method == method else r for r in table.rows
            ),
        )
        for table in board.tables
    ]
    return replace(board, tables=tuple(tables))


def drawn(browser):
    """Bring every figure near, one after the other, until all are drawn."""
    for figure in browser.find_elements("css selector", "figure[data-figure]"):
        in_view(browser, figure)
        until(lambda figure=figure: figure.find_elements("css selector", ".drawn svg"))
    return browser.find_elements("css selector", "figure[data-figure]")


def events(browser, method):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [message["params"] for message in messages if message["method"] == method]


def in_view(browser, figure):
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", figure)
    return figure


def head(browser, name):
    for button in browser.find_elements("css selector", "section.budget:not([hidden]) thead button"):
        if button.text.startswith(name):
            return button
    raise AssertionError(name)


def shown(browser):
    return [row.text.split()[0] for row in browser.find_elements("css selector", ".budget tbody th") if row.text]


def sized(browser, width, height):
    """The page as a screen of this size has it; a narrow one is a phone."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def in_theme(browser, theme=""):
    """The page as a reader has it whose system is ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": theme}] if theme else []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
