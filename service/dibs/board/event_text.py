"""Sentences about events, and the names of holders."""

from dibs.model import Event, Holder

_SAID = {
    "lapsed": "* lapsed: {who} sent no heartbeat in time",
    "broken": "{by} broke *, which {who} held",
    "queued": "{who} waits for *",
    "unqueued": "{who} no longer waits for *",
    "review": "{who} waits for a review of *",
    "rejected": "{by} rejected *, which {who} had",
    "revived": "{who} took * back",
    "resumed": "{who} resumed *",
    "abandoned": "{who} gave up *",
    "listed": "*{rest} {was} listed",
    "changed": "*{rest} {was} changed in the list",
    "dropped": "*{rest} {was} dropped from the list",
    "ready": "*{rest} {are} ready",
    "blocked": "*{rest} {are} blocked",
    "failed": "* failed: its attempts are used up",
    "retried": "{by} lets * be tried again",
    "on-hold": "{by} put * on hold",
    "damaged": "An event of * cannot be read",
}
"""The sentence for each type of event; the star is replaced by its task."""
_OTHERWISE = {
    "off-hold": ("* is no longer on hold", "{by} ended the hold on *"),
    "done": ("{who} finished *", "* was merged, which {who} had"),
}
"""Sentences for types of two kinds: without `by`, and with it (another party acted)."""


def name(holder: Holder | None) -> str:
    """Return the name of a holder: its label or ref."""
    if holder is None:
        return "somebody"
    return holder.label or holder.ref or "somebody"


def said(event: Event, more: int = 0) -> tuple[str, str]:
    """Return the sentence for an event and `more` of its type: the parts before and after the
    task's name."""
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
