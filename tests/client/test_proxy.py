"""Behind the sandbox's proxy: TLS with its CA, and refusals distinguished from outages."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.conftest import KEY, Make, Sandbox
from tests.client.sandboxproxy import SandboxProxy, sandbox_proxy
from tests.harness.services import ServiceProcess

URL = "https://dibs.test"


@pytest.fixture
def proxy(service: ServiceProcess, tmp_path: Path) -> Iterator[SandboxProxy]:
    """Start a sandbox's proxy in front of the service."""
    with sandbox_proxy(tmp_path, service.port) as made:
        yield made


@pytest.fixture
def cloud(sandbox: Make, proxy: SandboxProxy) -> Sandbox:
    """Return a sandbox that reaches the network only through the proxy."""
    return sandbox(
        URL,
        HTTPS_PROXY=proxy.url,
        SSL_CERT_FILE=str(proxy.ca_file),
        NO_PROXY="localhost,10.0.0.0/8",
    )


def test_a_claim_goes_through_the_proxy(cloud: Sandbox, proxy: SandboxProxy) -> None:
    cloud.dibs("claim", "T-1").said(0)
    cloud.dibs("list").said(0)
    assert proxy.connects[0].startswith("CONNECT dibs.test:443 HTTP/1.1\r\n")
    assert all(agent.startswith("dibs/") for agent in proxy.header("User-Agent"))


@pytest.mark.parametrize(
    "variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"]
)
def test_the_ca_is_found_where_a_sandbox_names_it(
    cloud: Sandbox, proxy: SandboxProxy, variable: str
) -> None:
    cloud.env.pop("SSL_CERT_FILE", None)
    cloud.env[variable] = str(proxy.ca_file)
    cloud.dibs("claim", "T-1").said(0)


def test_the_ca_is_found_in_the_home_of_a_cloud_session(
    cloud: Sandbox, proxy: SandboxProxy
) -> None:
    bundle = cloud.home / ".ccr/ca-bundle.crt"
    bundle.parent.mkdir()
    bundle.write_bytes(proxy.ca_file.read_bytes())
    cloud.dibs("claim", "T-1", SSL_CERT_FILE=None).said(0)


def test_a_ca_that_nobody_trusts_is_named_and_not_asked_again(
    cloud: Sandbox, proxy: SandboxProxy
) -> None:
    answer = cloud.dibs("claim", "T-1", SSL_CERT_FILE=None).said(3)
    assert "SSL_CERT_FILE" in answer.stderr
    assert len(proxy.connects) == 1
    assert proxy.requests == []


@pytest.mark.parametrize("mode", ["deny-connect", "deny-inside"])
def test_a_refusal_by_policy_prints_the_line_to_add_and_is_not_asked_again(
    cloud: Sandbox, proxy: SandboxProxy, mode: str
) -> None:
    proxy.mode = mode
    answer = cloud.dibs("claim", "T-1").said(3)
    assert "host_not_allowed" in answer.stderr
    assert answer.stderr.rstrip().endswith(": dibs.test")
    assert len(proxy.connects) == 1
    doctor = cloud.dibs("doctor").said(3)
    assert "WRONG  the network policy" in doctor.stdout


@pytest.mark.parametrize("mode", ["reset", "bad-gateway"])
def test_a_broken_proxy_is_unknown_after_three_attempts(
    cloud: Sandbox, proxy: SandboxProxy, mode: str
) -> None:
    proxy.mode = mode
    answer = cloud.dibs("claim", "T-1").said(3)
    assert "dibs.test was not reached" in answer.stderr
    assert len(proxy.connects) == 3


@pytest.mark.long
def test_a_hanging_proxy_is_given_up(cloud: Sandbox, proxy: SandboxProxy) -> None:
    proxy.mode = "hang"
    begun = time.monotonic()
    assert "not reached" in cloud.dibs("claim", "T-1").said(3).stderr
    assert time.monotonic() - begun < 20


def test_a_lost_reply_costs_nothing(cloud: Sandbox, proxy: SandboxProxy) -> None:
    proxy.mode, proxy.cuts = "lose-replies", 2
    claim = cloud.dibs("claim", "T-1", "--json").said(0).json
    assert claim["grants"] == 1
    keys = proxy.header("Idempotency-Key")
    assert (len(keys), len(set(keys))) == (3, 1)


def test_a_proxy_on_a_new_port_is_used_at_once(
    cloud: Sandbox, proxy: SandboxProxy, service: ServiceProcess, tmp_path: Path
) -> None:
    cloud.dibs("claim", "T-1").said(0)
    proxy.close()
    (tmp_path / "new").mkdir()
    with sandbox_proxy(tmp_path / "new", service.port) as moved:
        env = {"HTTPS_PROXY": moved.url, "SSL_CERT_FILE": str(moved.ca_file)}
        cloud.dibs("beat", **env).said(0)


def test_a_proxy_that_wants_a_password_gets_it_and_nobody_else_sees_it(
    cloud: Sandbox, proxy: SandboxProxy
) -> None:
    with_password = proxy.url.replace("http://", "http://box:secret-token@")
    cloud.dibs("claim", "T-1", HTTPS_PROXY=with_password).said(0)
    assert "Proxy-Authorization: Basic Ym94OnNlY3JldC10b2tlbg==" in proxy.connects[0]
    assert "Proxy-Authorization" not in proxy.requests[0].decode()
    assert "secret-token" not in cloud.dibs("doctor", HTTPS_PROXY=with_password).stdout


def test_no_key_means_no_authorization_so_that_the_proxy_can_add_one(
    cloud: Sandbox, proxy: SandboxProxy
) -> None:
    cloud.dibs("claim", "T-1").said(0)
    assert proxy.header("Authorization") == []
    cloud.dibs("beat", DIBS_KEY=KEY)
    assert proxy.header("Authorization") == ["Bearer " + KEY]


def test_the_session_travels_in_its_header_only(cloud: Sandbox, proxy: SandboxProxy) -> None:
    cloud.dibs("claim", "T-1").said(0)
    cloud.dibs("show", "T-1").said(0)
    secret = proxy.header("Dibs-Session")[0]
    for request in proxy.requests:
        assert request.decode().count(secret) == 1


def test_a_service_on_loopback_is_asked_without_the_proxy(
    service: ServiceProcess, cloud: Sandbox, proxy: SandboxProxy
) -> None:
    cloud.dibs("claim", "T-1", DIBS_URL=service.url).said(0)
    assert proxy.connects == []


def test_no_proxy_is_believed(cloud: Sandbox, proxy: SandboxProxy) -> None:
    for direct in ("dibs.test", ".test", "*.test", "*", "x.org, test"):
        cloud.dibs("claim", "T-1", NO_PROXY=direct, DIBS_URL="https://dibs.test:1").said(3)
    assert proxy.connects == []
