"""Answers are compressed for clients that accept it, unless their length could reveal a secret."""

import gzip
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.services import Running, new_session

from dibs.api.compression import reads_gzip

GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start a service with a project of a hundred claims."""
    folder = str(tmp_path_factory.mktemp("smaller"))
    with Running("--data-dir", folder) as running:
        for first in range(0, 100, 25):
            names = [f"T-{number}" for number in range(first, first + 25)]
            body = {"all_of": names, "note": "The note of a claim."}
            assert running.ask("POST", "/v1/p/claim", body, new_session())[0] == 201
        yield running
        running.stop()


def get(service: Running, path: str, **more: str) -> tuple[bytes, dict[str, str]]:
    """Return the body as sent, and the headers."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    assert reply.status == 200
    return body, {name.lower(): value for name, value in reply.getheaders()}


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/p/p", "/v1/p/claims", "/v1/p/events", "/livez", "/openapi.json", "/metrics"),
        *("/client/dibs.py", "/client/hook.py", "/client/install.py", "/skill/SKILL.md"),
        *("/problems/held", "/board/board.js?0123456789ab"),
    ],
)
def test_an_answer_says_its_type_and_its_charset_once(service: Running, path: str) -> None:
    _, told = get(service, path)
    assert told["content-type"].count("charset") <= 1
    _, table = get(service, path, Accept="text/plain")
    assert table["content-type"].count("charset") <= 1


@pytest.mark.parametrize(
    "path",
    [
        *("/p/p", "/p/p?state=held&sort=task&page=1", "/v1/p/claims", "/v1/p/claims?q=T&limit=50"),
        *("/v1/p/events", "/client/dibs.py", "/skill/SKILL.md", "/board/board.js?0123456789ab"),
        "/openapi.json",
    ],
)
def test_who_reads_gzip_gets_it_and_the_same(service: Running, path: str) -> None:
    small, told = get(service, path, Accept_Encoding="gzip")
    whole, plain = get(service, path)
    assert told["content-encoding"] == "gzip"
    assert int(told["content-length"]) == len(small) < len(whole) * 0.6
    assert "content-encoding" not in plain
    assert told["vary"] == plain["vary"] == "Accept-Encoding"
    if not path.startswith(("/p/", "/v1/")):  # those have times that change
        assert gzip.decompress(small) == whole
    else:
        assert b"T-1" in gzip.decompress(small)
    assert {**told, "date": ""}.keys() - plain.keys() == {"content-encoding"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/p/p?q=guess", {}),
        ("/p/p?state=held&q=guess", {}),
        ("/p/p?%71=guess", {}),
        ("/p/p?holder=guess", {}),
        ("/p/p?unknown=guess", {}),
        ("/p/p/break?task=T-1&fence=1", {}),
        ("/p/p/hold?task=T-1", {}),
        ("/p/p", {"Sec_Fetch_Site": "cross-site"}),
        ("/p/p", {"Sec_Fetch_Site": "same-site"}),
        ("/v1/p/claims?q=T", {"Sec_Fetch_Site": "cross-site"}),
    ],
)
def test_what_repeats_a_url_or_goes_to_another_site_keeps_its_length(
    service: Running, path: str, headers: dict[str, str]
) -> None:
    body, told = get(service, path, Accept_Encoding="gzip", **headers)
    assert "content-encoding" not in told
    assert int(told["content-length"]) == len(body) > 1000


def test_a_reply_that_belongs_to_a_session_is_not_compressed(service: Running) -> None:
    tasks = [f"S-{number}" for number in range(25)]
    status, body, headers = service.ask(
        "POST", "/v1/p/claim", {"all_of": tasks}, new_session(), **GZIP
    )
    assert status == 201
    assert len(body["claims"]) == 25
    assert "content-encoding" not in headers


@pytest.mark.parametrize("path", ["/p/p/stream", "/v1/p/events"])
def test_a_stream_is_neither_compressed_nor_held_back(service: Running, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", path, headers=GZIP | {"Accept": "text/event-stream"})
    reply = connection.getresponse()
    assert reply.status == 200
    assert reply.getheader("content-encoding") is None
    assert reply.getheader("x-accel-buffering") == "no"
    assert reply.read1(6) == b"retry:"
    connection.close()


def test_head_tells_what_get_would(service: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("HEAD", "/board/board.css", headers=GZIP)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("content-encoding")) == (200, "gzip")
    small, _ = get(service, "/board/board.css", Accept_Encoding="gzip")
    assert int(reply.getheader("content-length") or 0) == len(small)
    connection.close()


def test_small_answers_and_refusals_go_as_they_are(service: Running) -> None:
    assert "content-encoding" not in get(service, "/livez", Accept_Encoding="gzip")[1]
    status, _, headers = service.ask("GET", "/nope", **GZIP)
    assert status == 404
    assert "content-encoding" not in headers


@pytest.mark.parametrize(
    ("accept", "reads"),
    [
        *(("gzip", True), ("GZIP", True), ("br, gzip;q=0.5", True), ("*", True), ("x-gzip", True)),
        *(("", False), ("br", False), ("gzip;q=0", False), ("gzip; q=0.000", False)),
        *(("identity", False), ("notgzip", False), ("gzipped", False)),
    ],
)
def test_who_does_not_ask_for_gzip_gets_none(accept: str, reads: bool) -> None:
    assert reads_gzip(accept.encode()) is reads


def test_a_board_of_two_hundred_rows_is_small_on_the_wire(tmp_path: Path) -> None:
    with Running("--data-dir", str(tmp_path / "d")) as running:
        for first in range(0, 200, 25):
            names = [f"T-{number}" for number in range(first, first + 25)]
            body = {"all_of": names, "label": f"session_{first}"}
            assert running.ask("POST", "/v1/p/claim", body, new_session())[0] == 201
        whole, _ = get(running, "/p/p")
        small, _ = get(running, "/p/p", Accept_Encoding="gzip")
        assert len(small) < len(whole) / 8
        running.stop()
