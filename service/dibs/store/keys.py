"""The prefix of a project's keys, and the version of the data format."""

from dibs.model import Project

FORMAT = "3"
"""The version of the data in the store. It changes when an older service would misread a record."""
FORMAT_BEFORE = "2"
"""The previous version, which dibs can also read and upgrades: the same, but without the list."""


def keys(project: Project) -> str:
    """Return the prefix of a project's keys: a hash tag, so that all are in one cluster slot."""
    return "dibs:{" + project + "}"
