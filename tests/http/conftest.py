"""A real service with a private store, and a client that calls it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.harness.services import ServiceProcess, new_session, running

ADMIN = "admin-key-for-these-tests"


class Caller:
    """A session at a service; each method sends the request of an equivalent curl line."""

    def __init__(self, url: str, project: str, **headers: str) -> None:
        self.session = new_session()
        self.project = project
        # No TLS: reading the certificate authorities takes longer than a test.
        self.http = httpx.Client(
            base_url=url,
            headers={"Dibs-Session": self.session, **headers},
            timeout=30,
            verify=False,
        )

    def post(self, call: str, **fields: Any) -> httpx.Response:
        """POST a JSON body."""
        return self.http.post(f"/v1/{self.project}/{call}", json=fields)

    def form(self, call: str, **fields: Any) -> httpx.Response:
        """POST a form, as `curl -d` does."""
        return self.http.post(f"/v1/{self.project}/{call}", data=fields)

    def get(self, path: str, **query: Any) -> httpx.Response:
        """GET something of the project."""
        return self.http.get(f"/v1/{self.project}/{path}", params=query)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Start one service for all tests here; each test has its own project."""
    env = {
        "DIBS_ADMIN_KEY": ADMIN,
        "DIBS_RATE_PER_SESSION": "0",
        "DIBS_RATE_PER_PROJECT": "0",
    }
    with running(tmp_path_factory.mktemp("service"), env=env) as service:
        yield service


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """Return a project that no other test uses."""
    return f"http.{abs(hash(request.node.nodeid))}"


@pytest.fixture
def ann(service: ServiceProcess, project: str) -> Iterator[Caller]:
    """Yield a session."""
    caller = Caller(service.url, project)
    yield caller
    caller.http.close()


@pytest.fixture
def bob(service: ServiceProcess, project: str) -> Iterator[Caller]:
    """Yield another session in the same project."""
    caller = Caller(service.url, project)
    yield caller
    caller.http.close()
