"""The metrics of the service, in prometheus-client's own counters.

All series are known when the service starts (closed label sets: never a task, a session or a
project), so each exists from the start, at zero.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4"
TIME_LOST = ("gap", "restart", "back", "damaged")
"""Reasons for time that the lease clock did not count."""
_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_WAITS_S = (*_FAST_S, 2.5, 10.0, 30.0)


@dataclass(frozen=True)
class Family:
    """One metric, whose series are the combinations of its labels' values."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    about: str
    labels: dict[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()

    def register(self, registry: CollectorRegistry) -> dict[tuple[str, ...], Any]:
        """Return the library's object for each series, by name and label values."""
        labels = tuple(self.labels)
        made: Any
        if self.kind == "histogram":
            made = Histogram(
                self.name, f"{self.about}.", labels, registry=registry, buckets=self.buckets
            )
        else:
            kind = Counter if self.kind == "counter" else Gauge
            made = kind(self.name, f"{self.about}.", labels, registry=registry)
        return {
            (self.name, *values): made.labels(*values) if values else made
            for values in itertools.product(*self.labels.values())
        }


def families(
    codes: Sequence[str],
    routes: Sequence[str],
    acts: Sequence[str],
    forge: tuple[Sequence[str], Sequence[str]],
    version: str,
) -> list[Family]:
    """Return all metrics of the service. `codes`: codes of problems; `routes` and `acts`: names;
    `forge`: names of event types and of their results."""
    told: list[tuple[str, str, str, dict[str, tuple[str, ...]], tuple[float, ...]]] = [
        (
            "dibs_acts_total",
            "counter",
            "Acts by outcome: granted (a new claim), ok, or a problem's code",
            {"act": tuple(acts), "outcome": ("granted", "ok", *codes)},
            (),
        ),
        (
            "dibs_request_seconds",
            "histogram",
            "Time to answer a request, including claims that wait, without event streams",
            {"route": tuple(routes)},
            _WAITS_S,
        ),
        (
            "dibs_store_seconds",
            "histogram",
            "Time of a batch of commands to the store, including its replies",
            {},
            _FAST_S,
        ),
        ("dibs_store_up", "gauge", "1 if the store answered the last check", {}, ()),
        (
            "dibs_store_unsafe",
            "gauge",
            "1 while new claims are refused, because the store may not keep them",
            {},
            (),
        ),
        (
            "dibs_store_full",
            "gauge",
            "1 while new claims are refused, because the private store's disk is nearly full",
            {},
            (),
        ),
        (
            "dibs_store_outages_total",
            "counter",
            "Times that the store was found unreachable",
            {},
            (),
        ),
        (
            "dibs_time_lost_total",
            "counter",
            "Times that the lease clock did not count for a while, by reason",
            {"why": TIME_LOST},
            (),
        ),
        (
            "dibs_store_memory_bytes",
            "gauge",
            "Memory that the store uses, and may use (0: no limit)",
            {"what": ("used", "limit")},
            (),
        ),
        (
            "dibs_claims",
            "gauge",
            "Claims in all projects, as last swept",
            {"state": ("held", "parked", "review", "lapsed", "done")},
            (),
        ),
        ("dibs_queue_tickets", "gauge", "Sessions that wait in queues, as last swept", {}, ()),
        (
            "dibs_projects",
            "gauge",
            "Projects that have claims, or had some within the retention",
            {},
            (),
        ),
        ("dibs_lapses_total", "counter", "Claims whose deadline passed", {}, ()),
        ("dibs_breaks_total", "counter", "Claims that a person ended", {}, ()),
        (
            "dibs_rate_refusals_total",
            "counter",
            "Requests over the rate of their session, project or address",
            {"whose": ("session", "project", "address")},
            (),
        ),
        (
            "dibs_reads_refused_total",
            "counter",
            "Reads refused because too many others waited",
            {},
            (),
        ),
        ("dibs_streams", "gauge", "Event streams and waiting claims that are open", {}, ()),
        ("dibs_connections", "gauge", "Connections that are open", {}, ()),
        (
            "dibs_connections_refused_total",
            "counter",
            "Connections closed by a limit: too many, a request too slow, too large or malformed, "
            "too many bytes pipelined, an unread answer, or idle when a new connection needs room",
            {"why": ("many", "slow", "large", "malformed", "pipelined", "unread", "quiet")},
            (),
        ),
        (
            "dibs_forge_events_total",
            "counter",
            "Events delivered by a forge, by type and result",
            {"event": tuple(forge[0]), "result": tuple(forge[1])},
            (),
        ),
        ("dibs_build_info", "gauge", "1, with the version", {"version": (version,)}, ()),
    ]
    return [Family(*each) for each in told]


class Metrics:
    """The counters of one service."""

    def __init__(self, families: Sequence[Family]) -> None:
        # The library would add an unused series with a timestamp for each series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._series: dict[tuple[str, ...], Any] = {}
        for family in families:
            self._series |= family.register(self._registry)
        ProcessCollector(registry=self._registry)

    def add(self, name: str, *values: str, by: float = 1.0) -> None:
        """Add to a counter. A label value outside the closed set is a bug: KeyError."""
        self._series[name, *values].inc(by)

    def set(self, name: str, *values: str, to: float) -> None:
        """Set a gauge."""
        self._series[name, *values].set(to)

    def observe(self, name: str, *values: str, value: float) -> None:
        """Observe a value in its histogram."""
        self._series[name, *values].observe(value)

    def text(self) -> bytes:
        """Return every metric in the Prometheus text format."""
        return generate_latest(self._registry)
