"""A repository with dibs in it, and its service, for the real Claude Code.

Opt-in: DIBS_CLAUDE names the `claude` program, which `make test-claude` installs.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.claude.claude_code import CLAUDE
from tests.client.conftest import CLIENT, Sandbox
from tests.harness.services import ServiceProcess, running

ADMIN = "admin-key-of-these-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests if the program is missing."""
    here = Path(__file__).parent
    for item in items:
        if not CLAUDE and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="opt-in: make test-claude"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start the real service with an in-memory store."""
    env = {"DIBS_ADMIN_KEY": ADMIN, "DIBS_MIN_TTL": "1s", "DIBS_GRACE": "1s"}
    rates = {"DIBS_RATE_PER_SESSION": "0", "DIBS_RATE_PER_PROJECT": "0"}
    with running(tmp_path_factory.mktemp("service"), "--memory", env=env | rates) as one:
        yield one


def with_dibs(folder: Path, service: ServiceProcess, **env: str) -> Sandbox:
    """Return a machine with a repository in which `dibs init` has run."""
    box = Sandbox(folder, service.url, **env)
    box.dibs("init").said(0)
    box.script = box.repo / ".claude/skills/dibs/dibs"
    client = box.script.with_suffix(".py")
    assert client.read_text() != CLIENT.read_text()  # init wrote the service's URL into it
    return box


@pytest.fixture
def repo(service: ServiceProcess, tmp_path: Path) -> Iterator[Sandbox]:
    """Yield a repository with dibs in it, where edits need a claim."""
    box = with_dibs(tmp_path / "vm", service, DIBS_GATE="block")
    yield box
    box.stop()
