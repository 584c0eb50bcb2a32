"""Strangers without a key: bytes sent before authentication, and connections."""

import time
from collections import Counter

from tests.abuse.strangers import Crowd, Target, get

CHUNKED = b"POST /v1/p/claim HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
PIPELINED = get("/client/dibs.py") * 3_000


def _poured(service: Target, until: float, first: bytes, then: bytes) -> Counter[str]:
    """Send without end on many connections, and open another when one is closed."""
    crowd = Crowd(service)
    while time.monotonic() < until:
        while len(crowd.held) < 50:
            crowd.add(first)
        crowd.each(then)
    return crowd.told


def trailers(service: Target, until: float) -> Counter[str]:
    """Send trailer fields after a body, without end."""
    return _poured(service, until, CHUNKED + b"0\r\n", b"a:b\r\n" * 12_000)


def extensions(service: Target, until: float) -> Counter[str]:
    """Send one-byte chunks, each with a long extension."""
    return _poured(service, until, CHUNKED, b"1;" + b"e" * 50_000 + b"\r\nx\r\n")


def heads(service: Target, until: float) -> Counter[str]:
    """Send request heads that never end."""
    return _poured(service, until, b"GET /livez HTTP/1.1\r\n", b"a:b\r\n" * 12_000)


def pipelined(service: Target, until: float) -> Counter[str]:
    """Pipeline many requests for the largest file, and read no answer."""
    crowd = Crowd(service)
    while time.monotonic() < until:
        while len(crowd.held) < 300:
            crowd.add(PIPELINED[:30_000], small=True)
            if time.monotonic() > until:
                break
        crowd.each(PIPELINED[:1_000])
        time.sleep(0.05)
    return crowd.told


def idle(service: Target, until: float) -> Counter[str]:
    """Open a thousand connections that send one request each and then stay idle."""
    crowd = Crowd(service)
    crowd.keep(1_000, get("/livez"), b"", until, 0.1)
    return crowd.told


def slow(service: Target, until: float) -> Counter[str]:
    """Send a thousand requests byte by byte."""
    crowd = Crowd(service)
    crowd.keep(1_000, b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y", until, 0.1)
    return crowd.told


def busy(service: Target, until: float) -> Counter[str]:
    """Keep a thousand connections busy with requests."""
    crowd = Crowd(service)
    crowd.keep(1_000, get("/livez"), get("/livez"), until, 0.05)
    return crowd.told
