"""A board of many claims comes in pages of 200: complete without scripts, live with them."""

import re
from collections.abc import Callable
from functools import partial

import pytest
from playwright.sync_api import Page, Request
from tests.board.conftest import Team, live, row, settles, tasks
from tests.harness.services import Running

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}


@pytest.fixture(scope="module")
def crowd(service: Running) -> Team:
    """Make a project of 450 claims, one of them parked."""
    team = Team(service)
    team.many(450)
    team.park("s0425", "T-0449", "Which currency?")
    return team


def follow(page: Page, link: str) -> None:
    """Follow a link and wait until the next page is complete."""
    with page.expect_navigation():
        page.locator(link).last.click()


def order() -> list[str]:
    """Return the tasks of `crowd` in display order: parked claims first."""
    return ["T-0449", *(f"T-{n:04}" for n in range(449))]


@pytest.mark.long
def test_without_scripts_links_lead_through_every_claim_once(crowd: Team, open_page: Open) -> None:
    page = open_page(f"{crowd.service.url}/p/{crowd.project}", **STILL)
    seen: list[str] = []
    for part in ("1 to 200 of 450 tasks.", "201 to 400 of 450 tasks.", "401 to 450 of 450"):
        assert part in page.locator(".pages").first.inner_text()
        seen += tasks(page)
        if page.locator("a[rel=next]").count():
            follow(page, "a[rel=next]")
    assert seen == order()
    assert page.url.endswith("?page=3")
    assert page.locator("[aria-current=page]").first.inner_text().endswith("3")
    follow(page, "a[rel=prev]")
    assert tasks(page)[0] == "T-0199"


def test_a_section_counts_what_is_on_all_pages(crowd: Team, open_page: Open) -> None:
    page = open_page(f"{crowd.service.url}/p/{crowd.project}")
    live(page)
    assert page.locator("#working .number").inner_text() == "449"
    assert page.locator("[data-count=held]").inner_text() == "449"
    assert page.locator("tr[data-task]").count() == 200


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        *(("4", "401 to 450"), ("9999", "401 to 450"), ("0", "1 to 200"), ("-1", "1 to 200")),
        *(("x", "1 to 200"), ("99999999999999999999", "1 to 200"), ("²", "1 to 200")),
    ],
)
def test_a_page_that_is_not_there_is_the_nearest(crowd: Team, asked: str, shown: str) -> None:
    path = f"/p/{crowd.project}?page={asked if asked != '²' else '%C2%B2'}"
    status, html, _ = crowd.service.ask("GET", path)
    assert status == 200
    assert f"{shown} of 450" in html


def note_navigation(gone: list[str], asked: Request) -> None:
    """Record the URL of a navigation."""
    if asked.is_navigation_request():
        gone.append(asked.url)


@pytest.mark.long
def test_a_filter_looks_through_all_pages(crowd: Team, open_page: Open) -> None:
    for how in (STILL, {}):
        page = open_page(f"{crowd.service.url}/p/{crowd.project}", **how)
        page.fill("#q", "T-04")
        gone: list[str] = []
        page.on("request", partial(note_navigation, gone))
        with page.expect_navigation(url="**?*q=T-04*"):
            page.press("#q", "Enter")
        assert len(tasks(page)) == 50
        assert len(gone) == 1, "a second navigation would cancel the first"
        assert "1 to 50 of 50 tasks that match." in page.locator(".pages").first.inner_text()
        follow(page, "a.clear")
        assert len(tasks(page)) == 200
        follow(page, "a.tile.parked")
        assert tasks(page) == ["T-0449"]


def test_a_filter_that_nothing_matches_can_be_cleared(crowd: Team, open_page: Open) -> None:
    page = open_page(f"{crowd.service.url}/p/{crowd.project}?q=nothing+like+it")
    live(page)
    assert page.locator("#nothing").is_visible()
    assert page.locator("a.clear").is_visible()


def test_a_selection_goes_on_to_its_next_page(crowd: Team, open_page: Open) -> None:
    page = open_page(f"{crowd.service.url}/p/{crowd.project}?state=held&sort=task", **STILL)
    follow(page, "a[rel=next]")
    assert tasks(page) == [f"T-{n:04}" for n in range(200, 400)]


def test_each_page_is_live_and_only_its_own_rows_are_sent(team: Team, board: Open) -> None:
    team.many(225)
    first, second = board(), board("?page=2")
    assert tasks(second) == [f"T-{n:04}" for n in range(200, 225)]
    heard = "new EventSource(location.pathname + '/stream?page=%s').addEventListener('patch', " + (
        "({ data }) => { (window.heard ??= []).push(...JSON.parse(data).rows.map((r) => r[0])); })"
    )
    first.evaluate(heard % "1")
    second.evaluate(heard % "2")
    first.wait_for_timeout(300)  # both pages have their stream
    team.call("heartbeat", "s0200", "T-0210", note="on the second page")
    team.release("s0200", "T-0211", "released")
    settles(lambda: tasks(second)[-1] == "T-0211", "the second page has it where it is free again")
    team.call("heartbeat", "s0000", "T-0010", state="parked", note="on the first page")
    settles(lambda: tasks(first)[0] == "T-0010", "the first page has it among those that wait")
    assert "T-0211" not in (first.evaluate("window.heard") or [])
    assert "T-0010" not in (second.evaluate("window.heard") or [])
    assert "201 to 225 of 225" in second.locator(".pages").first.inner_text()
    assert "1 to 200 of 225" in first.locator(".pages").first.inner_text()


def test_a_row_that_leaves_a_page_makes_room_for_the_next(team: Team, board: Open) -> None:
    team.many(225)
    first = board()
    team.release("s0000", "T-0003", "released")
    settles(lambda: tasks(first)[-1] == "T-0200", "the next page's first row has moved up")
    assert len(tasks(first)) == 200
    assert "T-0003" not in tasks(first)


def test_pages_appear_by_themselves_when_a_board_grows_and_go_when_it_shrinks(
    team: Team, board: Open
) -> None:
    team.many(199)
    team.write("Z-1")
    page = board()
    assert not page.locator(".pages").first.is_visible()
    assert page.locator("#shown").inner_text() == "200 of 200 shown"
    team.claim("ann", "T-9")
    settles(lambda: page.locator(".pages").first.is_visible(), "there are pages")
    assert "1 to 200 of 201 tasks." in page.locator(".pages").first.inner_text()
    assert row(page, "Z-1").count() == 0, "ready tasks come after held ones"
    team.write({"task": "Z-1", "drop": True})
    row(page, "T-9").wait_for(timeout=5_000)
    settles(lambda: not page.locator(".pages").first.is_visible(), "one page is enough")


def test_after_a_page_was_read_again_it_is_the_same_page(team: Team, open_page: Open) -> None:
    team.many(225)
    elsewhere = """
    const streams = EventSource;
    window.EventSource = class extends streams {
        constructor(url) { super(url.replace(/after=[^&]*/, "after=0badf00d.1")); }
    };
    """
    page = open_page(f"{team.service.url}/p/{team.project}?page=2", first=elsewhere)
    live(page)
    assert tasks(page) == [f"T-{n:04}" for n in range(200, 225)]


def test_a_heartbeat_does_not_move_a_claim_to_another_page(team: Team, board: Open) -> None:
    team.many(225)
    before = tasks(board(**STILL))
    team.call("heartbeat", "s0000", "T-0000", ttl="3h")
    assert tasks(board(**STILL)) == before


def test_pages_are_sound_html(crowd: Team) -> None:
    _, html, _ = crowd.service.ask("GET", f"/p/{crowd.project}?page=2&q=%22%3E%3Cscript%3E")
    assert not re.search(r"<script>", html)
    _, html, _ = crowd.service.ask("GET", f"/p/{crowd.project}?state=held&q=T&page=2")
    assert 'href="/p/' in html
    assert "q=T&amp;state=held&amp;page=3" in html
