"""Rate limits in the memory of one process: for calls that write nothing to the store, or whose
count may be lost with the process. Each process has its own, so N processes allow N times as much.
"""

from collections import OrderedDict

NAMES_MOST = 10_000
"""Names remembered at most. Beyond that, the name used longest ago starts again."""


class RateLimit:
    """A rate per second for each name, with a burst that an idle name saves up (GCRA)."""

    def __init__(self, per_s: float, saved_s: float) -> None:
        """`per_s` 0 is no limit; `saved_s`: seconds of its rate that a name can save up."""
        self.per_s, self._saved_s = per_s, saved_s
        self._paid: OrderedDict[str, float] = OrderedDict()
        """By name, the instant at which all admitted calls are paid for."""

    def wait_s(self, name: str, now_s: float) -> float:
        """Return the seconds that `name` has to wait, 0 if none."""
        if not self.per_s:
            return 0.0
        return max(0.0, self._paid.get(name, 0.0) - now_s - self._saved_s)

    def pay(self, name: str, now_s: float, cost: float = 1.0) -> None:
        """Count an admitted call."""
        if not self.per_s:
            return
        paid = max(self._paid.pop(name, 0.0), now_s)
        self._paid[name] = paid + cost / self.per_s
        if len(self._paid) > NAMES_MOST:
            self._paid.popitem(last=False)
