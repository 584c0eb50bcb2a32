"""How the keys of a project begin."""

from dibs.words import Project


def keys(project: Project) -> str:
    """Return what every key of a project starts with: a hash tag, so that all are in one slot."""
    return "dibs:{" + project + "}"
