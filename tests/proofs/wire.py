"""HTTP replies, translated into the model's terms."""

from typing import Any

CODES = {"reserved": "held", "moved": "not-holder"}
"""The store's verdicts that the wire names differently."""


def claim(said: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a claim object, as `seen.task` does."""
    if not said.get("grants"):
        return {"task": said["task"], "state": said["state"]}
    shown = ("task", "state", "grants", "lapses", "waiters", "attempt")
    facts = {name: said[name] for name in shown}
    if said["state"] in ("free", "failed"):
        return facts
    before, holder = said["previous"], said["holder"]
    return facts | {
        "fence": said["fence"],
        "ref": holder["ref"],
        "label": holder["label"] or "",
        "note": said["note"] or "",
        "mine": said["mine"],
        "ttl": said["ttl"],
        "expires_in": said["expires_in"],
        "stale": said["stale"],
        "previous": before and (before["outcome"], before["holder"]["ref"], before["note"] or ""),
    }


def losses(told: list[dict[str, Any]]) -> list[Any]:
    return sorted(
        (
            each["task"],
            each["fence"],
            each["reason"],
            (each["by"] or {}).get("label") or "",
            each["note"] or "",
        )
        for each in told
    )


def said(status: int, body: dict[str, Any]) -> Any:
    """Return a reply as (answer, facts, lost)."""
    lost = losses(body.get("lost", []))
    if status in (200, 201):
        if "released" in body:
            return "ended", [ended(each) for each in body["released"]], lost
        if "already" in body:
            return "ended", [ended(body)], lost
        claims = body.get("claims", [body])
        return "kept", sorted(map(claim, claims), key=by_task), lost
    code = body["code"]
    if code in ("held", "cooling", "done", "failed"):
        conflicts = body.get("conflicts") or [{**body, "retry_after": body.get("retry_after")}]
        refusals = [(each["code"], claim(each["claim"]), each["retry_after"]) for each in conflicts]
        return "refused", refusals, lost
    if code in ("lost", "not-holder"):
        return "not-mine", (code, claim(body["claim"])), lost
    if code == "fence-moved":
        return "moved", claim(body["claim"]), lost
    return code, None, lost


def ended(each: dict[str, Any]) -> tuple[str, str, bool]:
    return each["task"], each["state"], each["already"]


def by_task(facts: dict[str, Any]) -> str:
    return str(facts["task"])


def told(answer: Any) -> Any:
    """Return a model's answer, reduced to the facts on the wire."""
    word, facts, lost = answer
    if word == "granted":
        word, facts = "kept", facts[1]
    if word == "kept":
        facts = sorted(facts, key=by_task)
    if word == "refused":
        facts = [
            (CODES.get(each["verdict"], each["verdict"]), each["claim"], each["retry_after"])
            for each in facts
        ]
    if word == "not-mine":
        facts = (CODES.get(facts[0], facts[0]), facts[1])
    return word, facts, lost
