"""The location of the files that ship with the service: the client and the skill."""

from importlib import resources
from pathlib import Path


def package_folder(folder: str) -> Path:
    """Return the folder `client` or `skill`: in the wheel, or next to the sources."""
    inside = Path(str(resources.files("dibs"))) / folder
    return inside if inside.is_dir() else Path(__file__).parents[2] / folder
