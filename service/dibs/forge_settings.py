"""The settings for a forge: its secrets, the projects of repositories, and the label of issues."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_settings import BaseSettings, NoDecode

from dibs import model
from dibs.setting_values import Keys

_REPOSITORY = re.compile(r"[a-z0-9_.-]+/[a-z0-9_.-]+")


def _pairs(value: object) -> object:
    """Return `owner/repo=project,…` as pairs."""
    if not isinstance(value, str):
        return value
    pairs = []
    for text in filter(None, (each.strip() for each in value.split(","))):
        repository, _, project = (part.strip() for part in text.partition("="))
        if not _REPOSITORY.fullmatch(repository.lower()):
            raise ValueError(f"{text[:100]!r} is not of the form owner/repo=project")
        pairs.append((repository.lower(), model.project(project)))
    if not pairs:
        raise ValueError("is set but names no repository: add owner/repo=project, or unset it")
    if len(dict(pairs)) < len(pairs):
        raise ValueError("names a repository twice: give each repository one project")
    return tuple(pairs)


def _label(value: object) -> object:
    if isinstance(value, str) and len(value.strip()) > 50:
        raise ValueError("must be a label of at most 50 characters")
    return value.strip() if isinstance(value, str) else value


Repositories = Annotated[
    tuple[tuple[str, str], ...],
    NoDecode,
    BeforeValidator(_pairs),
    PlainSerializer(lambda pairs: ",".join("=".join(pair) for pair in pairs)),
]


class ForgeSettings(BaseSettings):
    """The settings for a forge; part of Settings."""

    github_secret: Keys = Field(
        (),
        description="secrets of GitHub webhooks, comma-separated so that they can be rotated; at "
        "least 20 characters each; none: the service has no /hooks/github",
    )
    github_label: Annotated[str, BeforeValidator(_label)] = Field(
        "",
        description="GitHub issues with this label are listed as tasks `#N`, and dropped when they "
        "lose it or are closed; none: issues are ignored",
    )
    github_projects: Repositories = Field(
        (),
        description="projects of GitHub repositories, `owner/repo=project`, comma-separated; a "
        "repository that is not named here gets the client's default project, `owner.repo`",
    )
