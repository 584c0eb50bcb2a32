"""The board follows changes, and says so when it cannot."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.board.conftest import ADMIN_KEY, Team, live, row, settles, tasks
from tests.harness import processes
from tests.harness.processes import until
from tests.harness.services import Running

from dibs.board.relative_time import span

Open = Callable[..., Page]
CLIENT = Path(__file__).parents[2] / "client" / "dibs.py"


def client(team: Team, *arguments: str) -> str:
    """Run the client in a separate process."""
    env = {"DIBS_URL": team.service.url, "DIBS_PROJECT": team.project, "HOME": os.environ["HOME"]}
    env |= {"DIBS_SESSION": team.session("clara"), "DIBS_LABEL": "clara"}
    command = [sys.executable, str(CLIENT), *arguments]
    done = processes.run(command, env=env, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_claim_by_the_client_in_another_process_appears_by_itself(
    team: Team, board: Open
) -> None:
    page = board()
    client(team, "claim", "T-12", "--note", "tests first")
    row(page, "T-12").wait_for(timeout=5_000)
    text = row(page, "T-12").inner_text()
    assert "clara" in text
    assert "tests first" in text
    assert page.locator("#say").inner_text() == "clara claimed T-12."
    client(team, "done", "T-12", "--pr", "https://github.com/acme/shop/pull/7")
    settles(lambda: tasks(page, "done") == ["T-12"], "the task is among the finished ones")
    assert "acme/shop#7" in row(page, "T-12").inner_text()
    assert "clara finished T-12" in page.locator("#recent").inner_text()


def test_a_row_stays_the_same_element_with_its_details_and_the_focus(
    team: Team, board: Open
) -> None:
    team.claim("ann", "T-12")
    page = board()
    summary = row(page, "T-12").locator("summary")
    summary.click()
    summary.focus()
    page.evaluate("document.querySelector('tr[data-task]').mine = true")
    team.park("ann", "T-12", "Which currency?")
    settles(lambda: tasks(page, "parked") == ["T-12"], "the row is among those that wait")
    assert page.evaluate("document.querySelector('tr[data-task]').mine") is True
    assert row(page, "T-12").locator("details").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.matches('tr[data-task] summary')")


def test_rows_that_did_not_change_are_not_touched(team: Team, board: Open) -> None:
    team.claim("ann", "T-1", ttl="2h")
    page = board()
    page.evaluate("""() => {
        window.touched = 0;
        const watch = new MutationObserver((list) => { window.touched += list.length; });
        const row = document.querySelector('tr[data-task="T-1"]');
        watch.observe(row, { subtree: true, childList: true, attributes: true });
    }""")
    team.claim("bob", "T-2")
    row(page, "T-2").wait_for(timeout=5_000)
    touched = page.evaluate("window.touched")
    assert touched <= 3, "only the clock of the row may tick"


def test_the_focus_goes_to_the_next_claim_when_its_own_is_gone(team: Team, board: Open) -> None:
    team.write("T-1", "T-2")
    page = board()
    page.keyboard.press("j")
    team.write({"task": "T-1", "drop": True})
    settles(lambda: tasks(page) == ["T-2"], "the dropped task is gone")
    assert page.evaluate("document.activeElement.dataset.task") == "T-2"


def test_clocks_tick_from_the_time_of_the_service(team: Team, board: Open) -> None:
    team.claim("ann", "T-12", ttl="90s")
    page = board()
    left = row(page, "T-12").locator("[data-left]")
    first = left.inner_text()
    settles(lambda: left.inner_text() != first, "the clock ticks")
    assert left.inner_text().startswith("1 min ")


def test_a_wrong_clock_of_the_viewer_changes_nothing(team: Team, board: Open) -> None:
    team.claim("ann", "T-12", ttl="90s")
    page = board(first="const now = Date.now; Date.now = () => now() + 3600000")
    left = row(page, "T-12").locator("[data-left]")
    first = left.inner_text()
    settles(lambda: left.inner_text() != first, "the clock ticks")
    assert left.inner_text().startswith("1 min ")


@pytest.mark.parametrize("fine", [False, True])
def test_the_browser_writes_spans_as_the_service_does(
    team: Team, board: Open, *, fine: bool
) -> None:
    page = board()
    values = [-5, 0, 999, 1000, 59_999, 60_000, 299_999, 300_000, 3_599_999, 3_600_000]
    values += [172_799_999, 172_800_000, 10**10]
    told = page.evaluate("([values, fine]) => values.map((ms) => span(ms, fine))", [values, fine])
    assert told == [span(value, fine=fine) for value in values]


@pytest.mark.long
def test_a_heartbeat_moves_the_deadline_though_it_is_no_event(team: Team, board: Open) -> None:
    team.claim("ann", "T-12", ttl="1h")
    page = board()
    assert "59 min" in row(page, "T-12").inner_text()
    team.call("heartbeat", "ann", "T-12", ttl="3h")
    left = row(page, "T-12").locator("[data-left]")
    until(lambda: left.inner_text().startswith("2 h"), "the new deadline is shown")


def test_the_title_and_the_icon_show_when_somebody_is_needed(team: Team, board: Open) -> None:
    team.claim("ann", "T-12")
    page = board()
    assert page.title() == f"{team.project} · dibs"
    assert "/icon.svg" in (page.locator("link[rel=icon]").get_attribute("href") or "")
    team.park("ann", "T-12")
    settles(lambda: page.title() == f"(1) {team.project} · dibs", "the title counts it")
    assert "/icon-alert.svg" in (page.locator("link[rel=icon]").get_attribute("href") or "")
    assert page.locator(".headline").inner_text() == "1 waits for a person."


def test_notifications_are_shown_to_who_asked_and_about_what_needs_somebody(
    team: Team, board: Open
) -> None:
    team.claim("ann", "T-1")
    page = board(permissions=["notifications"])
    page.evaluate("""() => {
        window.shown = [];
        const asked = Notification;
        window.Notification = class {
            static permission = "granted";
            static requestPermission = () => asked.requestPermission();
            constructor(title, { body }) { window.shown.push(`${title} / ${body}`); }
        };
    }""")
    team.claim("bob", "T-2")
    team.park("bob", "T-2", "unheard")
    settles(lambda: tasks(page, "parked") == ["T-2"], "the board shows the parked claim")
    assert page.evaluate("window.shown") == []
    page.click("#notify summary")
    page.check("#notify-on")
    page.fill("#notify-queue", "1")
    team.park("ann", "T-1", "Which currency?")
    for who in ("cat", "dan"):
        team.waits(who, "T-1")
    settles(lambda: len(page.evaluate("window.shown")) == 2, "two notifications are shown")
    assert page.evaluate("window.shown") == [
        "ann parked T-1 / Which currency?",
        "dan waits for T-1 / 2 wait for it.",
    ]


# Makes the board's first stream resume at an unknown event, so that the service tells the page to
# reload. The reload waits until the test releases it, while changes keep arriving.
HELD_BACK = """
window.heard = "";
const streams = EventSource, fetched = fetch;
window.EventSource = class extends streams {
    constructor(url) {
        super(url.replace(/after=.*/, "after=0badf00d.1"));
        this.addEventListener("patch", ({ data }) => { window.heard += data; });
    }
};
window.fetch = async (...what) => {
    const answer = await fetched(...what);
    const text = await answer.text();
    await new Promise((resolve) => { window.letGo = resolve; });
    return new Response(text);
};
"""


def test_a_page_that_is_read_again_does_not_undo_a_change_that_came_meanwhile(
    team: Team, open_page: Open
) -> None:
    team.claim("ann", "T-1")
    page = open_page(f"{team.service.url}/p/{team.project}", first=HELD_BACK)
    settles(lambda: page.evaluate("'letGo' in window"), "the page is being read again")
    team.release("ann", "T-1", "done")
    team.claim("bob", "T-2")
    settles(lambda: page.evaluate("window.heard.includes('T-2')"), "the changes have come")
    page.evaluate("window.letGo()")
    live(page)
    settles(lambda: tasks(page) == ["T-2", "T-1"], "the board shows the change")
    assert tasks(page, "done") == ["T-1"]


@pytest.mark.long
def test_after_a_restart_the_board_goes_on_without_a_gap(tmp_path: Path, open_page: Open) -> None:
    flags = ("--data-dir", str(tmp_path / "data"))
    with Running(*flags, env={"DIBS_ADMIN_KEY": ADMIN_KEY}) as first:
        team = Team(first)
        team.claim("ann", "T-1")
        team.claim("bob", "T-2")
        page = open_page(f"{first.url}/p/{team.project}", expect_errors=True)
        live(page)
        took_s = first.stop()
        assert took_s < 3, "an open board must not delay a stop"
        page.wait_for_selector("#link[data-state=reconnecting]", timeout=10_000)
        assert "Reconnecting. The data is" in page.locator("#link").inner_text()
        port = first.port
    with Running(*flags, port=port) as second:
        team.service = second
        team.release("ann", "T-1", "done")
        team.claim("cat", "T-3")
        live(page)
        settles(lambda: tasks(page) == ["T-2", "T-3", "T-1"], "the board shows what it missed")
        assert "cat claimed T-3" in page.locator("#recent").inner_text()
        team.claim("dan", "T-4")
        row(page, "T-4").wait_for(timeout=5_000)
        page.close()
        second.stop()


@pytest.mark.long
def test_while_the_store_is_away_the_board_says_that_its_data_is_stale(
    tmp_path: Path, open_page: Open
) -> None:
    with Running("--data-dir", str(tmp_path / "data")) as service:
        team = Team(service)
        team.claim("ann", "T-1", ttl="90s")
        url = f"{service.url}/p/{team.project}"
        page = open_page(url)
        live(page)
        os.kill(service.store(), signal.SIGSTOP)
        try:
            page.wait_for_selector("#link[data-state=stale]", timeout=25_000)
            assert "The store is down. The data is" in page.locator("#link").inner_text()
            other = open_page(url, expect_errors=True)
            assert "The store cannot answer" in other.locator("h1").inner_text()
        finally:
            os.kill(service.store(), signal.SIGCONT)
        live(page)
        other.wait_for_selector("tr[data-task]", timeout=15_000)
        page.close()
        service.stop()
