"""The acts of dibs, one file each, and their registry.

To add one: CONTRIBUTING.md, "An act".
"""

from dibs.acts import break_, claim, heartbeat, list_, release, show
from dibs.acts.act import Act
from dibs.store.scripts import Declaration

ACTS: tuple[Act, ...] = (
    claim.ACT,
    heartbeat.ACT,
    release.ACT,
    break_.ACT,
    list_.ACT,
    show.ACT,
)
POSTS = {act.path: act for act in ACTS if act.method == "POST"}
"""By the last part of their paths."""
SCRIPTS: dict[str, Declaration] = {
    module.SCRIPT.name: module.SCRIPT for module in (claim, heartbeat, release, break_, list_, show)
}
