"""Which store a URL names, and the links to it.

    redis://user:password@host:6379/0               one server; rediss:// with TLS
    unix:///path/to/socket?db=0                     one server on this machine
    redis+sentinel://user:password@s1:26379,s2:26379/service/0?sentinel_password=…
    redis+cluster://user:password@n1:6379,n2:6379   any few of the cluster's nodes

`rediss+sentinel` and `rediss+cluster` talk TLS. Options after `?` are those of redis-py's URLs
(ssl_ca_certs, …). Nothing here says a password.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from dibs.store.cluster import ClusterLink, ClusterReader
from dibs.store.failures import StoreDown
from dibs.store.link import (
    CONNECTION,
    CONNECTIONS,
    TCP,
    TIMEOUT_S,
    Link,
    PipelineLink,
    keepalive,
)

READER_S = 20.0
"""For a blocking read: longer than it waits, and an end to it when the server's host is gone."""
_FORMS = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says."""

    kind: Literal["server", "sentinel", "cluster"]
    shown: str
    """For people: no user, no password, no options."""
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)


def parse(url: str) -> Target:
    """Return what `url` names. Raises ValueError with a sentence that does not repeat the URL."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if kind not in ("", "sentinel", "cluster") or base not in ("redis", "rediss", "unix"):
        raise ValueError(f"names no store that dibs knows: it starts with {_FORMS}")
    try:
        if not kind:
            return _server(url)
        if base == "unix":
            raise ValueError
        where, slash, tail = rest.partition("/")
        path, _, query = tail.partition("?")
        if not slash:
            where, _, query = where.partition("?")
        login, _, names = where.rpartition("@")
        hosts = tuple(
            _host(name, 26379 if kind == "sentinel" else 6379) for name in names.split(",")
        )
        service, _, db = path.partition("/")
        at = f"{login}@" if login else ""
        options = dict(parse_url(f"{base}://{at}{hosts[0][0]}/{db}?{query}"))
    except (ValueError, IndexError):
        raise ValueError(
            f"is not a store's URL: {_FORMS} with hosts, as docs/deploy.md shows"
        ) from None
    for name in ("host", "port"):
        options.pop(name, None)
    secret = parse_qs(query).get("sentinel_password", [None])[0]
    options.pop("sentinel_password", None)
    if kind == "sentinel" and not service:
        raise ValueError("names no service: redis+sentinel://host:26379,host:26379/SERVICE")
    if kind == "cluster" and (service or options.get("db")):
        raise ValueError("names a database, but a cluster has only one: leave the path away")
    return Target(
        "sentinel" if kind == "sentinel" else "cluster",
        f"{scheme}://{names}" + (f"/{service}" if service else ""),
        hosts,
        service,
        options,
        secret,
    )


def _server(url: str) -> Target:
    parse_url(url)
    parts = urlsplit(url)
    local = parts.scheme == "unix"
    where = parts.path if local else f"{parts.hostname or ''}:{parts.port or 6379}"
    if where.startswith(":") or not where:
        raise ValueError
    return Target("server", f"{parts.scheme}://{where}", options={"url": url})


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or default_port


class SentinelLink(PipelineLink):
    """A link to the primary that the Sentinels name, asked again with every look at the clock."""

    why_relaxed = "Sentinel may promote a replica that lacks the last claims."

    def __init__(self, pool: SentinelConnectionPool) -> None:
        super().__init__(pool)
        self._sentinel_pool = pool

    async def servers(self) -> list[Link]:
        """See Link. An old primary that still answers us is left here, within a second."""
        with contextlib.suppress(StoreDown):  # without a Sentinel the primary we have goes on
            await self.ask(self._sentinel_pool.get_master_address())  # type: ignore[no-untyped-call]
        return [self]

    async def close(self) -> None:
        """See Link."""
        await super().close()
        for sentinel in self._sentinel_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def link_to(target: Target) -> Link:
    """Return a link for acts; nothing is connected yet."""
    if target.kind == "server":
        return PipelineLink.to(target.options["url"])
    if target.kind == "cluster":
        return ClusterLink(target.hosts, target.options)
    return SentinelLink(_sentinel_pool(target, TIMEOUT_S))


def reader_to(target: Target, link: Link) -> Any:
    """Return a client for blocking reads."""
    patient: dict[str, Any] = CONNECTION | {"socket_timeout": READER_S}
    if isinstance(link, ClusterLink):
        return ClusterReader(link, patient | TCP | target.options)
    if target.kind == "sentinel":
        client = Redis(connection_pool=_sentinel_pool(target, READER_S))
    else:
        url = target.options["url"]
        client = Redis(connection_pool=ConnectionPool.from_url(url, **patient, **keepalive(url)))
    client.set_retry(Retry(NoBackoff(), 0))
    return client


def _sentinel_pool(target: Target, timeout_s: float) -> SentinelConnectionPool:
    options = dict(target.options)
    tls = options.pop("connection_class", None) is SSLConnection
    asking = {key: value for key, value in options.items() if key.startswith("ssl_")}
    if tls:
        asking["ssl"] = True
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        target.hosts,
        sentinel_kwargs=CONNECTION | asking | {"password": target.sentinel_password},
    )
    for client in sentinel.sentinels:
        client.set_retry(Retry(NoBackoff(), 0))
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        target.service,
        sentinel,
        connection_class=SentinelManagedSSLConnection if tls else SentinelManagedConnection,
        **(CONNECTION | TCP | options | {"socket_timeout": timeout_s}),
        **({"max_connections": CONNECTIONS} if timeout_s == TIMEOUT_S else {}),
    )
