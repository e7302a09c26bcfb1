"""The first screen in a browser answers what to take, for each network and budget in two interactions, unscrolled."""

import itertools

import pytest
from support.boards import BUDGETS, boards_of, plan_for, put, records
from support.browsing import sized
from support.waiting import until

from leaderboard.pages import site
from leaderboard.pages.site import Sources
from leaderboard.render.advice_sentence import advice
from leaderboard.stats.advice import near_dense

pytestmark = pytest.mark.browser
NETWORKS = {"resnet20": (8, 0), "lenet": (21, 3), "resnet56": (45, 25)}
"""Name -> test images that its dense network gets wrong, and how many more all others do."""
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


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Boards of three networks with the folder of their pages."""
    folder = tmp_path_factory.mktemp("three")
    found = [record for arch, wrong in NETWORKS.items() for record in records(*wrong, arch=arch)]
    boards, _ = boards_of(put(folder / "records", found), plan_for(found))
    assert len({advice(board, board.tables[0]) for board in boards}) == len(NETWORKS)  # a wrong page would be noticed
    site.write(folder / "site", boards, Sources(folder / "records", lambda record: "bench run"))
    return boards, folder / "site"


@pytest.mark.parametrize("start", ["index", "page of a network"])
@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_two_interactions_answer_for_each_network_and_budget(browser, three, start, width, height):
    from selenium.webdriver.support.ui import Select

    boards, folder = three
    sized(browser, width, height)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    other = dict(zip(NETWORKS, [*NETWORKS][1:] + [*NETWORKS][:1], strict=True))
    for board, keep in itertools.product(boards, BUDGETS):
        (table,) = (table for table in board.tables if table.keep == keep)
        if start == "index":
            browser.get((folder / "index.html").as_uri())
            browser.find_element("link text", board.title).click()
        else:
            browser.get((folder / f"boards/digits-{other[board.key['arch']]}.html").as_uri())
            Select(browser.find_element("name", "network")).select_by_visible_text(board.title)
        until(lambda title=board.title: browser.title.startswith(title))
        Select(browser.find_element("name", "budget")).select_by_visible_text(table.title)
        assert browser.execute_script(FOUND) == [True] * 4, (board.title, keep)
        assert [found.text for found in browser.find_elements("css selector", ".advice") if found.text] == [
            advice(board, table)
        ]
        facts = [fact.text for fact in browser.find_elements("css selector", ".facts div") if fact.text]
        near = near_dense(table, board.terms)
        for fact, (margin, rows) in zip(facts, near, strict=False):
            words = f"Shown to be at most {margin:g} point{'s' * (margin != 1)} below dense\n{len(rows)} of "
            assert fact.startswith(words), (board.title, keep)
        assert len(facts) == len(near) + 1 and facts[-1] == "Speed\nnot measured"
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
