"""Each task, under any name, has a page with everything known of it."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, live
from tests.board.test_access import SIZES, violations
from tests.board.test_safety import EVIL

Open = Callable[..., Page]
STILL = {"java_script_enabled": False}
BODY = "Do this:\n\n  1. keep  the blanks\n\t2. <b>no markup</b> & no [link](https://x.example)"


def whole(team: Team) -> dict[str, Any]:
    """Make a task with everything: needs, dependents, text, past tenures, a holder, a queue."""
    team.write(
        {"task": "N-1"},
        {"task": "N-2", "needs": ["N-1"]},
        {
            "task": "T-1",
            "title": "Round the prices",
            "body": BODY,
            "priority": 0,
            "tags": ["api", "money"],
            "needs": ["N-1"],
            "url": "https://github.com/acme/shop/issues/7",
            "source": "gh",
            "max_attempts": 9,
        },
        {"task": "D-1", "needs": ["T-1"]},
    )
    team.claim("nora", "N-1")
    team.release("nora", "N-1")
    first = team.claim("ann", "T-1", branch="ann/t-1", url="https://example.org/ann")
    team.person("break", task="T-1", fence=first["fence"], reason="its VM is gone")
    team.claim("bob", "T-1", note="halfway")
    team.release("bob", "T-1", "abandoned", note="needs a decision", pr="https://x.example/pull/7")
    held: dict[str, Any] = team.claim("cat", "T-1", branch="cat/t-1", note="tests first", ttl="2h")
    team.waits("dan", "T-1")
    return held


def opened(team: Team, open_page: Open, task: str, **how: Any) -> Page:
    """Open the page of a task."""
    return open_page(f"{team.service.url}/p/{team.project}/t/{quote(task, safe='')}", **how)


@pytest.mark.long
def test_without_scripts_it_says_all_that_is_known(team: Team, open_page: Open) -> None:
    held = whole(team)
    page = opened(team, open_page, "T-1", **STILL)
    assert page.locator("h1").inner_text() == "T-1"
    text = page.locator("main").inner_text()
    facts = ("Round the prices", "working", "cat", "cat/t-1", "tests first", " min left")
    for fact in (*facts, str(held["fence"]), "0 (first)", "api, money", "gh", "9"):
        assert fact in text, fact
    link = page.locator("a[href='https://github.com/acme/shop/issues/7']")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert page.locator("pre.body").text_content() == BODY
    assert "done N-1 nora" in section(page, "Needs 1")
    assert "blocked D-1" in section(page, "Needed by 1")
    assert "dan has waited for" in section(page, "Queue 1")


def section(page: Page, heading: str) -> str:
    """Return the text of a part of the page in one line."""
    part = page.locator("section", has=page.get_by_role("heading", name=heading))
    return " ".join(part.inner_text().split())


def test_it_lists_everybody_who_had_it_the_last_first(team: Team, open_page: Open) -> None:
    whole(team)
    team.release("cat", "T-1", "released", note="out of time")
    page = opened(team, open_page, "T-1", **STILL)
    lines = [" ".join(line.split()) for line in page.locator(".tenures tbody tr").all_inner_texts()]
    for line, facts in zip(
        lines,
        (
            ("cat", "cat/t-1", "released", "out of time"),
            ("bob", "abandoned", "needs a decision", "x.example/pull/7"),
            ("ann", "ann/t-1", "broken by lea", "its VM is gone"),
        ),
        strict=True,
    ):
        assert all(fact in line for fact in facts), line
    assert page.locator(".tenures a[href='https://example.org/ann']").count() == 1


def test_what_failed_and_what_is_kept_back_says_why(team: Team, open_page: Open) -> None:
    team.fails("T-1", note="cannot be built")
    team.person("hold", task="T-2", reason="wait for legal", until="2h")
    text = opened(team, open_page, "T-1", **STILL).locator("main").inner_text()
    for fact in ("failed", "run-4", "cannot be built", "Let it be tried again"):
        assert fact in text
    text = opened(team, open_page, "T-2", **STILL).locator("main").inner_text()
    for fact in ("on hold", "lea put it on hold until", "wait for legal", "End the hold"):
        assert fact in text


def test_a_task_of_which_nothing_is_known_says_so(team: Team, open_page: Open) -> None:
    page = opened(team, open_page, "T-1", expect_errors=True)
    assert "dibs has no record of this task" in page.locator("main").inner_text()
    path = f"/p/{team.project}/t/T-1"
    assert team.service.ask("GET", path)[0] == 404
    for bad in ("%FF", "%20T", "%00", "x" * 201):
        assert team.service.ask("GET", f"/p/{team.project}/t/{bad}")[0] == 404


NAMES = (
    *(
        "acme/shop#12",
        "a//b",
        "/lead",
        "trail/",
        "%2F",
        "a%2Fb",
        "..",
        ".",
        "../..",
        "a/../b",
        "?q=1",
    ),
    *("#", "a b", "日本語の課題 🙂", "Ünïcödé/é", "'\"<>&;", "{{7*7}}", "\\", "a+b", "t", "-"),
    *("x" * 200, "課" * 200, '"' * 200),
)


@pytest.mark.long
def test_the_boards_link_leads_to_the_page_of_a_task_of_any_name(team: Team, board: Open) -> None:
    team.write(
        *({"task": name, "title": f"number {at}"} for at, name in enumerate(NAMES)),
        *({"task": f"D-{at}", "needs": [name]} for at, name in enumerate(NAMES)),
    )
    page = board(**STILL)
    addresses = []
    for at, name in enumerate(NAMES):
        ready = page.locator("#ready a.name", has=page.get_by_text(name, exact=True))
        blocked = page.locator("#blocked tr", has=page.get_by_text(f"D-{at}", exact=True))
        addresses.append(ready.get_attribute("href"))
        assert blocked.locator(".needs a").get_attribute("href") == addresses[-1]
    for at, (name, address) in enumerate(zip(NAMES, addresses, strict=True)):
        page.locator(f"#ready a.name >> nth={at}").click()
        assert page.locator("h1").inner_text() == name, address
        assert page.locator(".headline").inner_text() == f"number {at}", address
        dependent = page.get_by_role("link", name=f"D-{at}", exact=True)
        assert dependent.get_attribute("href") == f"/p/{team.project}/t/D-{at}"
        page.go_back()


def test_markup_in_what_others_wrote_is_text(team: Team, open_page: Open, board: Open) -> None:
    url = "https://x.example/<i>\"'"
    team.write(
        {
            "task": EVIL,
            "title": EVIL,
            "body": EVIL,
            "tags": [EVIL[:40]],
            "source": EVIL,
            "url": url,
        },
        {"task": "D " + EVIL, "title": EVIL, "needs": [EVIL]},
    )
    team.claim("ann", EVIL, branch=EVIL, note=EVIL, url=url)
    team.waits("bob", EVIL)
    team.release("ann", EVIL, "abandoned", note=EVIL, pr=url)
    team.person("hold", task=EVIL, reason=EVIL)
    team.person("hold", reason=EVIL)
    page, first = board(), opened(team, open_page, EVIL)
    for at in (first, page):
        assert at.locator("img, main script, main i, main b img, main u").count() == 0
        assert at.evaluate("window.hit") is None
    assert first.locator("h1").inner_text() == EVIL
    assert first.locator("pre.body").text_content() == EVIL
    kept = page.locator("tbody#hold tr[data-task]")
    assert EVIL in kept.inner_text()
    assert EVIL in page.locator(".held-back").inner_text()
    kept.locator("summary").click()
    kept.get_by_role("link", name="End the hold").click()
    page.wait_for_selector("#asking[open] form")
    assert EVIL in page.locator("#asking").inner_text()
    assert page.locator("#asking img").count() == 0


def test_no_page_of_a_task_mentions_a_session(team: Team, open_page: Open) -> None:
    whole(team)
    html = opened(team, open_page, "T-1", **STILL).content()
    assert not [secret for secret in team.sessions.values() if secret in html]


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_wrong_with_it(
    team: Team, open_page: Open, size: str, scheme: str
) -> None:
    whole(team)
    team.fails("F-1")
    how: dict[str, Any] = {"viewport": SIZES[size], "color_scheme": scheme}
    for task in ("T-1", "N-2", "F-1"):
        assert violations(opened(team, open_page, task, **how)) == []


@pytest.mark.long
@pytest.mark.parametrize("width", [320, 390, 1024])
def test_no_width_needs_scrolling_sideways_for_the_longest_of_all(
    team: Team, open_page: Open, board: Open, width: int
) -> None:
    long = "T-" + "x" * 198
    entry = {"task": long, "title": "t" * 200, "body": "b" * 8000, "tags": ["g" * 50], "needs": []}
    needs = ["n" * 200, "m" * 200]
    team.write(entry, {"task": "y" * 200, "title": "t" * 200, "needs": [long, *needs]})
    team.claim("a" * 64, long, branch="y" * 200, note="z" * 1000)
    team.waits("b" * 64, long)
    team.release("a" * 64, long, "abandoned", note="z" * 1000, pr="https://x.example/" + "p" * 400)
    team.person("hold", who="w" * 100, task=long, reason="r" * 1000)
    team.person("hold", who="w" * 100, reason="r" * 1000)
    pages = [opened(team, open_page, long), opened(team, open_page, "y" * 200), board()]
    for page in pages:
        page.set_viewport_size({"width": width, "height": 800})
        for summary in page.locator("tr summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_keyboard_opens_it(team: Team, board: Open) -> None:
    team.write("T-1", "T-2")
    page = board()
    live(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("o")
    page.wait_for_url("**/t/T-2")
    assert page.locator("h1").inner_text() == "T-2"
