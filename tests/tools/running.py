"""See tests/harness/services.py."""

from tests.harness.services import Service as Service
from tests.harness.services import running as running
