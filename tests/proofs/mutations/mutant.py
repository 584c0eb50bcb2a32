"""One bug, as an edit: a text of the code, and its replacement."""

from dataclasses import dataclass

BOUNDARIES = "tests/proofs/test_boundaries.py"
FAILOVER = "tests/ops/test_failover.py"
MACHINE = "tests/proofs/test_state_machine.py"
SMUGGLING = "tests/http/test_smuggling.py::test_"
EVICTION = "tests/store/test_eviction.py"
DAMAGE = ("tests/store/test_damage.py",)
PARTS = "tests/client/test_parts.py::test_"
ADMISSION = "tests/ops/test_admission.py::test_"
HISTORY = ("tests/promises/test_history.py",)
ATTEMPTS = ("tests/promises/test_attempts.py",)
HOLDS = ("tests/promises/test_holds.py",)
BYTES = ("tests/promises/test_bytes.py",)
CONFUSABLES = "tests/promises/test_confusables.py"
REVIEW = "tests/board/test_review.py::test_"
CLIENT_REVIEW = "tests/client/test_review.py::test_"
LISTS = "tests/promises/test_tasks.py"
LISTED = (LISTS, MACHINE)
REVIEWS = ("tests/promises/test_review.py",)
FORGE = ("tests/forge/test_webhook.py",)
FUNCTIONS = "tests/store/test_functions.py::test_"
ACTS = ("tests/harness/test_acts.py",)


@dataclass(frozen=True)
class Mutant:
    """One bug, the promise that it breaks, and the tests that may catch it."""

    name: str
    file: str
    breaks: str
    old: str
    new: str
    tests: tuple[str, ...] = (BOUNDARIES, MACHINE)
