"""The board shows sessions' texts as text, only with the key, and loads nothing from elsewhere."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page
from tests.board.conftest import Team, live, row, settles, tasks
from tests.harness.processes import until
from tests.harness.services import Running

from dibs.board import rows, summary
from dibs.model import Claim, Event, Fence, Holder, Previous, Project, Task, Waiter
from dibs.store.board_tasks import BoardTask

Open = Callable[..., Page]
TEAM_KEY = "a-team-key-for-these-tests"
EVIL = "<img src=x onerror=boom()>\"'><script>boom()</script>{{7*7}}&lt;b&gt;"


@pytest.mark.long
def test_markup_in_any_field_is_text_at_first_paint_and_live(team: Team, board: Open) -> None:
    page = board()
    page.evaluate("void (window.boom = () => { window.hit = true; })")
    wish = {"branch": EVIL, "note": EVIL, "url": "https://x.example/<i>\"'"}
    team.claim("ann", EVIL, **wish)
    team.claim("ann", "other " + EVIL, **wish)
    team.park("ann", EVIL, EVIL)
    team.waits("bob", EVIL)
    team.release("ann", "other " + EVIL, "done", note=EVIL, pr="https://x.example/<i>\"'")
    settles(lambda: tasks(page, "parked") == [EVIL], "the parked claim is shown")
    settles(lambda: tasks(page, "done") == ["other " + EVIL], "the finished one is shown")
    for again in (False, True):
        if again:
            page.reload()
            live(page)
        assert page.evaluate("window.hit") is None
        assert page.locator("img, main script, main i, main u").count() == 0
        shown = page.locator("tbody#parked .task").inner_text()
        assert EVIL in shown
        assert EVIL in page.locator("tbody#parked .note").inner_text()
        assert EVIL in page.locator("#recent").inner_text()
    row_ = page.locator("tbody#parked tr[data-task]")
    row_.locator("summary").click()
    row_.locator("a.act").first.click()
    page.wait_for_selector("#asking[open] form")
    assert EVIL in page.locator("#asking").inner_text()
    assert page.locator("#asking img").count() == 0


def test_markup_in_a_url_of_the_board_is_text(team: Team, board: Open) -> None:
    page = board("?q=%3Cscript%3Eboom()%3C/script%3E&holder=%22%3E%3Cimg+src=x%3E")
    assert page.input_value("#q") == "<script>boom()</script>"
    assert page.locator("main img, main script").count() == 0


def painted(claim: Claim) -> str:
    row = rows.row(BoardTask(claim))
    assert row
    return rows.paint(rows.render(row), 0)


def a_claim(**fields: object) -> Claim:
    now = datetime.now(UTC)
    holder = Holder("0123456789", "ann", None, "javascript:boom()")
    given = {
        "project": Project("p"),
        "task": Task("T-1"),
        "state": "done",
        "fence": Fence(1),
        "holder": holder,
        "mine": False,
        "ttl": 60,
        "expires_in": 1,
        "expires_at": now,
        "acquired_at": now,
        "heartbeat_at": now,
        "stale": False,
        "note": None,
        "pr": "javascript:boom()",
        "ended_at": now,
        "waiters": 0,
        "queue": (),
        "grants": 1,
        "lapses": 0,
        "flag": None,
        "previous": None,
        "attempt": 1,
    }
    return Claim(**(given | fields))  # type: ignore[arg-type]


def test_an_address_that_is_no_web_address_becomes_no_link_even_from_old_data() -> None:
    html = painted(a_claim())
    assert "javascript:" not in html
    assert 'target="_blank"' not in html
    event = Event(
        id="0-0-0",
        type="done",
        task=Task("T"),
        at=datetime.now(UTC),
        fence=1,
        holder=None,
        pr="data:text/html,x",
    )
    assert 'target="_blank"' not in "".join(summary.happening(Project("p"), event))


def test_the_character_that_marks_clocks_cannot_be_smuggled_in() -> None:
    now = datetime.now(UTC)
    evil = "\0left 1\0"
    claim = a_claim(
        state="held",
        task=Task(evil),
        note=evil,
        holder=Holder(evil, evil, evil),
        queue=(Waiter(evil, evil, now),),
        waiters=1,
        previous=Previous("lapsed", Holder(evil), evil, now),
    )
    html = painted(claim)
    assert html.count("left 1") >= 5


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/p/a.b", "/p/a.b/break?task=T&fence=1", "/p/-bad"),
        *("/p/a.b/hold", "/p/a.b/t/T-1", "/p/a.b/other"),
    ],
)
def test_every_page_forbids_what_is_not_its_own(service: Running, path: str) -> None:
    _, text, headers = service.ask("GET", path)
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert " style=" not in text
    assert " onclick=" not in text


def test_assets_are_kept_by_browsers_and_change_their_address_with_their_content(
    service: Running,
) -> None:
    _, text, _ = service.ask("GET", "/p/a.b")
    address = text.split('href="/board/board.css?')[1].split('"')[0]
    status, _, headers = service.ask("GET", f"/board/board.css?{address}")
    assert status == 200
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"] == "text/css; charset=utf-8"
    assert service.ask("GET", "/board/..%2Fviews.py")[0] == 404


@pytest.mark.long
def test_with_a_team_key_the_browsers_own_prompt_is_enough(open_page: Open) -> None:
    with Running("--memory", env={"DIBS_TEAM_KEY": TEAM_KEY}) as service:
        team = Team(service)
        path = f"/p/{team.project}"
        status, text, headers = service.ask("GET", path)
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic ")
        assert "The password is the team key" in text
        page = open_page(
            service.url + path, http_credentials={"username": "lea", "password": TEAM_KEY}
        )
        live(page)
        key = base64.b64encode(f"x:{TEAM_KEY}".encode()).decode()
        status, _, _ = service.ask(
            "POST",
            f"/v1/{team.project}/claim",
            {"task": "T-1"},
            team.session("ann"),
            Authorization=f"Basic {key}",
        )
        assert status == 201
        row(page, "T-1").wait_for(timeout=5_000)
        page.close()
        service.stop()


@pytest.mark.long
def test_without_the_team_key_a_person_gets_a_page_and_its_style(service: Running) -> None:
    with Running("--memory", env={"DIBS_TEAM_KEY": TEAM_KEY}) as keyed:
        status, text, headers = keyed.ask("GET", "/")
        assert status == 401
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "The team key is missing or wrong" in text
        style = text.split('rel="stylesheet" href="')[1].split('"')[0]
        assert keyed.ask("GET", style)[0] == 200
        assert keyed.ask("GET", "/p/a.b/stream")[0] == 401
        keyed.stop()


def test_an_open_board_is_a_stream_and_not_a_slow_request(team: Team, board: Open) -> None:
    count = 'dibs_request_seconds_count{route="board"}'
    page = board()
    before = team.service.metrics()[count]
    until(lambda: team.service.metrics()["dibs_streams"] >= 1, "the open board is counted")
    page.close()
    until(lambda: team.service.metrics()["dibs_streams"] == 0, "the closed board is not counted")
    assert team.service.metrics()[count] == before
