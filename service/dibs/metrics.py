"""What is counted, in memory that all processes of one service share.

Every series is known when the service starts (closed label sets: never a task, a session or a
project), so each has a fixed cell: counting costs an addition. Each process adds to a row of its
own, without a lock; a scrape, by whichever process answers it, sums the rows. A process that is
started again goes on with the row of the one before it, so no counter falls. The library writes the
text; its own way for several processes keeps files that somebody has to clear.
"""

import contextlib
import itertools
import mmap
import os
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

CONTENT_TYPE = "text/plain; version=0.0.4"

_MADE: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
__all__ = ["CONTENT_TYPE", "Cells", "Family", "Metrics", "families"]
_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_WAITS_S = (*_FAST_S, 2.5, 10.0, 30.0)


@dataclass(frozen=True)
class Family:
    """One metric: its series are the combinations of its labels' values."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    about: str
    labels: dict[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()
    start: int = 0
    """Its first cell in a row."""

    @property
    def width(self) -> int:
        """Cells of one series: a value; or the buckets, +Inf, and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def metric(self, sums: Sequence[float]) -> Any:
        """Return this metric as the library writes it, from the cells of a row."""
        made = _MADE[self.kind](self.name, f"{self.about}.", labels=tuple(self.labels))
        for place, values in enumerate(self.series):
            at = self.start + place * self.width
            if self.buckets:
                bounds = (*map(str, self.buckets), "+Inf")
                counts = itertools.accumulate(sums[at : at + len(bounds)])
                made.add_metric(
                    values, list(zip(bounds, counts, strict=True)), sums[at + len(bounds)]
                )
            else:
                made.add_metric(values, sums[at])
        return made

    @property
    def series(self) -> list[tuple[str, ...]]:
        """The label values of each series, in the order of their cells."""
        return list(itertools.product(*self.labels.values()))


def families(codes: Sequence[str], routes: Sequence[str], version: str) -> list[Family]:
    """Return every metric of the service. `codes` are the problems', `routes` the routes' names."""
    acts = ("claim", "heartbeat", "release", "break", "show", "list")
    told: list[tuple[str, str, str, dict[str, tuple[str, ...]], tuple[float, ...]]] = [
        (
            "dibs_acts_total",
            "counter",
            "Acts by what came of them: granted (a new claim), ok, or a problem's code",
            {"act": acts, "outcome": ("granted", "ok", *codes)},
            (),
        ),
        (
            "dibs_request_seconds",
            "histogram",
            "Time to answer a request; event streams are not in it, claims that wait are",
            {"route": tuple(routes)},
            _WAITS_S,
        ),
        (
            "dibs_store_seconds",
            "histogram",
            "Time for a batch of commands to the store and its answers",
            {},
            _FAST_S,
        ),
        ("dibs_store_up", "gauge", "Processes whose last look at the store was answered", {}, ()),
        (
            "dibs_store_unsafe",
            "gauge",
            "Processes that grant nothing, because the store may not keep it",
            {},
            (),
        ),
        (
            "dibs_store_full",
            "gauge",
            "Processes that refuse new claims, because the private store's disk is nearly full",
            {},
            (),
        ),
        (
            "dibs_store_outages_total",
            "counter",
            "Times that a process found the store unreachable",
            {},
            (),
        ),
        (
            "dibs_time_lost_total",
            "counter",
            "Times that the lease clock was found not to have counted, and why",
            {"why": ("gap", "restart", "back")},
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
            {"state": ("held", "parked", "lapsed", "done")},
            (),
        ),
        ("dibs_queue_tickets", "gauge", "Sessions that wait in queues, as last swept", {}, ()),
        ("dibs_projects", "gauge", "Projects that have, or lately had, claims", {}, ()),
        ("dibs_lapses_total", "counter", "Claims whose deadline passed", {}, ()),
        ("dibs_breaks_total", "counter", "Claims that a person ended", {}, ()),
        (
            "dibs_rate_refusals_total",
            "counter",
            "Requests over the rate of their session or project",
            {"whose": ("session", "project", "address")},
            (),
        ),
        ("dibs_streams", "gauge", "Event streams and waiting claims that are open", {}, ()),
        ("dibs_connections", "gauge", "Connections that are open", {}, ()),
        (
            "dibs_connections_refused_total",
            "counter",
            "Connections closed by a limit: too many, a request too slow, too large or malformed, "
            "too much behind one request, an answer that nobody reads, quiet while others want in",
            {"why": ("many", "slow", "large", "malformed", "pipelined", "unread", "quiet")},
            (),
        ),
        ("dibs_workers", "gauge", "Processes that serve", {}, ()),
        ("dibs_worker_deaths_total", "counter", "Processes that ended unasked", {}, ()),
        ("dibs_resident_memory_bytes", "gauge", "Memory of the processes that serve", {}, ()),
        ("dibs_open_fds", "gauge", "File descriptors of the processes that serve", {}, ()),
        ("dibs_build_info", "gauge", "1, with the version", {"version": (version,)}, ()),
    ]
    found, start = [], 0
    for name, kind, about, labels, buckets in told:
        family = Family(name, kind, about, labels, buckets, start)
        start += family.width * len(family.series)
        found.append(family)
    return found


class Cells:
    """Rows of numbers that several processes share, through a file that has no name."""

    def __init__(self, fd: int, rows: int, width: int) -> None:
        self.fd, self.rows, self.width = fd, rows, width
        self._map = mmap.mmap(fd, rows * width * 8)
        self._all: memoryview[float] = memoryview(self._map).cast("d")

    @classmethod
    def make(cls, rows: int, width: int) -> "Cells":
        """Return new rows, all zero."""
        if sys.platform == "linux":
            fd = os.memfd_create("dibs-metrics")
        else:
            fd, path = tempfile.mkstemp(prefix="dibs-metrics-")
            os.unlink(path)
        os.ftruncate(fd, rows * width * 8)
        return cls(fd, rows, width)

    def row(self, number: int) -> "memoryview[float]":
        """Return one process's row."""
        return self._all[number * self.width : (number + 1) * self.width]

    def sums(self) -> list[float]:
        """Return the sum of the rows."""
        rows = [self.row(number).tolist() for number in range(self.rows)]
        return [sum(column) for column in zip(*rows, strict=True)]


class Metrics:
    """What one process counts."""

    def __init__(self, families: Sequence[Family], cells: Cells | None = None, row: int = 0):
        """`cells` is shared by the processes of a service; each has its own `row` in it."""
        last = families[-1]
        width = last.start + last.width * len(last.series)
        self._families = families
        self._cells = cells or Cells.make(1, width)
        if self._cells.width != width:
            raise ValueError("the processes of a service count different things")
        self._row = self._cells.row(row)
        self._at: dict[tuple[str, ...], int] = {}
        self._buckets: dict[str, tuple[float, ...]] = {}
        for family in families:
            for place, values in enumerate(family.series):
                self._at[family.name, *values] = family.start + place * family.width
            self._buckets[family.name] = family.buckets
            if family.kind == "gauge":  # those of a process that had this row before
                for values in family.series:
                    self._row[self._at[family.name, *values]] = 0.0

    @staticmethod
    def width(families: Sequence[Family]) -> int:
        """Return how many cells a row needs."""
        return families[-1].start + families[-1].width * len(families[-1].series)

    def add(self, name: str, *values: str, by: float = 1.0) -> None:
        """Add to a counter. A value outside the closed set is a mistake of ours: KeyError."""
        self._row[self._at[name, *values]] += by

    def set(self, name: str, *values: str, to: float) -> None:
        """Set this process's part of a gauge."""
        self._row[self._at[name, *values]] = to

    def observe(self, name: str, *values: str, value: float) -> None:
        """Count a value into its histogram."""
        at, buckets = self._at[name, *values], self._buckets[name]
        row = self._row
        row[at + bisect_left(buckets, value)] += 1.0
        row[at + len(buckets) + 1] += value

    def set_process(self) -> None:
        """Set what this process uses, where the system tells."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open("/proc/self/statm", "rb") as statm:
                pages = int(statm.read().split()[1])
            self.set("dibs_resident_memory_bytes", to=pages * mmap.PAGESIZE)
            self.set("dibs_open_fds", to=len(os.listdir("/proc/self/fd")))

    def text(self) -> bytes:
        """Return every metric of every process in the Prometheus text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """Give the library each metric, summed over the processes."""
        sums = self._cells.sums()
        for family in self._families:
            yield family.metric(sums)
