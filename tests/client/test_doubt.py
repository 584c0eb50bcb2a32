"""The client believes in a claim for no longer than the store (I11), also when a reply is lost."""

import re
import socket
from collections.abc import Iterator

import pytest
from tests.client.conftest import Make
from tests.client.test_bounds import Host, speaking
from tests.harness.processes import end, until
from tests.harness.services import ServiceProcess

PROBLEM = b'{"type":"/problems/invalid","title":"Invalid","status":422,"code":"invalid"}'
REFUSAL = (
    b"HTTP/1.1 422 Unprocessable Content\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(PROBLEM), PROBLEM)
)


class Path:
    """A path to the service. It passes calls on, and their replies while `mode` is "open"; the
    others it drops ("drops") or keeps ("hangs"). While it is "cut" nothing passes, and while it
    "refuses" every call is answered with REFUSAL."""

    def __init__(self, port: int) -> None:
        self.port, self.mode, self.passed = port, "open", 0

    def speak(self, peer: socket.socket) -> Iterator[bytes]:
        """Pass one call on."""
        request = b""
        while not is_whole(request):
            more = peer.recv(65536)
            if not more:
                return
            request += more
        if self.mode in ("cut", "refuses"):
            yield REFUSAL if self.mode == "refuses" else b""
            return
        with socket.create_connection(("127.0.0.1", self.port), 10) as service:
            service.sendall(request)
            reply = service.recv(1 << 20)
        self.passed += 1
        if self.mode == "open":
            yield reply
        elif self.mode == "hangs":
            peer.recv(1)


def is_whole(request: bytes) -> bool:
    """Return whether a request has arrived with its body."""
    head, end_of_head, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end_of_head) and len(body) >= int(length[1] if length else 0)


@pytest.fixture
def way(service: ServiceProcess) -> Iterator[tuple[Path, Host]]:
    """Return a path to the service, and the host that a client calls for it."""
    path = Path(service.port)
    with speaking(path.speak) as host:
        yield path, host


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("write", ["beat", "release"])
def test_a_claim_is_believed_no_longer_than_a_write_without_a_reply_may_have_left_it(
    sandbox: Make, way: tuple[Path, Host], write: str, is_killed: bool
) -> None:
    path, host = way
    ann, bob = sandbox(f"http://127.0.0.1:{host.port}", DIBS_LABEL="ann"), sandbox()
    ann.dibs("claim", "T-1", "--ttl", "2s").said(0)
    ann.dibs("park", "T-1").said(0)  # for hours
    if is_killed:
        path.mode, before = "hangs", path.passed
        sent = ann.start(write, "T-1")
        until(lambda: path.passed > before, "the service has answered")
        end(sent)
    else:
        path.mode = "drops"
        ann.dibs(write, "T-1").said(3)
    path.mode = "cut"
    until(lambda: bob.dibs("claim", "T-1").returncode == 0, "somebody else has the task")
    ann.dibs("verify", "T-1").said(4)


def test_a_write_that_is_refused_leaves_a_claim_as_it_was(
    sandbox: Make, way: tuple[Path, Host]
) -> None:
    path, host = way
    ann = sandbox(f"http://127.0.0.1:{host.port}", DIBS_LABEL="ann")
    ann.dibs("claim", "T-1", "--ttl", "60s").said(0)
    [state] = ann.state_files()
    before, path.mode = state.read_text(), "refuses"
    ann.dibs("release", "T-1").said(2)
    assert state.read_text() == before
    path.mode = "cut"
    ann.dibs("verify", "T-1").said(3)
