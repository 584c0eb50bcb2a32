"""The sandbox's egress: a CONNECT proxy on loopback that intercepts TLS with its own CA.

Every host name behind it is the service under test. `mode` selects what it does with a connection:

allow          forward it                      deny-connect   refuse the CONNECT, with a reason
hang           accept CONNECT, never answer    deny-inside    answer 403 inside TLS, with a reason
reset          cut it at the CONNECT           bad-gateway    refuse the CONNECT with 502
lose-replies   forward it, but cut the first `cuts` replies off half way
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

DENIED = (
    b"HTTP/1.1 403 Forbidden\r\nx-deny-reason: host_not_allowed\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 32\r\nConnection: close\r\n\r\nHost not in allowlist: dibs.test."
)


class SandboxProxy:
    """The proxy, its CA file, and a record of the requests it forwarded."""

    def __init__(self, folder: Path, service_port: int) -> None:
        self.authority = trustme.CA()
        self.ca_file = folder / "sandbox-ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self.service_port = service_port
        self.mode, self.cuts = "allow", 0
        self.connects: list[str] = []
        self.requests: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.open: list[socket.socket] = []
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.server.accept()
                self.open.append(peer)
                threading.Thread(target=self._guarded, args=(peer,), daemon=True).start()

    def _guarded(self, peer: socket.socket) -> None:
        # The client may hang up at any point, because the modes make it do so.
        with contextlib.suppress(OSError):
            self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(4096)
        self.connects.append(head.decode())
        method, place, _ = head.split(b" ", 2)
        assert method == b"CONNECT", head
        if self.mode == "hang":
            return
        if self.mode == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        elif self.mode == "deny-connect":
            peer.sendall(DENIED)
            peer.close()
        elif self.mode == "bad-gateway":
            peer.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            peer.close()
        else:
            peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._inside(peer, place.decode().rpartition(":")[0])

    def _inside(self, peer: socket.socket, host: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(host).configure_cert(context)
        with context.wrap_socket(peer, server_side=True) as inner:
            asked = self._read_request(inner)
            self.requests.append(asked)
            if self.mode == "deny-inside":
                inner.sendall(DENIED)
                return
            with socket.create_connection(("127.0.0.1", self.service_port)) as service:
                service.sendall(asked)
                reply = b"".join(iter(lambda: service.recv(65536), b""))
            if self.mode == "lose-replies" and self.cuts > 0:
                self.cuts -= 1
                reply = reply[: len(reply) // 2]
            inner.sendall(reply)

    @staticmethod
    def _read_request(inner: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += inner.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [
            line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        ]
        wanted = int(lengths[0].split(b":")[1])
        while len(body) < wanted:
            more = inner.recv(65536)
            body, data = body + more, data + more
        return data

    def header(self, name: str) -> list[str]:
        """Return the values of one header in all forwarded requests."""
        return [
            line.split(": ", 1)[1]
            for request in self.requests
            for line in request.decode().split("\r\n\r\n")[0].split("\r\n")
            if line.lower().startswith(name.lower() + ":")
        ]

    def close(self) -> None:
        """Stop the proxy."""
        # Closing the socket alone leaves the acceptor waiting on a file descriptor number that the
        # next socket may get: it would then serve the next test's connections with this test's CA.
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(5)
        for sock in (self.server, *self.open):
            with contextlib.suppress(OSError):
                sock.close()


@contextlib.contextmanager
def sandbox_proxy(folder: Path, service_port: int) -> Iterator[SandboxProxy]:
    """Run a proxy for the length of a block."""
    proxy = SandboxProxy(folder, service_port)
    try:
        yield proxy
    finally:
        proxy.close()
