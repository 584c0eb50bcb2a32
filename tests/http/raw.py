"""HTTP as bytes on a socket, for requests that no library would send."""

import json
import socket
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class RawAnswer(NamedTuple):
    """One parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """Parse the body as a problem; assert the fields that every problem has."""
        assert self.headers["content-type"] == "application/problem+json", self
        found: dict[str, Any] = json.loads(self.body)
        assert {"type", "title", "status", "detail", "code", "outcome"} <= found.keys()
        assert found["status"] == self.status
        return found

    @property
    def json(self) -> Any:
        """Parse the body as JSON."""
        return json.loads(self.body)


class RawConnection:
    """A connection and the answers that arrive on it."""

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=timeout_s)
        self.got = b""

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, *segments: bytes) -> None:
        """Send each segment separately."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, segment in enumerate(segments):
            if number:
                time.sleep(0.05)  # so that the service reads each segment separately
            self.socket.sendall(segment)

    def answer(self, method: str = "GET") -> RawAnswer:
        """Read the next answer, whose body has a length or is chunked."""
        while b"\r\n\r\n" not in self.got:
            self._more()
        head, _, self.got = self.got.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)
        }
        status = int(first.split(" ")[1])
        if status == 100:
            return self.answer(method)
        size = int(headers.get("content-length", "0")) if method != "HEAD" else 0
        while len(self.got) < size:
            self._more()
        body, self.got = self.got[:size], self.got[size:]
        return RawAnswer(status, headers, body)

    def _more(self) -> None:
        more = self.socket.recv(65_536)
        if not more:
            raise ConnectionError(f"the service closed the connection after {self.got!r}")
        self.got += more

    def rest(self) -> bytes:
        """Read everything until the service closes the connection."""
        try:
            while more := self.socket.recv(65_536):
                self.got += more
        except ConnectionResetError:
            pass
        found, self.got = self.got, b""
        return found


def request(method: str, path: str, body: bytes = b"", /, **headers: str) -> bytes:
    """Return a request with Host and, for a POST or a body, Content-Length."""
    given = {"Host": "dibs.test"} | {name.replace("_", "-"): v for name, v in headers.items()}
    if (body or method == "POST") and "Transfer-Encoding" not in given:
        given.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(body: bytes, *trailers: bytes, size: int = 7, extension: bytes = b"") -> bytes:
    """Return a chunked body."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    found = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return found + b"0\r\n" + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"


def ask(url: str, *segments: bytes, method: str = "GET") -> RawAnswer:
    """Send a request on a new connection and return the answer."""
    with RawConnection(url) as wire:
        wire.send(*segments)
        return wire.answer(method)
