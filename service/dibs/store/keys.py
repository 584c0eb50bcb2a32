"""The prefix of a project's keys, and the version of the data format."""

from dibs.words import Project

FORMAT = "2"
"""The version of the data in the store. It changes when an older service would misread a record."""


def keys(project: Project) -> str:
    """Return what every key of a project starts with: a hash tag, so that all are in one slot."""
    return "dibs:{" + project + "}"
