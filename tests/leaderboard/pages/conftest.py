"""A headless Chromium, and a site of boards as they should be and of a method as hostile as it can be."""

import os
import shutil
from dataclasses import replace

import pytest
from support.boards import PUBLISHED, boards_of, plan_for, put, records
from support.browsing import HOSTILE, in_theme, with_name
from support.made_records import made
from support.records import seal

from bench.spec.option_scan import Option
from leaderboard.pages import site
from leaderboard.pages.site import About, Sources
from leaderboard.reader.frame import Problem
from leaderboard.render import naming

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    missing = [name for name, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if path is None]
    if missing and os.environ.get("BENCH_NEEDS_BROWSER") != "1":
        pytest.skip(f"{' and '.join(missing)} not installed (Debian packages chromium and chromium-driver)")
    assert not missing, f"{missing} not installed, and BENCH_NEEDS_BROWSER=1"
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """A site: kind of page -> its file, of boards as they should be and of a hostile method."""
    folder = tmp_path_factory.mktemp("work")
    where = {"arch": HOSTILE, "device": HOSTILE}
    hostile = [made("odd", s, 20, **where) for s in range(3)]
    hostile.append(made("odd", 3, **where, status="failed", error=HOSTILE))
    epochs = len(hostile[0]["curve"]["epoch"])
    hostile[0]["curve"]["logged"] = {HOSTILE: [1.0] * epochs}
    for budget in (0.25, 0.1):
        hostile.append(made("odd", 0, 30, budget, **where))
    beside = [made("random", s, 25, keep, **where) for s in range(3) for keep in (0.5, 0.25, 0.1)]
    put(folder / "records", [*records(), *map(seal, hostile), *beside])
    boards, problems = boards_of(folder / "records", plan_for(records()))
    assert not problems and len(boards) == 2
    plain, odd = sorted(boards, key=lambda board: board.key["arch"] == HOSTILE)
    odd = with_name(odd, "odd", HOSTILE)  # no record's form lets such a method through
    boards = [plain, odd]
    about = {HOSTILE: About(HOSTILE, HOSTILE, "javascript:hacked=1", HOSTILE, HOSTILE, (Option(*[HOSTILE] * 4),))}
    more = {
        "about": about,
        "published": [replace(PUBLISHED, method=HOSTILE, note=HOSTILE)],
        "problems": [Problem(HOSTILE, HOSTILE)],
    }
    site.write(folder / "site", boards, Sources(folder / "records", lambda found: f"bench {HOSTILE}", **more))
    slugs = naming.names([HOSTILE])

    def run_of(board, method, status="ok"):
        rows = [row for table in board.tables for row in table.rows if row.method == method]
        return next(f"records/{run.page}.html" for row in rows for run in row.runs if run.status == status)

    return {
        "index": folder / "site/index.html",
        "board": folder / f"site/boards/{naming.board_names([plain, odd])[0]}.html",
        "hostile board": folder / f"site/boards/{naming.board_names([plain, odd])[1]}.html",
        "method": folder / "site/methods/slimming.html",
        "hostile method": folder / f"site/methods/{slugs[HOSTILE]}.html",
        "record": folder / "site" / run_of(plain, "slimming"),
        "failed record": folder / "site" / run_of(plain, "taylor", "failed"),
        "hostile record": folder / "site" / run_of(odd, HOSTILE),
        "hostile failure": folder / "site" / run_of(odd, HOSTILE, "failed"),
    }


@pytest.fixture
def open_page(browser, pages):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    in_theme(browser)

    def go(kind):
        browser.get(pages[kind].as_uri())
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(pages[kind].as_uri())

    return go
