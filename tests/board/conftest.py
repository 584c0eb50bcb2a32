"""A real service, a real Chromium, and the actions of people and sessions on a board."""

import base64
import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.harness.needs import lacking
from tests.harness.processes import until
from tests.harness.services import Running, new_session

ADMIN_KEY = "an-admin-key-for-tests"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Features that take a tenth of the work; no page of the board uses any of them.
    *("--in-process-gpu", "--renderer-process-limit=1", "--disable-extensions", "--mute-audio"),
    "--disable-features=Translate,OptimizationHints,MediaRouter",
)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium with a new profile."""
    path = shutil.which("chromium")
    if not path:
        lacking("no chromium on the PATH (Debian's package chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        chromium.new_page().close()  # this starts all browser processes within the fixture
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start a service with a private store, an admin key, and no rate limits: test speed varies."""
    folder = str(tmp_path_factory.mktemp("board"))
    rates = {f"DIBS_RATE_PER_{whose}": "0" for whose in ("SESSION", "PROJECT")}
    env = {"DIBS_ADMIN_KEY": ADMIN_KEY, "DIBS_READS_PER_PROJECT": "0", **rates}
    with Running("--data-dir", folder, env=env) as running:
        yield running
        running.stop()


class Team:
    """The sessions of one project, by their labels."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.project = f"team.{next(_numbers)}"
        self.sessions: dict[str, str] = {}

    def session(self, who: str) -> str:
        """Return the session secret of `who`."""
        return self.sessions.setdefault(who, new_session())

    def call(self, act: str, who: str, task: str, **body: Any) -> tuple[int, Any]:
        """POST as `who`; return the status and the answer."""
        path = f"/v1/{self.project}/{act}"
        status, answer, _ = self.service.ask(
            "POST", path, {"task": task, **body}, self.session(who)
        )
        return status, answer

    def claim(self, who: str, task: str, **wish: Any) -> Any:
        """Claim as `who` and assert that the claim is granted."""
        status, claim = self.call("claim", who, task, **{"label": who, **wish})
        assert status in (200, 201), claim
        return claim

    def waits(self, who: str, task: str) -> None:
        """Queue for a task that another session holds."""
        status, _ = self.call("claim", who, task, label=who, queue=True)
        assert status == 409

    def park(self, who: str, task: str, note: str = "") -> None:
        """Park the claim of `who`."""
        assert self.call("heartbeat", who, task, state="parked", note=note)[0] == 200

    def release(self, who: str, task: str, outcome: str = "done", **more: Any) -> None:
        """Release the claim of `who`."""
        assert self.call("release", who, task, outcome=outcome, **more)[0] == 200

    def write(self, *entries: dict[str, Any] | str) -> None:
        """Add these tasks to the list."""
        tasks = [{"task": entry} if isinstance(entry, str) else entry for entry in entries]
        path = f"/v1/{self.project}/tasks"
        status, answer, _ = self.service.ask("POST", path, {"tasks": tasks}, self.session("lead"))
        assert status == 200, answer

    def review(self, who: str, task: str, pr: str, **more: Any) -> None:
        """Open a pull request for a claim of `who`."""
        assert self.call("heartbeat", who, task, state="review", pr=pr, **more)[0] == 200

    def person(self, act: str, who: str = "lea", **body: Any) -> Any:
        """Make a call of a person, as `who`."""
        login = base64.b64encode(f"{who}:{ADMIN_KEY}".encode()).decode()
        path = f"/v1/{self.project}/{act}"
        status, answer, _ = self.service.ask("POST", path, body, Authorization=f"Basic {login}")
        assert status == 200, answer
        return answer

    def fails(self, task: str, times: int = 5, note: str = "") -> None:
        """Claim and abandon a task `times` times."""
        for number in range(times):
            self.claim(f"run-{number}", task, branch=f"run/{number}")
            self.release(f"run-{number}", task, "abandoned", note=note)

    def many(self, number: int, first: int = 0, **wish: Any) -> None:
        """Claim `number` tasks, T-0000 onwards, 25 per request: time and name give one order."""
        for start in range(first, first + number, 25):
            names = [f"T-{n:04}" for n in range(start, min(start + 25, first + number))]
            body = {"all_of": names, "label": f"s{start:04}", "ttl": "2h", **wish}
            path = f"/v1/{self.project}/claim"
            status, answer, _ = self.service.ask("POST", path, body, self.session(f"s{start:04}"))
            assert status == 201, answer

    def busy(self) -> None:
        """Make a claim in every state except lapsed."""
        self.claim("ann", "T-12", ttl="2h", branch="ann/t-12", url="https://example.org/ann")
        self.claim("bob", "T-15", note="Retries with backoff.")
        self.claim("cat", "T-18")
        self.park("cat", "T-18", "Which currency?")
        self.waits("bob", "T-12")
        self.claim("dan", "T-3")
        self.release("dan", "T-3", pr="https://github.com/acme/shop/pull/41", note="Rounded.")


@pytest.fixture
def team(service: Running) -> Team:
    """Return a project that only this test uses."""
    return Team(service)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages as different people would; at the end assert that all pages behaved.

    No console error, no violation of the content security policy, no request to another host.
    """
    contexts, wrong = [], []

    def opened(url: str, *, expect_errors: bool = False, first: str = "", **how: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
        context.set_default_timeout(8_000)
        contexts.append(context)
        page = context.new_page()
        if first:
            page.add_init_script(first)
        home = urlsplit(url).netloc

        def heard(message: Any) -> None:
            if (
                message.type == "error" and not expect_errors
            ) or "Content Security" in message.text:
                wrong.append(f"console: {message.text}")

        def asked(request: Any) -> None:
            if urlsplit(request.url).netloc != home:
                wrong.append(f"a request elsewhere: {request.url}")

        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        context.on("request", asked)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def board(team: Team, open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open the board of this test's project and wait until it is live (unless scripts are off)."""

    def opened(query: str = "", **how: Any) -> Page:
        page = open_page(f"{team.service.url}/p/{team.project}{query}", **how)
        if how.get("java_script_enabled", True):
            live(page)
        return page

    return opened


def live(page: Page) -> None:
    """Wait until the board shows that it is live."""
    page.wait_for_selector("#link[data-state=live]", timeout=15_000)


def row(page: Page, task: str) -> Any:
    """Return the row of a task."""
    return page.locator(f'tr[data-task="{task}"]')


def tasks(page: Page, section: str = "") -> list[str]:
    """Return the visible tasks from top to bottom."""
    rows = page.locator(f"tbody{'#' + section if section else ''} tr[data-task]")
    shown: list[str] = rows.evaluate_all(
        "(rows) => rows.filter((row) => row.checkVisibility()).map((row) => row.dataset.task)"
    )
    return shown


def settles(met: Callable[[], Any], what: str) -> Any:
    """Wait for the effect of a change."""
    return until(met, what, within_s=5, every_s=0.05)
