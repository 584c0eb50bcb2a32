"""The acts of dibs, one file each, and their registry.

To add one: CONTRIBUTING.md, "To add an act".
"""

from dibs.acts import (
    backlog,
    break_,
    claim,
    heartbeat,
    history,
    hold,
    list_,
    release,
    resolve,
    retry,
    show,
    task,
    tasks,
    unhold,
)
from dibs.acts.act import Act
from dibs.store.scripts import Declaration

ACTS: tuple[Act, ...] = (
    claim.ACT,
    heartbeat.ACT,
    release.ACT,
    break_.ACT,
    hold.ACT,
    unhold.ACT,
    retry.ACT,
    resolve.ACT,
    tasks.ACT,
    list_.ACT,
    show.ACT,
    backlog.ACT,
    task.ACT,
    history.ACT,
)
POSTS = {act.path: act for act in ACTS if act.method == "POST"}
"""The acts with POST, by the last part of their paths."""
READS = frozenset(act.path for act in ACTS if act.method == "GET")
"""The paths of acts that only read; some of these paths also take POST."""
SCRIPTS: dict[str, Declaration] = {
    module.SCRIPT.name: module.SCRIPT
    for module in (
        *(claim, heartbeat, release, break_, hold, unhold, retry, resolve),
        *(tasks, list_, show, backlog, task, history),
    )
}
