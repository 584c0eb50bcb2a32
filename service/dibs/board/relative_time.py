"""Running clocks in HTML: filled in when a page is sent, then updated by the browser.

A template writes a clock as a kind and an instant. The text around the clocks is rendered once per
change of a claim; the clocks are filled in at each paint. `span` has a twin in board.js.
"""

import secrets
from typing import NewType

from markupsafe import Markup

Html = NewType("Html", tuple[str, ...])
"""Text and clocks in turn, text first."""

_EDGE = f"\0{secrets.token_hex(8)}\0"
"""A mark that no outside text can contain: it is random in each process."""


def span(ms: int, *, fine: bool = False) -> str:
    """Return a span of time for people; `fine`: with seconds below five minutes."""
    s = max(0, ms) // 1000
    if s < 60:
        return f"{s} s" if fine else "<1 min"
    if s < 300 and fine:
        return f"{s // 60} min {s % 60:02} s"
    if s < 3600:
        return f"{s // 60} min"
    if s < 48 * 3600:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 86_400} d"


def utc(ms: int) -> str:
    """Return the time of day of an instant, in UTC."""
    seconds = ms // 1000
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def clock(kind: str, ms: int) -> Markup:
    """Return the placeholder of a clock: `ago`, `held` (since), `left` (until) or `share`."""
    return Markup(f"{_EDGE}{kind} {ms}{_EDGE}")  # noqa: S704 - a constant and a number


def time(kind: str, ms: int, mark: str = "") -> Markup:
    """Return a clock as an element that the browser ticks."""
    return Markup(f'<time data-t="{ms}"{mark}>{_EDGE}{kind} {ms}{_EDGE}</time>')  # noqa: S704


def cut(html: str) -> Html:
    """Split rendered HTML at its clocks."""
    return Html(tuple(html.split(_EDGE)))


def fill(html: Html, now_ms: int) -> str:
    """Join rendered HTML, with its clocks at `now_ms`."""
    parts = list(html)
    for i in range(1, len(parts), 2):
        kind, _, at = parts[i].partition(" ")
        if kind == "left":
            parts[i] = span(int(at) - now_ms, fine=True)
        elif kind == "share":
            parts[i] = str(max(0, int(at) - now_ms) // 1000)
        else:
            parts[i] = span(now_ms - int(at)).replace("<", "&lt;")
    return "".join(parts)
