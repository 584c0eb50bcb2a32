"""The client believes in a claim for no longer than the store (I11), also when a reply is lost."""

import json
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


class Relay:
    """A way to the service. Each call uses up one of `modes`; the last one stays. "open" passes a
    call and its reply on, "drops" drops the reply, "hangs" keeps it, "cut" drops the call, and
    "refuses" answers it with REFUSAL."""

    def __init__(self, port: int) -> None:
        self.port, self.modes, self.passed = port, ["open"], 0

    def speak(self, peer: socket.socket) -> Iterator[bytes]:
        """Pass one call on."""
        request = message(peer)
        mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
        if mode in ("cut", "refuses"):
            yield REFUSAL if mode == "refuses" else b""
            return
        with socket.create_connection(("127.0.0.1", self.port), 10) as service:
            service.sendall(request)
            reply = message(service)
        self.passed += 1
        if mode == "open":
            yield reply
        elif mode == "hangs":
            peer.recv(1)


def message(peer: socket.socket) -> bytes:
    """Read a request or a reply with its body."""
    read = b""
    while not is_whole(read):
        more = peer.recv(65536)
        if not more:
            raise OSError("the peer closed the connection")
        read += more
    return read


def is_whole(text: bytes) -> bool:
    """Return whether a request or a reply has arrived with its body."""
    head, end_of_head, body = text.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(end_of_head) and len(body) >= int(length[1] if length else 0)


@pytest.fixture
def way(service: ServiceProcess) -> Iterator[tuple[Relay, Host]]:
    """Return a relay, and the host that a client calls for it."""
    relay = Relay(service.port)
    with speaking(relay.speak) as host:
        yield relay, host


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("write", ["beat", "release"])
def test_a_claim_is_believed_no_longer_than_a_write_without_a_reply_may_have_left_it(
    sandbox: Make, way: tuple[Relay, Host], write: str, is_killed: bool
) -> None:
    relay, host = way
    ann, bob = sandbox(f"http://127.0.0.1:{host.port}", DIBS_LABEL="ann"), sandbox()
    ann.dibs("claim", "T-1", "--ttl", "2s").said(0)
    ann.dibs("park", "T-1").said(0)  # for hours
    if is_killed:
        relay.modes, before = ["hangs"], relay.passed
        sent = ann.start(write, "T-1")
        until(lambda: relay.passed > before, "the service has answered")
        end(sent)
    else:
        relay.modes = ["drops"]
        ann.dibs(write, "T-1").said(3)
    relay.modes = ["cut"]
    until(lambda: bob.dibs("claim", "T-1").returncode == 0, "somebody else has the task")
    ann.dibs("verify", "T-1").said(4)


def test_a_refused_write_is_doubted_until_the_next_heartbeat(
    sandbox: Make, way: tuple[Relay, Host]
) -> None:
    relay, host = way
    ann = sandbox(f"http://127.0.0.1:{host.port}", DIBS_LABEL="ann")
    ann.dibs("claim", "T-1", "--ttl", "60s").said(0)
    relay.modes = ["drops", "refuses"]  # the release took effect, and its repeat is refused
    ann.dibs("release", "T-1").said(2)
    relay.modes = ["cut"]
    ann.dibs("verify", "T-1").said(4)
    relay.modes = ["open"]
    ann.dibs("claim", "T-1").said(0)
    relay.modes = ["refuses"]
    ann.dibs("release", "T-1").said(2)
    relay.modes = ["open"]
    ann.dibs("beat").said(0)
    relay.modes = ["cut"]
    ann.dibs("verify", "T-1").said(3)  # held, as far as is known


def test_no_write_moves_a_deadline_on_either_clock(sandbox: Make, way: tuple[Relay, Host]) -> None:
    relay, host = way
    ann = sandbox(f"http://127.0.0.1:{host.port}", DIBS_LABEL="ann")
    ann.dibs("claim", "T-1", "--ttl", "60s").said(0)
    [state] = ann.state_files()
    kept = json.loads(state.read_text())
    wall, boot = kept["claims"]["T-1"]["until"]
    before = [wall + 7200, boot - 30]  # as after the wall clock was set back by two hours
    kept["claims"]["T-1"]["until"] = before
    state.write_text(json.dumps(kept))
    relay.modes = ["drops"]
    ann.dibs("beat", "T-1").said(3)
    after = json.loads(state.read_text())["claims"]["T-1"]["until"]
    assert after[0] < before[0]
    assert after[1] == before[1]
