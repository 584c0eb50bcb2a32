"""Accessibility: axe finds no violation on the board, in any state, size or color scheme."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, row
from tests.harness.processes import until

Open = Callable[..., Page]
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
SIZES = {"phone": {"width": 360, "height": 740}, "desk": {"width": 1440, "height": 900}}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page: Page) -> list[str]:
    """Return the violations that axe finds, with their places."""
    page.evaluate(AXE)
    found: Any = page.evaluate("(tags) => axe.run(document, { runOnly: tags })", RULES)
    assert len(found["passes"]) > 10, "axe checked the page"
    wrong = found["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in wrong for node in one["nodes"]]


@pytest.mark.long
def test_axe_finds_what_is_wrong(full: Team, open_page: Open) -> None:
    page = open_page(f"{full.service.url}/p/{full.project}")
    page.evaluate("void document.querySelector('#q').closest('label').firstChild.remove()")
    page.evaluate("void (document.querySelector('#q').placeholder = '')")
    page.evaluate("void (document.querySelector('.headline span').style.color = '#ccc')")
    found = " ".join(violations(page))
    assert "label: " in found
    assert "color-contrast: " in found


def everything(team: Team) -> None:
    """Make a claim in every visible state."""
    team.busy()
    team.claim("eve", "T-40", ttl="10s", note="quiet")
    for _ in range(3):
        team.claim("eve", "T-41", ttl="10s")
    team.claim("fay", "T-42")
    team.review("fay", "T-42", "https://github.com/acme/shop/pull/42")
    team.write("T-43", {"task": "T-44", "needs": ["T-43"], "title": "The one after"})
    team.fails("T-45", note="cannot be built")
    team.person("hold", task="T-46", reason="wait")
    path = f"/v1/{team.project}/claims/T-40"
    until(lambda: team.service.ask("GET", path)[1]["state"] == "lapsed", "T-40 lapses")


@pytest.fixture(scope="module")
def full(service: Any) -> Team:
    """Return a project with tasks in every state."""
    team = Team(service)
    everything(team)
    return team


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
class TestAxe:
    """One axe run for each state."""

    @pytest.mark.long
    def test_a_full_board(self, full: Team, open_page: Open, size: str, scheme: str) -> None:
        page = self.opened(open_page, full, size, scheme)
        for summary in page.locator("tr summary").all():
            summary.click()
        page.click("#notify summary")
        assert violations(page) == []

    @pytest.mark.long
    def test_asking_for_a_break(self, full: Team, open_page: Open, size: str, scheme: str) -> None:
        page = self.opened(open_page, full, size, scheme)
        row(page, "T-12").locator("summary").click()
        row(page, "T-12").locator("a.act").first.click()
        page.wait_for_selector("#asking[open] form")
        assert violations(page) == []

    def test_an_empty_board(self, team: Team, open_page: Open, size: str, scheme: str) -> None:
        assert violations(self.opened(open_page, team, size, scheme)) == []

    @pytest.mark.long
    @pytest.mark.parametrize("path", ["/", "/p/-bad", "/p/a.b/break?task=T&fence=1"])
    def test_other_pages(
        self, full: Team, open_page: Open, size: str, scheme: str, path: str
    ) -> None:
        how = {"viewport": SIZES[size], "color_scheme": scheme, "expect_errors": True}
        assert violations(open_page(full.service.url + path, **how)) == []

    @staticmethod
    def opened(open_page: Open, team: Team, size: str, scheme: str) -> Page:
        how = {"viewport": SIZES[size], "color_scheme": scheme}
        page = open_page(f"{team.service.url}/p/{team.project}", **how)
        page.wait_for_selector("#link[data-state=live]")
        return page


BROKEN_WORDS = """() => [...document.querySelectorAll("button, .button, summary")].flatMap(one => {
  const walk = document.createTreeWalker(one, NodeFilter.SHOW_TEXT), broken = [];
  for (let node; (node = walk.nextNode());)
    for (const word of node.data.matchAll(/\\w+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
  return broken;
})"""


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_button_has_a_word_in_two_lines(full: Team, open_page: Open, width: int) -> None:
    page = open_page(
        f"{full.service.url}/p/{full.project}", viewport={"width": width, "height": 800}
    )
    assert page.evaluate(BROKEN_WORDS) == []


@pytest.mark.parametrize("width", [360, 768, 1024, 1440, 2560])
def test_no_width_needs_scrolling_sideways(full: Team, open_page: Open, width: int) -> None:
    full.claim("x" * 64, "T-" + "x" * 198, branch="y" * 200, note="z" * 1000)
    page = open_page(
        f"{full.service.url}/p/{full.project}", viewport={"width": width, "height": 800}
    )
    for summary in page.locator("tr summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_table_is_a_table_to_a_screen_reader(full: Team, open_page: Open) -> None:
    page = open_page(f"{full.service.url}/p/{full.project}", viewport=SIZES["phone"])
    table = page.get_by_role("table", name="Claims of")
    assert table.get_by_role("columnheader").count() == 7
    line = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="T-12"))
    assert line.get_by_role("cell").count() == 6
    assert page.get_by_role("status").count() == 1
