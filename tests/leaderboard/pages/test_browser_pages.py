"""Pages in a browser, opened as files: they work, ask for nothing, are readable, and nothing hostile runs in them."""

import pytest
from support.browsing import KINDS, drawn, events, sized

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("kind", KINDS)
def test_page_draws_loads_only_files_and_works_without_scripts(browser, open_page, pages, kind):
    open_page(kind)
    drawn(browser)
    assert browser.execute_script("return window.hacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [event["request"]["url"] for event in events(browser, "Network.requestWillBeSent")]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)
    sized(browser, 375, 740)
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
    sized(browser, 390, 844)
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
