"""See tests/harness/processes.py and services.py."""

from tests.harness.processes import children as children
from tests.harness.processes import command as command
from tests.harness.processes import is_gone as is_gone
from tests.harness.processes import until as until
from tests.harness.services import DIBS as DIBS
from tests.harness.services import Running as Running
from tests.harness.services import clean_environ as clean_environ
from tests.harness.services import new_session as new_session
