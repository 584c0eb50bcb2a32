"""One call takes at most five seconds and eight mebibytes of any answer, and ends in one line."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.client.conftest import Make, Sandbox
from tests.client.test_bad_input import answering, http
from tests.harness import processes

Speak = Callable[[socket.socket], Iterator[bytes]]
MOST_S = 5 + 3.0  # of a whole call, and the extra time on a loaded machine
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Host:
    """A host that sends arbitrary bytes: its port, and the number of bytes that it sent."""

    def __init__(self, speak: Speak) -> None:
        self.speak, self.sent, self.over = speak, 0, threading.Event()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Accept connections, one at a time, until closed."""
        with contextlib.suppress(OSError):
            while not self.over.is_set():
                peer, _ = self.server.accept()
                with peer, contextlib.suppress(OSError):
                    peer.settimeout(30)
                    self.talk(peer)

    def talk(self, peer: socket.socket) -> None:
        """Send the pieces until the caller leaves or the host is closed."""
        for piece in self.speak(peer):
            peer.sendall(piece)
            self.sent += len(piece)
            if self.over.is_set():
                return

    def close(self) -> None:
        """Stop the host."""
        self.over.set()
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(10)


@contextlib.contextmanager
def speaking(speak: Speak) -> Iterator[Host]:
    """Run such a host on loopback."""
    host = Host(speak)
    try:
        yield host
    finally:
        host.close()


def after_the_request(*pieces: bytes, again: bytes, every_s: float = 0.0) -> Speak:
    """Read the request; send the pieces, then `again` in a loop, every `every_s` seconds."""

    def speak(peer: socket.socket) -> Iterator[bytes]:
        peer.recv(65536)
        yield from pieces
        while True:
            time.sleep(every_s)
            yield again

    return speak


ENDLESS = {
    "300 MB": ((HEAD + b"Content-Length: 300000000\r\n\r\n",), b"x" * 65536),
    "a body without length": ((HEAD + b"\r\n",), b"x" * 65536),
    "chunks": ((HEAD + CHUNKED,), b"8000\r\n" + b"x" * 32768 + b"\r\n"),
    "a body of -5": ((HEAD + b"Content-Length: -5\r\n\r\n",), b"x" * 65536),
    "a chunk": ((HEAD + CHUNKED + b"ffffffffffff\r\n",), b"x" * 65536),
    "a line of chunks": ((HEAD + CHUNKED,), b"0" * 65536),
    "headers": ((HEAD,), b"X-More: " + b"y" * 900 + b"\r\n"),
    "a header": ((HEAD + b"X-Long: ",), b"y" * 65536),
    "a status line": ((b"HTTP/1.1 ",), b"2" * 65536),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_end_is_given_up_at_a_few_mebibytes(sandbox: Make, name: str) -> None:
    pieces, again = ENDLESS[name]
    with speaking(after_the_request(*pieces, again=again)) as host:
        ann, begun = sandbox(f"http://127.0.0.1:{host.port}"), time.monotonic()
        answer = ann.dibs("list").said(3)
        assert time.monotonic() - begun < MOST_S
        assert host.sent < 24 << 20
    assert answer.stderr.count("\n") == 1
    assert "too large, over 8 MiB" in answer.stderr or "not HTTP" in answer.stderr


def test_a_large_answer_is_not_asked_for_again(sandbox: Make) -> None:
    pieces, again = ENDLESS["chunks"]
    with speaking(after_the_request(*pieces, again=again)) as host:
        sandbox(f"http://127.0.0.1:{host.port}").dibs("claim", "T-1").said(3)
        assert host.sent < 24 << 20


DRIBBLE = {
    "nothing": ((), b""),
    "a status line": ((b"HTTP/1.1 200",), b"0"),
    "headers": ((HEAD,), b"X: y\r\n"),
    "a body": ((HEAD + b"Content-Length: 5000\r\n\r\n",), b" "),
    "a body without length": ((HEAD + b"\r\n",), b" "),
    "chunks": ((HEAD + CHUNKED,), b"1\r\n \r\n"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", DRIBBLE)
def test_an_answer_that_dribbles_is_given_up_in_time(sandbox: Make, name: str) -> None:
    pieces, again = DRIBBLE[name]
    with speaking(after_the_request(*pieces, again=again, every_s=0.3)) as host:
        ann, begun = sandbox(f"http://127.0.0.1:{host.port}"), time.monotonic()
        answer = ann.dibs("claim", "T-1").said(3)
    assert time.monotonic() - begun < MOST_S
    assert "timed out" in answer.stderr


@pytest.mark.long
def test_all_attempts_of_a_call_share_its_time(sandbox: Make) -> None:
    def speak(peer: socket.socket) -> Iterator[bytes]:
        peer.recv(65536)
        time.sleep(3)
        yield http("{}", "503 Service Unavailable")

    with speaking(speak) as host:
        ann, begun = sandbox(f"http://127.0.0.1:{host.port}", DIBS_KEY="k" * 20), time.monotonic()
        ann.dibs("claim", "T-1", DIBS_LABEL="ann").said(3)
    assert time.monotonic() - begun < MOST_S


@pytest.mark.long
@pytest.mark.parametrize("how", ["tls", "proxy", "tls in a proxy"])
def test_a_handshake_that_dribbles_is_given_up_in_time(sandbox: Make, how: str) -> None:
    begin = [b"HTTP/1.1 200 OK\r\n\r\n"] if how == "tls in a proxy" else []
    again = b"\x16" if "tls" in how else b"H"
    with speaking(after_the_request(*begin, again=again, every_s=0.3)) as host:
        proxy = {} if how == "tls" else {"HTTPS_PROXY": f"http://127.0.0.1:{host.port}"}
        url = f"https://127.0.0.1:{host.port}" if how == "tls" else "https://dibs.test"
        ann, begun = sandbox(url, **proxy), time.monotonic()
        ann.dibs("list").said(3)
    assert time.monotonic() - begun < MOST_S


# A resolver that never answers, or that returns an unresponsive address before ours.
RESOLVER = """
import runpy, socket, sys, time
real, mode, port = socket.getaddrinfo, sys.argv[1], int(sys.argv[2])
def getaddrinfo(*args, **more):
    if mode == "silent":
        time.sleep(60)
    far = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    return [far, *real(*args, **more)]
socket.getaddrinfo = getaddrinfo
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def resolved(ann: Sandbox, mode: str, port: int, *words: str) -> tuple[int, str, float]:
    """Run a command with that resolver; return its exit code, output and duration."""
    runner, *rest = ann.command(*words)
    begun = time.monotonic()
    done = processes.run(
        [runner, "-c", RESOLVER, mode, str(port), *rest], cwd=ann.repo, env=ann.env
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begun


@pytest.mark.long
def test_a_name_that_is_not_resolved_in_time_is_given_up(sandbox: Make) -> None:
    code, said, took = resolved(sandbox("https://dibs.test"), "silent", 1, "list")
    assert (code, took < MOST_S) == (3, True), said
    assert "dibs.test was not reached: its name was not resolved" in said


def test_an_address_that_takes_no_connection_leaves_time_for_the_next(sandbox: Make) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # the backlog is full, the next one waits
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with answering(http('{"claims": [], "state": "free"}')) as url:
            ann = sandbox(url.replace("127.0.0.1", "localhost"))
            code, said, took = resolved(ann, "full", port, "list", "--json")
        for one in waiting:
            one.close()
    assert (code, took < MOST_S) == (0, True), said


DEEP = "[" * 200_000 + "]" * 200_000
STRANGE = [
    DEEP,
    '{"claims":' + DEEP + "}",
    '{"state": "held"}',
    '{"claims": 5}',
    '{"claims": [5]}',
    '{"claims": {"T": 1}}',
    '{"claims": [{"task": "T-1", "state": "held"}]}',
    '{"state": "held", "task": "T-1", "expires_in": "soon", "ttl": 1, "fence": 1}',
    '{"state": "held", "task": 5, "expires_in": 1, "ttl": 1, "fence": 1}',
    '{"state": 5, "task": "T-1", "expires_in": 1, "ttl": 1, "fence": 1}',
    '{"state": "held", "task": "T-1", "expires_in": 1e999, "ttl": 1, "fence": 1, "holder": 5}',
    '{"state": "free", "task": "T-1", "lost": [5]}',
    '{"state": "free", "task": "T-1", "lost": 5}',
    '{"released": [5]}',
    '{"released": null}',
    '{"state": "free", "task": "T-1", "previous": 5}',
    '{"state": "free", "task": "T-1", "previous": {"note": 5, "holder": null}}',
]
PROBLEMS = [
    '{"code": "held", "detail": ' + DEEP + "}",
    '{"code": ["held"], "detail": "x"}',
    '{"code": "held", "detail": 5}',
    '{"code": "held", "detail": "x", "claim": 5}',
    '{"code": "held", "detail": "x", "retry_after": "soon"}',
    '{"code": "lost", "detail": "x", "lost": [5]}',
    '{"code": "lost", "detail": "x", "reason": 5, "at": 5, "by": 5, "note": 5}',
    '{"code": "lost", "detail": "x", "lost": {"a": 1}}',
]
WORDS = ["claim T-1", "beat", "done T-1", "show T-1"]


@pytest.mark.long
@pytest.mark.parametrize("body", STRANGE, ids=lambda body: body[:60])
def test_json_of_any_shape_ends_in_a_line(sandbox: Make, body: str) -> None:
    with answering(http(body)) as url:
        ann = sandbox(url)
        for words in WORDS:
            answer = ann.dibs(*words.split(), DIBS_KEY="a-key-of-these-tests", DIBS_LABEL="ann")
            assert "Traceback" not in answer.stdout + answer.stderr, words
            assert answer.returncode in (0, 1, 2, 3, 4), words


@pytest.mark.long
@pytest.mark.parametrize("body", PROBLEMS, ids=lambda body: body[:60])
def test_a_problem_of_any_shape_ends_in_a_line(sandbox: Make, body: str) -> None:
    with answering(http(body, "409 Conflict", "application/problem+json")) as url:
        ann = sandbox(url)
        for words in ("claim T-1", "done T-1", "show T-1"):
            answer = ann.dibs(*words.split(), DIBS_KEY="a-key-of-these-tests", DIBS_LABEL="ann")
            assert "Traceback" not in answer.stdout + answer.stderr, words
            assert answer.returncode in (1, 2, 3, 4), words


def test_a_state_file_that_is_deep_counts_as_none(sandbox: Make) -> None:
    ann = sandbox()
    ann.dibs("claim", "T-1").said(0)
    [state] = ann.state_files()
    state.write_text(DEEP)
    assert "is damaged" in ann.dibs("claim", "T-2").said(0).stderr


def test_a_list_of_a_thousand_long_claims_is_no_large_answer(sandbox: Make) -> None:
    claim = {"task": "T" * 200, "state": "held", "note": "n" * 1000, "label": "l" * 64}
    body = json.dumps({"claims": [claim] * 1000, "state": "free"})
    with answering(http(body)) as url:
        assert len(sandbox(url).dibs("list", "--json").said(0).stdout) > 1_000_000
