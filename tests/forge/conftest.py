"""A real service that a forge may call, and its sessions."""

from collections.abc import Callable, Iterator

import pytest
from tests.forge.told import OLD_SECRET, SECRET
from tests.harness.services import ServiceProcess, running
from tests.http.conftest import Caller

TEAM, CI = "team-key-for-the-forge-tests", "ci-key-for-the-forge-tests"
ADMIN = "admin-key-for-the-forge-tests"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start one service for all tests here; each test has its own repository."""
    env = {
        "DIBS_TEAM_KEY": TEAM,
        "DIBS_CI_KEY": CI,
        "DIBS_ADMIN_KEY": ADMIN,
        "DIBS_GITHUB_SECRET": f"{OLD_SECRET},{SECRET}",
        "DIBS_GITHUB_LABEL": "agents",
        "DIBS_GITHUB_PROJECTS": "Forge/Named=chosen.name",
        "DIBS_PROJECTS": "forge.*,git--corp--org.forge.*,chosen.name",
        "DIBS_RATE_PER_SESSION": "0",
        "DIBS_RATE_PER_PROJECT": "0",
        "DIBS_GRACE": "0s",
    }
    with running(tmp_path_factory.mktemp("forge"), env=env) as service:
        yield service


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """Return a repository that no other test uses."""
    return f"forge/t{abs(hash(request.node.nodeid))}"


@pytest.fixture
def project(repository: str) -> str:
    """Return the repository's project."""
    return repository.replace("/", ".")


@pytest.fixture
def session(service: ServiceProcess, project: str) -> Iterator[Callable[[], Caller]]:
    """Yield a maker of sessions in that project."""
    made: list[Caller] = []

    def one() -> Caller:
        made.append(Caller(service.url, project, Authorization=f"Bearer {TEAM}"))
        return made[-1]

    yield one
    for caller in made:
        caller.http.close()


@pytest.fixture
def ann(session: Callable[[], Caller]) -> Caller:
    """Return a session."""
    return session()


@pytest.fixture
def bob(session: Callable[[], Caller]) -> Caller:
    """Return another session."""
    return session()
