"""Parses the URL of a store, and creates links to it.

    redis://user:password@host:6379/0               one server; rediss:// with TLS
    unix:///path/to/socket?db=0                     one server on this machine
    redis+sentinel://user:password@s1:26379,s2:26379/service/0?sentinel_password=…
    redis+cluster://user:password@n1:6379,n2:6379   some of the cluster's nodes

`rediss+sentinel` and `rediss+cluster` use TLS. Options after `?` have redis-py's names
(endpoint.OPTIONS). No error message contains a password.
"""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import parse_url

from dibs.store.redis.blocking import BlockingLink
from dibs.store.redis.cluster import ClusterLink
from dibs.store.redis.endpoint import Endpoint, endpoint, host_and_port
from dibs.store.redis.link import PipelineLink
from dibs.store.redis.sentinel import SentinelLink, Sentinels

_FORMS = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of a store's URL."""

    kind: Literal["server", "sentinel", "cluster"]
    shown: str
    """The URL to show to people: without user, password and options."""
    endpoint: Endpoint
    """The server; for several servers, the login and options for each, without an address."""
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_password: str = field(default="", repr=False)


def parse(url: str) -> StoreUrl:
    """Parse `url`. Raises ValueError with a sentence that does not repeat the URL."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if kind not in ("", "sentinel", "cluster") or base not in ("redis", "rediss", "unix"):
        raise ValueError(f"has an unknown scheme: it must start with {_FORMS}")
    if base == "unix" and kind:
        raise ValueError(f"has an unknown scheme: it must start with {_FORMS}")
    return _server(url, scheme) if not kind else _several(base, kind, rest)


def _server(url: str, scheme: str) -> StoreUrl:
    found = _endpoint(url, tls=scheme == "rediss")
    return StoreUrl("server", f"{scheme}://{found.shown}", found)


def _several(base: str, kind: str, rest: str) -> StoreUrl:
    """Parse a URL with several hosts: `login@host,host/service/db?options`."""
    place, _, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    names, _, path = place.partition("/")
    service, _, db = path.partition("/")
    given = parse_qs(query, keep_blank_values=True)
    secret = given.pop("sentinel_password", [""])[0]
    options = "&".join(pair for pair in query.split("&") if not _is(pair, "sentinel_password"))
    try:
        default = 26379 if kind == "sentinel" else 6379
        hosts = tuple(host_and_port(name, default) for name in names.split(","))
    except ValueError:
        raise ValueError(_no_url()) from None
    found = _endpoint(f"{base}://{login}{at}localhost/{db}?{options}", tls=base == "rediss")
    if kind == "sentinel" and not service:
        raise ValueError("names no service: write redis+sentinel://host:26379,host:26379/SERVICE")
    if kind == "cluster" and (service or found.db):
        raise ValueError("names a database, but a cluster has only one: remove the path")
    shown = f"{base}+{kind}://{names}" + (f"/{service}" if service else "")
    if kind == "sentinel":
        return StoreUrl("sentinel", shown, found, hosts, service, secret)
    return StoreUrl("cluster", shown, found, hosts)


def _is(pair: str, name: str) -> bool:
    return pair.partition("=")[0] == name


def _endpoint(url: str, *, tls: bool) -> Endpoint:
    try:
        options = dict(parse_url(url))
    except (ValueError, IndexError):
        raise ValueError(_no_url()) from None
    if not (options.get("path") or options.get("host")):
        raise ValueError(_no_url())
    if "path" not in options and (db := urlsplit(url).path.strip("/")) and not db.isdigit():
        raise ValueError("names a database that is not a number: write redis://host:6379/0")
    return endpoint(options, tls=tls)


def _no_url() -> str:
    return f"is not the URL of a store: use {_FORMS} with hosts, as docs/deploy.md shows"


Links = PipelineLink | ClusterLink


def link_to(target: StoreUrl, replicas: int = 0) -> Links:
    """Return a link for acts, which waits for `replicas` replicas; the first command connects."""
    if target.kind == "server":
        return PipelineLink(target.endpoint, replicas)
    if target.kind == "cluster":
        return ClusterLink(target.hosts, target.endpoint, replicas)
    login = Endpoint(password=target.sentinel_password, tls=target.endpoint.tls)
    sentinels = Sentinels([login.at(*host) for host in target.hosts], target.service)
    return SentinelLink(sentinels, target.endpoint, replicas)


def reader_to(link: Links) -> BlockingLink:
    """Return a reader of the streams that are written through `link`."""
    return BlockingLink(link)
