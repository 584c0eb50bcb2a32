"""Checks of environment variables: settings set to nothing, and unknown DIBS_… names."""

import os
from collections.abc import Mapping

from dibs.settings import Settings

OF_THE_CLIENT = frozenset(
    (
        *("DIBS_URL", "DIBS_PROJECT", "DIBS_KEY", "DIBS_IDENTITY_KEY", "DIBS_SESSION"),
        *("DIBS_LABEL", "DIBS_TTL", "DIBS_GATE", "DIBS_TASK", "DIBS_FENCE"),
    )
)
"""Variables that the client reads, or sets for the commands it runs."""


def blank_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of settings that are set to nothing.

    `DIBS_TEAM_KEY=$UNSET` would open the service; `DIBS_REDIS_URL=$UNSET` would start an empty
    store.
    """
    known = (f"DIBS_{name.upper()}" for name in Settings.model_fields)
    return [name for name in known if name in environ and not environ[name].strip()]


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of DIBS_… variables that neither the service nor the client knows."""
    known = {f"DIBS_{name.upper()}" for name in Settings.model_fields} | OF_THE_CLIENT
    return sorted(name for name in environ if name.startswith("DIBS_") and name not in known)
