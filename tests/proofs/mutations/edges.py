"""Bugs at the edges: odd settings, odd requests, places that cannot be written."""

from tests.proofs.mutations.mutant import Mutant

MUTANTS = [
    Mutant(
        "a caller with an admin key counts as a stranger on an open service",
        "api/access.py",
        "the rate of an address is for callers without a key (rule 16)",
        "keys = self._team + self._admin + self._ci\n",
        "keys = self._team\n",
        (
            "tests/http/test_access.py::test_whoever_shows_a_key_is_no_stranger_where_everybody_may_read",
        ),
    ),
    Mutant(
        "a task with the name of an act is taken for the act",
        "api/errors.py",
        "`Allow` names the right methods",
        "POSTS.get(parts[3]) if len(parts) == 4 else None",
        "POSTS.get(parts[-1])",
        ("tests/http/test_bad_input.py::test_a_wrong_method_is_told_which_are_right",),
    ),
    Mutant(
        "an empty flag counts as left out",
        "cli.py",
        "an empty setting is an error (rule 19)",
        "if isinstance(value, str) and not value.strip()]",
        "if value is None]",
        ("tests/ops/test_settings.py",),
    ),
    Mutant(
        "a service fails to start if it cannot print",
        "serve.py",
        "a service starts on a full disk",
        "    with contextlib.suppress(OSError):\n        print(*said",
        "    with contextlib.suppress(ValueError):\n        print(*said",
        ("tests/ops/test_start.py::test_a_service_starts_though_nobody_can_hear_where_it_is",),
    ),
    Mutant(
        "an invalid public URL is accepted",
        "setting_values.py",
        "a wrong value is reported in one line",
        "    except ValueError:\n        return False\n    return bool(place.hostname and ",
        "    except ValueError:\n        return True\n    return bool(",
        ("tests/ops/test_settings.py",),
    ),
    Mutant(
        "a silent Sentinel holds up the lookup",
        "store/redis/answers.py",
        "a replaced primary is left within a second",
        "            await asyncio.wait(pending, timeout=STRAGGLERS_S)",
        "            await asyncio.wait(pending)",
        ("tests/store/test_link.py::test_a_sentinel_that_says_nothing_holds_up_nobody",),
    ),
    Mutant(
        "a follower of the events ends at an odd answer of the store",
        "store/broadcast.py",
        "a reader misses no event (I12)",
        "                with contextlib.suppress(RedisError, StoreDown, OSError):",
        "                with contextlib.suppress(StoreDown):",
        (
            "tests/store/test_events.py::"
            "test_a_store_that_answers_oddly_for_a_while_leaves_nobody_listening_in_vain",
        ),
    ),
    Mutant(
        "a stream of one task sends nothing while other tasks change",
        "api/routes.py",
        "a stream sends something every 15 s",
        "                    if not told:  #",
        "                    if not events:  #",
        (
            "tests/http/test_events.py::"
            "test_a_stream_of_a_task_to_which_nothing_happens_says_that_it_is_there",
        ),
    ),
    Mutant(
        "a followed board counts as two streams",
        "board/feed.py",
        "dibs_streams counts clients",
        "listen(self.project, caller=False)",
        "listen(self.project)",
        ("tests/board/test_feed.py::test_nobody_is_followed_for_nobody",),
    ),
    Mutant(
        "after an outage a board updates clocks that its page does not have",
        "board/rows.py",
        "a followed page stays live",
        "    if isinstance(now, Free) or row.kind in OVER:",
        "    if isinstance(now, Free):",
        ("tests/board/test_feed.py::test_an_outage_moves_no_clock_of_what_is_over",),
    ),
    Mutant(
        "a repository whose page is no URL is an internal error",
        "forge/repository.py",
        "no field of a delivery is trusted to have its type",
        '    except ValueError:\n        return Project("")',
        '    except TypeError:\n        return Project("")',
        ("tests/forge/test_webhook.py::test_what_is_no_page_of_a_repository_has_no_project",),
    ),
]
