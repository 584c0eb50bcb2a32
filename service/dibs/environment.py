"""Variables of the environment that look like settings, and are none."""

import os
from collections.abc import Mapping

from dibs.settings import Settings


def blank_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of settings that are set, but to nothing.

    `DIBS_TEAM_KEY=$UNSET` would open the service, `DIBS_REDIS_URL=$UNSET` begin an empty store.
    """
    known = (f"DIBS_{name.upper()}" for name in Settings.model_fields)
    return [name for name in known if name in environ and not environ[name].strip()]


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of DIBS_… variables that mean nothing to the service or the client."""
    client = {"DIBS_URL", "DIBS_PROJECT", "DIBS_KEY", "DIBS_SESSION", "DIBS_LABEL", "DIBS_TTL"}
    known = {f"DIBS_{name.upper()}" for name in Settings.model_fields} | client
    return sorted(name for name in environ if name.startswith("DIBS_") and name not in known)
