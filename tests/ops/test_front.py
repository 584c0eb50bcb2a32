"""Programs in front of dibs: docs/ops has a configuration for each, and the real program reads it
here.

`.ci/run` installs them; elsewhere a test names the program that is missing.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tests.harness import processes
from tests.harness.needs import lacking
from tests.harness.processes import clean_environ, until
from tests.harness.services import Running, new_session
from tests.http.test_upgrade import java_walks

OPS = Path(__file__).parents[2] / "docs/ops"
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def tool(name: str, package: str) -> str:
    """Return the path of a program; if it is missing, fail in CI and skip elsewhere."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not path:
        lacking(f"no {name} on the PATH (Debian's package {package})")
    return path


def reads(command: list[str], folder: Path) -> None:
    """Run a program that checks a file."""
    env = os.environ | {"HOME": str(folder)}
    run = processes.run(command, env=env, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = (OPS / "dibs.service").read_text().replace("/opt/dibs/bin/dibs", "/bin/true")
    (tmp_path / "dibs.service").write_text(unit)
    reads(
        [tool("systemd-analyze", "systemd"), "verify", str(tmp_path / "dibs.service")],
        tmp_path,
    )


def test_prometheus_reads_the_alerts(tmp_path: Path) -> None:
    alerts = OPS / "alerts.yaml"
    assert yaml.safe_load(alerts.read_text())
    reads([tool("promtool", "prometheus"), "check", "rules", str(alerts)], tmp_path)


def test_caddy_reads_its_file(tmp_path: Path) -> None:
    caddy = [tool("caddy", "caddy"), "validate", "--adapter", "caddyfile"]
    reads([*caddy, "--config", str(OPS / "Caddyfile")], tmp_path)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def front(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a proxy for the length of a block."""
    with open(folder / "said", "w") as said:
        process = processes.start(
            command, env=clean_environ({"HOME": str(folder)}), stdout=said, stderr=said
        )
        try:
            until(lambda: process.poll() is not None or _listens(port), "the proxy listens")
            assert process.poll() is None, (folder / "said").read_text()
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            finally:
                process.kill()
                process.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def nginx(folder: Path, behind: int) -> Iterator[http.client.HTTPConnection]:
    """Run nginx with docs/ops/nginx.conf, except for its port, name and certificate."""
    program, port, authority = tool("nginx", "nginx-light"), free_port(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "site.pem")
    certificate.private_key_pem.write_to_path(folder / "site.key")
    site = (OPS / "nginx.conf").read_text()
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/dibs.example.com", str(folder / "site")),
    ):
        assert old in site
        site = site.replace(old, new)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user, site=site))
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    with front([program, "-c", str(folder / "nginx.conf")], port, folder):
        yield http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusted)


@contextlib.contextmanager
def caddy(folder: Path, behind: int) -> Iterator[http.client.HTTPConnection]:
    """Run Caddy with docs/ops/Caddyfile, except for its port, and without a certificate."""
    program, port = tool("caddy", "caddy"), free_port()
    site = (OPS / "Caddyfile").read_text()
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
        ("dibs.example.com", f"http://127.0.0.1:{port}"),
    ):
        assert old in site
        site = site.replace(old, new)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site)
    command = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with front(command, port, folder):
        yield http.client.HTTPConnection("127.0.0.1", port, timeout=10)


Front = Callable[[Path, int], AbstractContextManager[http.client.HTTPConnection]]


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_behind_a_proxy_claims_pass_and_events_arrive_as_they_happen(
    proxy: Front, tmp_path: Path
) -> None:
    with (
        Running("--data-dir", str(tmp_path / "data")) as service,
        proxy(tmp_path, service.port) as stream,
        contextlib.closing(stream),
    ):
        stream.request("GET", "/v1/p/events", headers={"Accept": "text/event-stream"})
        events = stream.getresponse()
        assert events.status == 200
        with contextlib.closing(type(stream)(**_again(stream))) as calls:
            for status in (201, 409):
                head = {"Dibs-Session": new_session(), "Content-Type": "application/json"}
                calls.request("POST", "/v1/p/claim", b'{"task": "T-1"}', head)
                answer = calls.getresponse()
                assert (answer.status, bool(answer.read())) == (status, True)
            calls.request("POST", "/v1/p/claim", b" " * 20_000, head)
            assert json.loads(calls.getresponse().read())["code"] == "too-large"
        # The stream is still open, so the proxy did not buffer these lines.
        lines = iter(events.readline, b"")
        assert any(line.strip() == b"event: claimed" for line in lines)
        events.close()
        service.stop()


METRICS = [
    *("/metrics", "//metrics", "/%6detrics", "/./metrics", "/x/../metrics", "/metrics?x=1"),
    *("/metrics/", "/metrics//", "/metrics%2F", "/metrics%2f", "//metrics/", "/%6Detrics/"),
    *("/metrics/.", "/metrics/x/..", "/metrics%00", "/metrics;x", "/metrics%20", "/%2Fmetrics"),
    *("/METRICS", "///metrics", "/.//metrics", "/metrics/%2e", "/%2e/metrics", "/metrics#x"),
]


@pytest.mark.long
@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_no_spelling_of_the_metrics_path_passes_from_outside(proxy: Front, tmp_path: Path) -> None:
    with (
        Running("--data-dir", str(tmp_path / "data")) as service,
        proxy(tmp_path, service.port) as inside,
    ):
        assert _get(inside, "/metrics", "127.0.0.1")[0] == 200
        for path in METRICS:
            status, body = _get(inside, path, "127.0.0.2")
            assert status in (400, 403, 404), path
            assert b"dibs_" not in body
        # The service itself serves the metrics at one path only.
        for path in METRICS:
            status, body = _get(inside, path, "127.0.0.1", service.port)
            assert (status == 200) is (path in ("/metrics", "/metrics?x=1", "/metrics#x")), path
        service.stop()


def _get(
    like: http.client.HTTPConnection, path: str, source: str, port: int | None = None
) -> tuple[int, bytes]:
    """GET a path exactly as spelled, from an address of this machine."""
    given = _again(like) | {"source_address": (source, 0)}
    connection: http.client.HTTPConnection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=10) if port else type(like)(**given)
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.long
@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_behind_a_proxy_a_task_is_what_was_named(proxy: Front, tmp_path: Path) -> None:
    with (
        Running("--data-dir", str(tmp_path / "data")) as service,
        proxy(tmp_path, service.port) as calls,
        contextlib.closing(calls),
    ):
        for task in (
            "a//b",
            "../x",
            "..",
            "a%2Fb",
            "trail/",
            "/lead",
            "%",
            "a;b",
            "é#?",
            "metrics",
        ):
            encoded = "".join(f"%{byte:02X}" for byte in task.encode())
            calls.request("GET", f"/v1/p/claims/{encoded}")
            assert json.loads(calls.getresponse().read())["task"] == task
        service.stop()


@pytest.mark.long
@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_behind_a_proxy_what_is_too_large_or_away_is_told_as_dibs_tells_it(
    proxy: Front, tmp_path: Path
) -> None:
    with (
        Running("--data-dir", str(tmp_path / "data")) as service,
        proxy(tmp_path, service.port) as like,
    ):

        def ask(body: bytes = b"", /, **more: str) -> tuple[int, str, str]:
            head = {"Dibs-Session": new_session(), "Content-Type": "application/json"} | more
            with contextlib.closing(type(like)(**_again(like))) as connection:
                connection.request("POST", "/v1/p/claim", body, head)
                answer = connection.getresponse()
                problem = json.loads(answer.read())
                assert answer.getheader("Content-Type") == "application/problem+json"
                assert problem["status"] == answer.status
                return answer.status, problem["code"], problem["outcome"]

        too_large = ("too-large", "not-applied")
        assert ask(b" " * 20_000) == (413, *too_large)
        assert ask(b" " * 900_000) == (413, *too_large)
        assert ask(b" " * 2_000_000) == (413, *too_large)
        assert ask(X="x" * 30_000, Y="y" * 20_000) == (431, *too_large)
        if proxy is nginx:  # Caddy accepts a head of up to a megabyte
            assert ask(**{f"X{number}": "x" * 30_000 for number in range(10)}) == (431, *too_large)
        service.stop()
        assert ask(b"{}") == (503, "unavailable", "unknown")


@pytest.mark.long
def test_caddy_passes_offers_to_upgrade_on_and_no_body_is_lost(tmp_path: Path) -> None:
    curl = tool("curl", "curl")
    with (
        Running("--data-dir", str(tmp_path / "data")) as service,
        caddy(tmp_path, service.port) as calls,
    ):
        url, session = f"http://127.0.0.1:{calls.port}", new_session()
        ran = processes.run(
            [
                *(curl, "-sS", "--http2", "-m", "10", "-H", f"Dibs-Session: {session}"),
                *("-d", "task=T-1", f"{url}/v1/p/claim"),
            ],
            timeout=30,
        )
        assert json.loads(ran.stdout)["task"] == "T-1", ran
        if shutil.which("java"):
            java_walks(url, "q", session)
        service.stop()


def _again(connection: http.client.HTTPConnection) -> dict[str, Any]:
    """Return the arguments for a second connection like this one."""
    given: dict[str, Any] = {
        "host": connection.host,
        "port": connection.port,
        "timeout": connection.timeout,
    }
    if isinstance(connection, http.client.HTTPSConnection):
        given["context"] = connection._context  # type: ignore[attr-defined]
    return given
