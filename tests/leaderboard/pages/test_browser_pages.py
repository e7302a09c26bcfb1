"""Pages in a browser, opened as files: they work, ask for nothing, are readable, and nothing hostile runs in them."""

import itertools

import pytest
from support.browsing import KINDS, drawn, events, in_theme, sized

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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "hostile" not in kind])
def test_axe_finds_nothing_in_either_theme_at_both_sizes(browser, open_page, kind):
    from axe_core_python.selenium import Axe

    open_page(kind)
    for (width, height), theme in itertools.product(((1400, 900), (390, 844)), ("light", "dark")):
        sized(browser, width, height)
        in_theme(browser, theme)
        found = Axe().run(browser)
        assert len(found["passes"]) > 20
        assert [(each["id"], [node["html"][:80] for node in each["nodes"]]) for each in found["violations"]] == []
    browser.execute_script("document.querySelector('main').append(document.createElement('img'))")  # a fault is found
    assert [each["id"] for each in Axe().run(browser)["violations"]] == ["image-alt"]


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
