"""The sentences in responses to people and CI: why the service did not carry out a decision."""

from collections.abc import Sequence

from dibs.messages import who, word
from dibs.model import Claim, Free


def still_held(now: Claim | Free) -> str:
    """Return that a task cannot be retried because a session has it."""
    has = who(now.holder) if isinstance(now, Claim) else "somebody"
    return (
        f"{has} has {word(now.task)} now, so there is nothing to retry. Break the claim first if "
        "it has to end."
    )


def newer(now: Claim | Free, fence: int | None) -> str:
    """Return that a verdict is not about the current tenure of a task."""
    task = word(now.task)
    if isinstance(now, Claim) and now.fence == fence:
        return f"{task} is on another pull request: {word(now.pr or '')}. Nothing was changed."
    if isinstance(now, Claim) and fence:
        return (
            f"Fence {fence} is not the current one of {task}. {_has(now)} with fence {now.fence}. "
            "Nothing was changed."
        )
    has = f" {_has(now)}." if isinstance(now, Claim) else ""
    return f"The verdict is not about the latest tenure of {task}.{has} Nothing was changed."


def ambiguous(tasks: Sequence[str]) -> str:
    """Return that a verdict matches more than one task."""
    named = " and ".join(map(word, tasks))
    return f"{named} are both on that pull request or branch. Name the task, with its fence."


def unmatched(asked: str) -> str:
    """Return that no task in the store matches a verdict."""
    return (
        f"No session has or had a task with the name, pull request or branch {word(asked)}, or its "
        "record is no longer kept. Nothing was changed."
    )


def moved(now: Claim | Free, fence: int) -> str:
    """Return that a person named a fence that is not current."""
    task = word(now.task)
    if isinstance(now, Free) or now.state == "done":
        return f"Nothing was changed: no session holds {task} with fence {fence} any more."
    return (
        f"Nothing was changed: fence {fence} is not the current one of {task}. {_has(now)} with "
        f"fence {now.fence}. Send that fence if you mean this claim."
    )


def _has(now: Claim) -> str:
    """Return who has a task, who finished it, or who had it until it lapsed."""
    if now.state == "lapsed":
        return f"Its claim lapsed; {who(now.holder)} had it last"
    if now.state == "done":
        return f"It was done by {who(now.holder)}"
    return f"{who(now.holder)} has it"
