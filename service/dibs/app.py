"""The composition root: the only place where settings, store, claims, HTTP and board meet."""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from dibs import __version__
from dibs.addresses import Proxies
from dibs.api import errors, pages, smuggling, telemetry
from dibs.api.access import Access, AccessLimits
from dibs.api.admission import in_turn, shared
from dibs.api.bodies import BodyBudget
from dibs.api.compression import compressed
from dibs.api.fast_path import FastPath
from dibs.api.headers import with_headers
from dibs.api.routes import V1
from dibs.api.shutdown import answered_at_the_end
from dibs.api.webhooks import Forge, Webhooks
from dibs.board import routes as board
from dibs.board.context import BoardContext
from dibs.board.feed import Feeds
from dibs.board.overview_cache import OverviewCache
from dibs.claims import Bounds, Claims
from dibs.maintenance import Maintenance, maintained
from dibs.metrics import Metrics
from dibs.problems import ProblemError
from dibs.settings import Settings
from dibs.store import Rules, Store
from dibs.store.broadcast import EventBroadcaster
from dibs.store.local import disk
from dibs.store.redis import store_url
from dibs.store.redis.blocking import BlockingReader
from dibs.store.redis.link import ClientLink, Link
from dibs.stream_limit import StreamLimit

log = logging.getLogger("dibs")


@dataclass(slots=True)
class Service:
    """The service: its ASGI application, and the parts that live as long."""

    asgi: ASGIApp
    store: Store
    broadcaster: EventBroadcaster
    maintenance: Maintenance
    metrics: Metrics

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        """Open the store and run maintenance. Raises StoreDown or UnsupportedStore."""
        await self.store.open()
        try:
            async with maintained(self.maintenance):
                yield self
        finally:
            self.broadcaster.end()
            await self.broadcaster.close()
            await self.store.close()


def rules(settings: Settings) -> Rules:
    """Return the settings that the scripts use."""
    return Rules(
        ttl_ms=settings.default_ttl * 1000,
        park_ms=settings.park_ttl * 1000,
        review_ms=settings.review_ttl * 1000,
        grace_ms=settings.grace * 1000,
        handover_ms=settings.handover * 1000,
        ticket_ms=settings.ticket * 1000,
        max_hold_ms=settings.max_hold * 1000,
        retention_ms=settings.retention * 1000,
        done_retention_ms=settings.done_retention * 1000,
        history_ms=1000
        * max(settings.history_retention, settings.done_retention, settings.retention),
        claims_per_session=settings.max_claims_per_session,
        claims_per_project=settings.max_claims_per_project,
        claims_per_address=settings.max_claims_per_address,
        max_attempts=settings.max_attempts,
        waiting_most=settings.max_waiting,
        record_bytes=settings.record_bytes,
        event_bytes=settings.event_bytes,
        rate_per_session=settings.rate_per_session,
        rate_per_project=settings.rate_per_project,
        replicas=settings.replicas,
    )


def links(url: str | None, replicas: int = 0) -> tuple[Link, BlockingReader]:
    """Return the links for acts and for blocking reads; for `url` None, those of a fake store."""
    if url is None:
        from fakeredis import FakeAsyncRedis, FakeServer  # from the extra `memory`

        server = FakeServer()
        return (
            ClientLink(FakeAsyncRedis(server=server, decode_responses=True, protocol=2)),
            ClientLink(FakeAsyncRedis(server=server, decode_responses=True, protocol=2)),
        )
    link = store_url.link_to(store_url.parse(url), replicas)
    return link, store_url.reader_to(link)


def build(settings: Settings, url: str | None) -> Service:
    """Return the service on the store at `url` (None: in memory)."""
    metrics = Metrics(telemetry.FAMILIES)
    link, blocking = links(url, settings.replicas)
    link.observe = lambda seconds: metrics.observe("dibs_store_seconds", value=seconds)
    store = Store(link, rules(settings))
    if private := disk.watch_of(url, disk.DiskLimits.of(settings)):
        store.room = private
    broadcaster = EventBroadcaster(store, blocking)
    streams = StreamLimit(settings.max_connections)
    claims = Claims(store, broadcaster, Bounds(settings.min_ttl, settings.max_ttl), streams)
    proxies = Proxies(settings.trusted_proxies, settings.address_header)
    access = Access(
        [key.get_secret_value() for key in settings.team_key],
        [key.get_secret_value() for key in settings.admin_key],
        ci=[key.get_secret_value() for key in settings.ci_key],
        projects=settings.projects,
        read_open=settings.read == "open",
        limits=AccessLimits(
            reads_per_project=settings.reads_per_project,
            reads_per_address=settings.reads_per_address,
            new_per_address=settings.new_per_address,
        ),
        proxies=proxies,
    )
    feeds = Feeds(claims)
    maintenance = Maintenance(store, metrics, lambda: broadcaster.streams + feeds.viewers)

    def provide_claims() -> Claims:
        return claims

    def provide_streams() -> StreamLimit:
        return streams

    context = BoardContext(
        streams=streams,
        feeds=feeds,
        overviews=OverviewCache(store),
        claims=claims,
        is_admin=access.is_admin,
        slow_down=access.slow_down,
        breakable=access.breakable,
        keyed=not access.open,
        public_url=settings.public_url,
    )
    handlers: list[ControllerRouterHandler] = [
        V1,
        *pages.handlers(store, lambda: maintenance.down, settings.public_url, opened=access.open),
        telemetry.handler(metrics),
        board.router(context, ProblemError),
    ]
    app = Litestar(
        handlers,
        dependencies={
            "claims": Provide(provide_claims, sync_to_thread=False),
            "streams": Provide(provide_streams, sync_to_thread=False),
        },
        before_request=access.gate(),
        exception_handlers=errors.HANDLERS,
        openapi_config=None,
        request_max_body_size=settings.max_body,
        logging_config=None,
    )
    framed = with_headers(telemetry.observed(smuggling.exact(compressed(shared(app))), metrics))
    reads = in_turn(framed, metrics)
    forge = Forge(
        [secret.get_secret_value() for secret in settings.github_secret],
        settings.github_label,
        dict(settings.github_projects),
    )
    bodies = BodyBudget()
    webhooks = Webhooks(reads, store, access, metrics, forge, bodies)
    rest = answered_at_the_end(webhooks)
    fast_path = FastPath(rest, claims, access, metrics, settings.max_body, bodies)
    metrics.set("dibs_build_info", __version__, to=1)
    return Service(proxies.naming(fast_path), store, broadcaster, maintenance, metrics)
