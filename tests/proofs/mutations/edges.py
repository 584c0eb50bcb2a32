"""Bugs at the edges: odd settings, odd requests, places that cannot be written to."""

from tests.proofs.mutations.mutant import Mutant

MUTANTS = [
    Mutant(
        "an admin key is a stranger's where everybody may read",
        "api/access.py",
        "the rate of an address is for who shows no key (rule 16)",
        "keys = self._team + self._admin + self._ci\n",
        "keys = self._team\n",
        (
            "tests/http/test_access.py::test_whoever_shows_a_key_is_no_stranger_where_everybody_may_read",
        ),
    ),
    Mutant(
        "a task that is called like an act is taken for it",
        "api/errors.py",
        "`Allow` names the right methods",
        "POSTS.get(parts[3]) if len(parts) == 4 else None",
        "POSTS.get(parts[-1])",
        ("tests/http/test_bad_input.py::test_a_wrong_method_is_told_which_are_right",),
    ),
    Mutant(
        "a flag that is given nothing is taken for left out",
        "cli.py",
        "a setting that is set to nothing is an error (rule 19)",
        "if isinstance(value, str) and not value.strip()]",
        "if value is None]",
        ("tests/ops/test_settings.py",),
    ),
    Mutant(
        "a service starts only where it can say so",
        "serve.py",
        "a full disk keeps no service from starting",
        "    with contextlib.suppress(OSError):\n        print(*said",
        "    with contextlib.suppress(ValueError):\n        print(*said",
        ("tests/ops/test_start.py::test_a_service_starts_though_nobody_can_hear_where_it_is",),
    ),
    Mutant(
        "a public URL without a host is one",
        "setting_values.py",
        "a wrong value is one line",
        "    except ValueError:\n        return False\n    return bool(place.hostname and ",
        "    except ValueError:\n        return True\n    return bool(",
        ("tests/ops/test_settings.py",),
    ),
]
