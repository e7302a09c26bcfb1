"""The site in a headless Chromium, opened as files: it works, asks for nothing, and nothing of a record runs in it."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from support.boards import PUBLISHED, boards_of, plan_for, put, records
from support.made_records import made
from support.records import seal
from support.waiting import until

from bench.spec.option_scan import Option
from leaderboard.pages import site
from leaderboard.pages.site import About, Sources
from leaderboard.reader.frame import Problem
from leaderboard.render import naming

pytestmark = pytest.mark.browser
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
HOSTILE = """<script>hacked=1</script>"><img/src=x/onerror="hacked=1">${hacked}'&amp;{{1}}"""
"""As hostile as the name of a method may be: visible ASCII characters, at most 80."""


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A site: kind of page -> its file, of boards as they should be and of a hostile method."""
    folder = tmp_path_factory.mktemp("work")
    where = {"arch": HOSTILE, "device": HOSTILE}
    hostile = [made("odd", s, 20, **where) for s in range(3)]
    hostile.append(made("odd", 3, **where, status="failed", error=HOSTILE))
    epochs = len(hostile[0]["curve"]["epoch"])
    hostile[0]["curve"] |= {"part": [HOSTILE] * epochs, "logged": {HOSTILE: [1.0] * epochs}}
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


KINDS = (
    *("index", "board", "hostile board", "method", "hostile method"),
    *("record", "failed record", "hostile record", "hostile failure"),
)


def drawn(browser):
    """Bring every figure near, one after the other, until all are drawn."""
    for figure in browser.find_elements("css selector", "figure[data-figure]"):
        in_view(browser, figure)
        until(lambda figure=figure: figure.find_elements("css selector", ".drawn svg"))
    return browser.find_elements("css selector", "figure[data-figure]")


def events(browser, method):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [message["params"] for message in messages if message["method"] == method]


@pytest.fixture
def open_page(browser, pages):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    def go(kind):
        browser.get(pages[kind].as_uri())
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(pages[kind].as_uri())

    return go


def in_view(browser, figure):
    browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", figure)
    return figure


@pytest.mark.parametrize("kind", KINDS)
def test_page_draws_loads_only_files_and_works_without_scripts(browser, open_page, pages, kind):
    open_page(kind)
    drawn(browser)
    assert browser.execute_script("return window.hacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [event["request"]["url"] for event in events(browser, "Network.requestWillBeSent")]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)
    phone = {"width": 375, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_width = "return [document.documentElement.scrollWidth, innerWidth, document.body.scrollWidth]"
    drawn(browser)
    assert browser.execute_script(open_width) == [375, 375, 375]
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(pages[kind].as_uri())
    document = browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]

    def count(selector):
        found = browser.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": document, "selector": selector})
        return len(found["nodeIds"])

    assert count("h1") == 1
    assert count("form.filter:not([hidden])") == count("#theme:not([hidden])") == count("thead button") == 0
    if "fail" not in kind:
        assert count("table tbody tr") > 2
    if "board" in kind:
        assert count("figure img") == count("figure[data-figure]") > 1
        assert count("table.rows tbody a") > 5


def column(browser, name):
    """Texts of a column of the first table."""
    return browser.execute_script(
        "const t = document.querySelector('table.rows'), heads = [...t.querySelectorAll('thead th')];"
        "const n = heads.findIndex((h) => h.textContent.startsWith(arguments[0]));"
        "return [...t.tBodies[0].rows].map((r) => r.cells[n].textContent.trim())",
        name,
    )


def head(browser, name):
    for button in browser.find_elements("css selector", "section.budget:not([hidden]) thead button"):
        if button.text.startswith(name):
            return button
    raise AssertionError(name)


def test_column_is_sorted_by_click_and_by_key(browser, open_page):
    from selenium.webdriver.common.keys import Keys

    def numbers(texts):
        return [float(text.split()[0]) for text in texts if "±" in text]

    open_page("board")
    head(browser, "Top-1").click()
    once = column(browser, "Top-1")
    assert numbers(once) == sorted(numbers(once), reverse=True) and len(set(numbers(once))) > 3  # best first
    assert once[-1] == "1 failed, 1 missing"  # what has no number comes last
    head(browser, "Top-1").send_keys(Keys.ENTER)
    twice = column(browser, "Top-1")
    assert numbers(twice) == sorted(numbers(twice))
    assert twice[-1] == once[-1]
    sorted_by = browser.find_elements("css selector", "section.budget:first-of-type th[aria-sort]")
    assert [th.get_attribute("aria-sort") for th in sorted_by] == ["ascending"]
    head(browser, "Method").click()
    names = column(browser, "Method")
    assert names == sorted(names)


def shown(browser):
    return [row.text.split()[0] for row in browser.find_elements("css selector", ".budget tbody th") if row.text]


def test_rows_are_filtered_by_text_budget_and_controls(browser, open_page):
    from selenium.webdriver.support.ui import Select

    open_page("board")
    budget = Select(browser.find_element("name", "budget"))
    assert len(budget.options) == 5 and budget.first_selected_option.text == "keep 0.5 of the MACs"
    budget.select_by_visible_text("all budgets")
    everything = shown(browser)
    assert {"random", "slimming", "dense"} <= set(everything)
    text = browser.find_element("name", "text")
    text.send_keys("SLIM")
    assert set(shown(browser)) == {"slimming"} and len(shown(browser)) == 3
    assert browser.find_element("css selector", "form.filter output").text.startswith("3 of ")
    budget.select_by_visible_text("keep 0.25 of the MACs")
    assert len(shown(browser)) == 1
    text.send_keys("x")
    assert shown(browser) == [] and browser.find_element("css selector", "form.filter output").text == "no row matches"
    text.clear()
    text.send_keys(" ")
    browser.find_element("name", "controls").click()
    assert {"slimming", "ddrop"} <= set(shown(browser)) and not {"random", "dense"} & set(shown(browser))


def point(browser, figure, wanted):
    """The mark whose data have these values."""
    return until(
        lambda: browser.execute_script(
            "return [...arguments[0].querySelectorAll('.drawn path')].find((p) => p.__data__ && p.__data__.datum"
            " && p.__data__.tooltip && Object.entries(arguments[1]).every(([k, v]) => p.__data__.datum[k] === v))",
            figure,
            wanted,
        )
    )


def test_point_has_its_numbers_and_opens_its_page(browser, open_page, pages):
    from selenium.webdriver import ActionChains

    open_page("board")
    figure = in_view(browser, drawn(browser)[0])
    mark = point(browser, figure, {"is": "row", "series": "slimming", "budget": "keep 0.5 of the MACs"})

    def pointed():
        for by in (1, -1):  # a scroll that the move itself causes closes it
            ActionChains(browser).move_to_element_with_offset(mark, by, 0).perform()
        return next(iter(browser.find_elements("css selector", "#vg-tooltip-element.visible")), None)

    tooltip = until(pointed)
    assert "slimming" in tooltip.text and "keep 0.5" in tooltip.text and "95.72" in tooltip.text
    browser.execute_script("scrollBy({top: 40, behavior: 'instant'})")
    until(lambda: not browser.find_elements("css selector", "#vg-tooltip-element.visible"))
    mark.click()
    until(lambda: browser.current_url == pages["method"].as_uri())
    browser.back()
    figure = in_view(browser, drawn(browser)[0])
    browser.execute_script(
        "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        point(browser, figure, {"is": "run", "series": "slimming", "seed": 0, "budget": "keep 0.5 of the MACs"}),
    )
    until(lambda: browser.current_url == pages["record"].as_uri())


def test_keyboard_reaches_content_points_and_the_command(browser, open_page):
    from selenium.webdriver.common.keys import Keys

    open_page("board")
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.text == "Skip to content"
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", first) != "none"
    first.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    plot = drawn(browser)[0].find_element("css selector", ".drawn svg")
    browser.execute_script("arguments[0].focus({preventScroll: true})", plot)
    labels = []
    for _ in range(3):
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        labels.append(browser.execute_script("return document.querySelector('.drawn [aria-live]').textContent"))
    assert len(set(labels)) == 3 and all("method " in text and "top-1, % " in text for text in labels)
    name = labels[-1].split("method ")[1].split(",")[0]
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: browser.current_url.endswith(f"/methods/{name}.html"))
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", origin)
    open_page("record")
    button = browser.find_element("css selector", "button.copy")
    button.send_keys(Keys.ENTER)
    until(lambda: button.text in ("Copied", "Selected"))


def test_cost_and_budget_of_the_plot_are_chosen(browser, open_page):
    from selenium.webdriver.support.ui import Select

    open_page("board")
    figure = drawn(browser)[0]
    (cost,) = (Select(found) for found in figure.find_elements("css selector", "select"))
    budget = Select(browser.find_element("name", "budget"))

    def texts():
        return browser.execute_script(
            "return [...arguments[0].querySelectorAll('svg text')].map((t) => t.textContent)", figure
        )

    def marks():
        return browser.execute_script(
            "return [...arguments[0].querySelectorAll('.drawn path')].map((p) => p.__data__ && p.__data__.datum)"
            ".filter((d) => d && d.is === 'row' && d.macs !== undefined).map((d) => d.budget)",
            figure,
        )

    assert "training cost, dense = 1" in texts()
    for label in ("MACs kept, % of dense", "parameters kept, % of dense"):
        cost.select_by_visible_text(label)
        until(lambda label=label: label in texts())
    budget.select_by_visible_text("all budgets")
    until(lambda: len(set(marks())) == 4)  # three budgets and the native track
    budget.select_by_visible_text("keep 0.1 of the MACs")
    until(lambda: set(marks()) == {"keep 0.1 of the MACs"})


SIZES = [(1400, 900), (390, 844)]
FOUND = """
const first = (e) => {
  const box = e.getBoundingClientRect();
  return box.height > 0 && box.bottom <= innerHeight && box.right <= innerWidth;
};
const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
return ["[name=network]", "[name=budget]", ".advice", ".facts div"]
  .map((selector) => shown(selector).length && shown(selector).every(first));
"""
"""Whether what answers the reader's question lies on the first screen, without a scroll."""


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_first_screen_answers_at_each_budget(browser, open_page, width, height):
    from selenium.webdriver.support.ui import Select

    open_page("index")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.find_element("partial link text", "net on digits").click()
    for keep in (0.5, 0.25, 0.1):
        Select(browser.find_element("name", "budget")).select_by_visible_text(f"keep {keep:g} of the MACs")
        assert browser.execute_script(FOUND) == [True] * 4, keep
        answers = [found.text for found in browser.find_elements("css selector", ".advice") if found.text]
        assert len(answers) == 1 and "times the training cost of dense" in answers[0]
        facts = [fact.text for fact in browser.find_elements("css selector", ".facts div") if fact.text]
        assert [fact.partition(" of ")[0].split()[-1] for fact in facts[:2]] == ["points", "point"]
        assert "not measured" in facts[2]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_choice_is_in_the_address(browser, open_page, pages):
    from selenium.webdriver.support.ui import Select

    open_page("board")
    Select(browser.find_element("name", "budget")).select_by_visible_text("keep 0.25 of the MACs")
    browser.find_element("name", "text").send_keys("l")
    browser.find_element("name", "controls").click()
    head(browser, "Training").click()
    address, names = browser.current_url, shown(browser)
    assert names and "#budget=macs-0.25&" in address
    browser.get("about:blank")
    browser.get(address)
    assert shown(browser) == names
    (sorted_by,) = browser.find_elements("css selector", "section.budget:not([hidden]) th[aria-sort]")
    assert sorted_by.text.startswith("Training") and sorted_by.get_attribute("aria-sort") == "ascending"
    browser.get("about:blank")
    browser.get(pages["board"].as_uri() + "#macs-0.1")  # a plain place
    assert Select(browser.find_element("name", "budget")).first_selected_option.text == "keep 0.1 of the MACs"
    Select(browser.find_element("name", "network")).select_by_index(1)
    until(lambda: browser.current_url == pages["hostile board"].as_uri() + "#budget=macs-0.1")


def test_at_most_six_curves_have_a_colour_that_a_reader_chooses(browser, open_page):
    open_page("board")
    (figure,) = [f for f in drawn(browser) if f.find_elements("css selector", ".choose")]
    boxes = figure.find_elements("css selector", ".choose input")
    browser.execute_script("arguments[0].querySelector('.choose').open = true", figure)
    first = [box.get_attribute("value") for box in boxes if box.is_selected()]
    assert 0 < len(first) <= 6
    for box in boxes:
        if not box.is_selected() and box.is_enabled():
            box.click()
    assert sum(box.is_selected() for box in boxes) == min(6, len(boxes))
    chosen = {box.get_attribute("value") for box in boxes if box.is_selected()}
    legend = "return [...arguments[0].querySelectorAll('.role-legend-label text')].map((t) => t.textContent)"
    until(lambda: set(browser.execute_script(legend, figure)) == chosen)


A11Y = """
const all = (s) => [...document.querySelectorAll(s)], named = (e) => (e.getAttribute("aria-label")
  || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent
  || e.labels?.[0]?.textContent || e.textContent || "").trim();
const regions = all("main, nav, footer, header.bar, section[aria-labelledby], [role=region], [role=search]")
  .filter((e) => e.checkVisibility())
  .map((e) => `${e.getAttribute("role") || e.localName} ${e.matches("main, footer, header") ? "" : named(e)}`);
const levels = all("h1, h2, h3, h4").filter((e) => e.checkVisibility()).map((e) => Number(e.localName[1]));
return {
  "landmark-unique": regions.filter((r, k) => regions.indexOf(r) !== k),
  "empty-table-header": all("th").filter((e) => !e.textContent.trim()).length,
  "empty-heading": all("h1, h2, h3").filter((e) => !e.textContent.trim()).length,
  "heading-order": levels.filter((l, k) => k && l > levels[k - 1] + 1).length,
  "label": all("input, select, button, a[href], summary").filter((e) => !named(e)).map((e) => e.outerHTML),
  "image-alt": all("img:not([alt])").length,
  "duplicate-id": all("[id]").map((e) => e.id).filter((id, k, ids) => ids.indexOf(id) !== k),
  "scrollable-region-focusable": all(".scroll, pre").filter((e) => e.tabIndex < 0).length,
  "list": all("ul > :not(li), ol > :not(li), dl > :not(dt, dd, div)").length,
  "html-lang": Number(!document.documentElement.lang), "title": Number(!document.title),
};
"""
"""What axe looks for under these names, as far as these pages can have it."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "hostile" not in kind])
def test_page_has_names_for_all_that_has_one_and_no_empty_header(browser, open_page, kind):
    open_page(kind)
    found = browser.execute_script(A11Y)
    assert {rule: what for rule, what in found.items() if what} == {}


def test_targets_on_a_phone_are_large_enough(browser, open_page):
    open_page("board")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    small = browser.execute_script(
        "return [...document.querySelectorAll('main a, button, select, input, summary')]"
        ".filter((e) => e.checkVisibility())"
        ".filter((e) => !e.closest('p, li:not(.forest li), label.check'))"
        ".map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
        ".filter(([, w, h]) => w < 24 || h < 24)"
    )
    assert small == []


def test_theme_is_switched_and_kept_and_text_is_readable(browser, open_page, pages):
    open_page("board")
    paper = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.querySelector(arguments[0]) || document.body).color"
    text = ("body", "tbody td.n", "tr.control td", "td.soft", "td i", "main a", "td.up", ".under", "figcaption")
    papers = []
    for name in ("Dark", "Light"):
        papers.append(browser.execute_script(paper))
        for selector in text:
            colours = luminance(browser.execute_script(ink, selector)), luminance(papers[-1])
            assert (max(colours) + 0.05) / (min(colours) + 0.05) >= 4.5, (selector, name)
        button = browser.find_element("id", "theme")
        assert button.text == name  # what a click switches to
        button.click()
    light, dark = papers
    assert dark != light == browser.execute_script(paper)
    browser.find_element("id", "theme").click()
    browser.get(pages["index"].as_uri())
    assert browser.execute_script(paper) == dark
    browser.find_element("id", "theme").click()
    assert browser.execute_script(paper) == light


def luminance(colour):
    parts = [int(part) / 255 for part in colour.strip("rgba() ").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
