"""Print a software bill of materials (CycloneDX 1.6, JSON) of the pins in requirements.txt.

    python docs/ops/sbom.py > build/sbom.json

It lists each package's version and the hashes of its permitted files.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(
    r"^([A-Za-z0-9_.-]+)==([^\s;]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)+)",
    re.MULTILINE,
)


def component(name: str, version: str, hashes: str) -> dict[str, Any]:
    """Return one package as a CycloneDX component."""
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
        "hashes": [
            {"alg": "SHA-256", "content": digest}
            for digest in re.findall(r"sha256:([0-9a-f]{64})", hashes)
        ],
    }


def bill() -> dict[str, Any]:
    """Return the bill of materials."""
    text = (ROOT / "requirements.txt").read_text("utf-8")
    found = re.search(r'__version__ = "([^"]+)"', (ROOT / "service/dibs/__init__.py").read_text())
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "dibs",
                "version": found[1] if found else "unknown",
            }
        },
        "components": [component(*pin) for pin in _PIN.findall(text)],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bill(), indent=2) + "\n")
