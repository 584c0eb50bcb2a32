"""The prefix of a project's keys, and the version of the data format."""

from dibs.model import Project

FORMAT = "3"
"""The version of the data in the store. It changes when an older service would misread a record."""
FORMAT_BEFORE = "2"
"""What this one reads as well, and goes on with: it knew of no list, else it is the same."""


def keys(project: Project) -> str:
    """Return what every key of a project starts with: a hash tag, so that all are in one slot."""
    return "dibs:{" + project + "}"
