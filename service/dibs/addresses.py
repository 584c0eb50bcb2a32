"""The address of a caller: the peer's, or the one that a trusted proxy passes."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from litestar.types import ASGIApp

UNKNOWN = "unknown"
"""The address of all callers for whom a trusted proxy passes no valid address."""


class Proxies:
    """The proxies trusted to pass the caller's address, and the header in which they do."""

    def __init__(self, networks: Sequence[str] = (), header: str = "X-Forwarded-For") -> None:
        self._networks = [ip_network(network) for network in networks]
        self._header = header.lower().encode("latin-1")
        self._trusts = lru_cache(4_096)(self._look_up)

    def __bool__(self) -> bool:
        """Return whether there is one."""
        return bool(self._networks)

    def trusts(self, host: str) -> bool:
        """Return whether `host` is one of them."""
        return self._trusts(host)

    def _look_up(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def naming(self, app: ASGIApp) -> ASGIApp:
        """Wrap `app`: set the scope's client to the address that a trusted proxy passes."""
        if not self:
            return app

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["client"] and self._trusts(scope["client"][0]):
                scope["client"] = (self._named(scope), scope["client"][1])
            await app(scope, receive, send)

        return wrapped

    def _named(self, scope: Any) -> str:
        """Return the last address in the header that is not a trusted proxy's. The caller itself
        may have sent anything before it."""
        lines = [value for name, value in scope["headers"] if name == self._header]
        named = b",".join(lines).decode("latin-1").split(",") if lines else []
        for text in reversed(named):
            address = _address(_without_port(text.strip()))
            if address is None:
                return UNKNOWN
            if not self._trusts(str(address)):
                return str(address)
        return str(scope["client"][0])

    def stranger(self, scope: Any) -> str:
        """Return the address that limits by address count, '' for none.

        A trusted proxy is not a caller. If none is set, a private peer may be a proxy in front of
        all callers, so a limit would hit everybody.
        """
        host = scope["client"][0] if scope.get("client") else ""
        if self._networks:
            return "" if self._trusts(host) else network_of(scope)
        return _public(host)


@lru_cache(4_096)
def _public(host: str) -> str:
    address = _address(host)
    return _network(address) if address is not None and address.is_global else ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _without_port(text: str) -> str:
    """Return the address of `1.2.3.4:567` or `[::1]:567`, as some proxies write it."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _network(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def network_of(scope: Any) -> str:
    """Return the address that a request came from; for IPv6 its /64, which is one customer's."""
    host = scope["client"][0] if scope.get("client") else ""
    address = _address(host)
    return str(host) if address is None else _network(address)
