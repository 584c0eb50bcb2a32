"""Events in words, and what holders are called."""

from dibs.words import Event, Holder


def name(holder: Holder | None) -> str:
    """Return what to call a holder."""
    if holder is None:
        return "somebody"
    return holder.label or holder.ref or "somebody"


def said(event: Event) -> tuple[str, str]:
    """Return an event in words: before and after the task's name."""
    who = name(event.holder)
    match event.type:
        case "lapsed":
            return "", f" lapsed: {who} was not heard from"
        case "broken":
            return f"{event.by or 'somebody'} broke ", f", which {who} held"
        case "queued":
            return f"{who} waits for ", ""
        case "unqueued":
            return f"{who} no longer waits for ", ""
        case "done":
            return f"{who} finished ", ""
        case "revived":
            return f"{who} came back to ", ""
        case "resumed":
            return f"{who} went on with ", ""
        case "abandoned":
            return f"{who} gave up ", ""
        case "damaged":
            return "Something happened that nobody can read ", ""
        case other:
            return f"{who} {other} ", ""


def sentence(event: Event) -> str:
    """Return an event as plain text, for screen readers and notifications."""
    before, after = said(event)
    return f"{before}{event.task}{after}"
