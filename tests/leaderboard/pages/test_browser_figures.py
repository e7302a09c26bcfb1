"""Figures in a browser: points have their numbers and open pages, what is drawn is chosen, keys reach all of it."""

import pytest
from support.browsing import drawn, in_view
from support.waiting import until

pytestmark = pytest.mark.browser


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
