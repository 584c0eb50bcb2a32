"""The board's script, style and icons."""

import hashlib
from importlib import resources
from pathlib import Path

_STATIC = Path(str(resources.files("dibs.board"))) / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ASSETS = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _TYPES}
_VERSION = hashlib.sha256(b"".join(ASSETS[name] for name in sorted(ASSETS))).hexdigest()[:12]


def media_type(asset: str) -> str:
    """Return the media type of an asset."""
    return _TYPES["." + asset.rpartition(".")[2]]


def asset(name: str) -> str:
    """Return an asset's path, which changes with the assets, so that browsers may cache them."""
    return f"/board/{name}?{_VERSION}"
