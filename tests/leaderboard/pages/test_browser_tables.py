"""Tables in a browser: sorted, filtered, and a choice that is in the address."""

import pytest
from support.browsing import head, shown
from support.waiting import until

pytestmark = pytest.mark.browser


def column(browser, name):
    """Texts of a column of the first table."""
    return browser.execute_script(
        "const t = document.querySelector('table.rows'), heads = [...t.querySelectorAll('thead th')];"
        "const n = heads.findIndex((h) => h.textContent.startsWith(arguments[0]));"
        "return [...t.tBodies[0].rows].map((r) => r.cells[n].textContent.trim())",
        name,
    )


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
