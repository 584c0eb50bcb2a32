"""Requests and responses as bytes: the ends of their parts, and their heads."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

END = b"\r\n\r\n"
_OFFERS = (b"upgrade", b"http2-settings")

Header = tuple[bytes, bytes]


def end_of_part(data: bytes, at: int, left: int | None, tail: bytes) -> int:
    """Return the end in `data` of the part of a request that continues at `at`, or len(data).

    A head or a chunked body ends with an empty line, which may begin in `tail`, the part's previous
    bytes. A body of declared length ends after `left` bytes.
    """
    if left is not None:
        return min(at + left, len(data))
    if tail:
        straddling = (tail + data[at : at + 3]).find(END)
        if straddling >= 0:
            return at + straddling + len(END) - len(tail)
    found = data.find(END, at)
    return len(data) if found < 0 else found + len(END)


def without_offers(method: bytes, url: bytes, version: bytes, headers: Iterable[Header]) -> bytes:
    """Return the head of a request without its offers of another protocol, which a server may
    ignore (RFC 9110, 7.8)."""
    lines = [b"%b %b HTTP/%b" % (method, url, version)]
    for name, value in headers:
        if name == b"connection":
            words = [word.strip() for word in value.split(b",")]
            value = b", ".join(word for word in words if word.lower() not in _OFFERS)
        if name not in _OFFERS:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + END


def whole(
    status: int, always: Iterable[Header], headers: Iterable[Header], *, keep_alive: bool
) -> bytes:
    """Return the head of a response whose headers include its length. Raises ValueError for a
    header that contains a line break."""
    lines = [b"%b: %b" % header for header in (*always, *headers)]
    if not keep_alive:
        lines.append(b"connection: close")
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1:
        raise ValueError("A header of a response has more than one line.")
    return STATUS_LINE[status] + head + END
