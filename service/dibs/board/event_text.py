"""Events in words, and what holders are called."""

from dibs.model import Event, Holder

_SAID = {
    "lapsed": "* lapsed: {who} was not heard from",
    "broken": "{by} broke *, which {who} held",
    "queued": "{who} waits for *",
    "unqueued": "{who} no longer waits for *",
    "review": "{who} waits for a review of *",
    "rejected": "{by} rejected *, which {who} had",
    "revived": "{who} came back to *",
    "resumed": "{who} went on with *",
    "abandoned": "{who} gave up *",
    "listed": "*{rest} {was} listed",
    "changed": "*{rest} {was} changed in the list",
    "dropped": "*{rest} {was} dropped from the list",
    "ready": "*{rest} {are} ready",
    "blocked": "*{rest} {are} blocked",
    "failed": "* failed: its attempts are used up",
    "retried": "{by} lets * be tried again",
    "on-hold": "{by} put * on hold",
    "damaged": "Something happened that nobody can read *",
}
"""What to say of an event; the star stands for its task."""
_OTHERWISE = {
    "off-hold": ("* is no longer on hold", "{by} ended the hold on *"),
    "done": ("{who} finished *", "* was merged, which {who} had"),
}
"""What happened by itself, and what somebody else did."""


def name(holder: Holder | None) -> str:
    """Return what to call a holder."""
    if holder is None:
        return "somebody"
    return holder.label or holder.ref or "somebody"


def said(event: Event, more: int = 0) -> tuple[str, str]:
    """Return an event, and `more` of its kind, in words: before and after the task's name."""
    words = _SAID.get(event.type)
    if event.type in _OTHERWISE:
        words = _OTHERWISE[event.type][bool(event.by)]
    if words is None:
        return f"{name(event.holder)} {event.type} ", ""
    before, after = words.split("*")
    facts = {
        "who": name(event.holder),
        "by": event.by or "somebody",
        "rest": f" and {more} more" if more else "",
        "was": "were" if more else "was",
        "are": "are" if more else "is",
    }
    return before.format(**facts), after.format(**facts)


def sentence(event: Event) -> str:
    """Return an event as plain text, for screen readers and notifications."""
    before, after = said(event)
    return f"{before}{event.task or 'the project'}{after}"
