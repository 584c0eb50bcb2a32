"""Bugs in the hooks of agents, and in commands that run rarely."""

from tests.proofs.mutations.mutant import CLIENT_REVIEW, PARTS, Mutant

CLEARED = "tests/client/test_continuity.py::test_"
PASSING = "tests/client/test_passing.py::test_"
WORK = "tests/client/test_work.py::test_"
GATE = "tests/client/test_gate.py::test_"
AGENTS = "tests/client/test_agents.py::test_"
IMPORT = "tests/client/test_import.py::test_"
IMPORT_FORMATS = "tests/client/test_import_formats.py::test_"
PEOPLE = "tests/client/test_people.py::test_"

MUTANTS = [
    Mutant(
        "the gate passes a dibs command that may write a secret",
        "client/gate.py",
        "a person sees a command that may write a secret first",
        "        why = reason_to_ask(command)\n",
        '        why = ""\n',
        ("tests/client/test_hooks.py::test_a_person_sees_a_long_or_telling_note_first",),
    ),
    Mutant(
        "--remove leaves hook.py behind",
        "client/install.py",
        "--remove deletes every file of init",
        "    after.update((path, None) for path in (*OURS, SKILL_TOO))\n",
        '    ours = (path for path in (*OURS, SKILL_TOO) if "hook" not in path)\n'
        "    after.update((path, None) for path in ours)\n",
        (PARTS + "a_repository_of_the_version_before_is_upgraded_and_cleaned",),
    ),
    Mutant(
        "a line runs as it was written",
        "client/passing.py",
        "a line without a question runs as it was checked",
        "    text = writer.line(read(line), place.cwd)\n",
        "    text = writer.line(read(line), place.cwd) and line\n",
        (PASSING + "it_passes_from_any_folder_and_runs_by_its_whole_path",),
    ),
    Mutant(
        "any file in the client's place passes as the client",
        "client/passing.py",
        "only this client passes without a question",
        "            os.path.isfile(found) and all(same(folder, own, name) for name in names)\n",
        "            os.path.isfile(found)\n",
        (PASSING + "a_copy_that_is_the_same_to_the_byte_passes_and_runs_as_ours",),
    ),
    Mutant(
        "a filter may read files",
        "client/passing.py",
        "a line without a question reads no files",
        "    if len(others) > most or",
        "    if",
        (PASSING + "nothing_else_passes",),
    ),
    Mutant(
        "a command in quotes is not seen",
        "client/work.py",
        "work is recognized in any spelling",
        "                return any(self.below(word.text) for word in lines if not word.unknown)\n",
        "                return False\n",
        (WORK + "work_is_seen_in_any_spelling_that_a_shell_allows",),
    ),
    Mutant(
        "a change of an ignored file is work",
        "client/work.py",
        "a change that git ignores is no work",
        "        return done.returncode == 0\n",
        "        return False\n",
        (WORK + "what_is_no_work_or_cannot_be_known_is_none",),
    ),
    Mutant(
        "a claim that is over by the local clock counts as lost",
        "client/gate.py",
        "the gate asks before it takes an expired claim for lost",
        "    unconfirmed = confirmed_now(session) if is_unclaimed else []\n",
        "    unconfirmed = []\n",
        (GATE + "what_is_over_by_our_own_clock_is_asked_about_before_an_edit",),
    ),
    Mutant(
        "any held task passes for the one that is named",
        "client/gate.py",
        "the gate checks the task that the session names",
        "    return task in live if task else bool(live)\n",
        "    return bool(live)\n",
        (GATE + "where_a_session_says_what_it_works_on_another_task_does_not_do",),
    ),
    Mutant(
        "a cleared conversation keeps its session",
        "client/hook.py",
        "two live sessions never have one secret",
        "table[new], table[old] = table.get(old, old), table.get(new, new)",
        "table[new] = table.get(old, old)",
        (CLEARED + "a_cleared_conversation_that_is_resumed_is_another_session_by_then",),
    ),
    Mutant(
        "any agent continues a cleared session",
        "client/hook.py",
        "two agents cleared at once are never mixed up",
        "ours = [line for line in fresh if line[1:3] == [place, process]]",
        "ours = fresh[:1]",
        (CLEARED + "two_agents_that_are_cleared_at_once_are_never_mixed_up",),
    ),
    Mutant(
        "the first of two candidates is taken",
        "client/hook.py",
        "none of two possible candidates is taken",
        "        if len(ids) == 1 and heard and heard not in ids:\n",
        "        ids = {*sorted(ids)[:1]}\n        if ids and heard and heard not in ids:\n",
        (
            "tests/client/test_continuity.py::test_where_processes_are_unknown_the_only_candidate"
            "_is_adopted_and_of_two_none",
        ),
    ),
    Mutant(
        "the end of a session overwrites the holder's note",
        "client/hook.py",
        "the next holder gets the last note (rule 21)",
        '**({"note": SESSION_ENDED} if is_silent else {})',
        '"note": SESSION_ENDED',
        (
            "tests/client/test_hooks.py::test_the_next_holder_gets_the_last_note_of_a_session"
            "_that_ended",
        ),
    ),
    Mutant(
        "a clear releases claims",
        "client/hook.py",
        "a clear releases nothing",
        'session.event == "SessionEnd" and payload.get("reason") == "clear"',
        "False",
        (
            "tests/client/test_continuity.py::test_clear_releases_nothing_and_the_next"
            "_conversation_goes_on",
        ),
    ),
    Mutant(
        "a command does not get the id that only the hook knows",
        "client/agents.py",
        "all hooks and shells of an agent share a session",
        '    return [f"{name}={passing.quoted(value)}"] if value else []\n',
        "    return []\n",
        (AGENTS + "the_hook_gives_a_command_the_id_that_its_shell_may_not_know",),
    ),
    Mutant(
        "Cursor gets its decision in Codex's form",
        "client/agents.py",
        "an agent gets decisions in its own form",
        '    "cursor": for_cursor,\n',
        '    "cursor": for_codex,\n',
        (AGENTS + "the_start_tells_what_is_held_in_the_agents_own_form",),
    ),
    Mutant(
        "init writes the version twice",
        "client/install.py",
        "an agent's file keeps its content",
        '        del wanted["version"]  # it is there\n',
        "        pass\n",
        ("tests/client/test_install_agents.py",),
    ),
    Mutant(
        "the end of a turn waits for a service that is down",
        "client/hook.py",
        "a service known to be down does not delay a turn",
        "    return 0 <= since_s < DOWN_S and not",
        "    return False and not",
        (GATE + "a_turns_end_waits_no_second_time_for_a_service_that_hangs",),
    ),
    Mutant(
        "an import without a dry run",
        "client/importing.py",
        "a damaged file changes nothing",
        '{"tasks": batch, "dry_run": True}',
        '{"tasks": batch, "dry_run": False}',
        (IMPORT + "a_plan_is_shown_and_nothing_is_written_without_a_yes",),
    ),
    Mutant(
        "an import sends updates in the order of the file",
        "client/importing.py",
        "each portion of an import is valid alone",
        "(entries[name] for name in self.order if name in updated)",
        "(entries[name] for name in entries if name in updated)",
        (IMPORT + "needs_may_turn_around_from_one_import_to_the_next",),
    ),
    Mutant(
        "an import drops the tasks of another source",
        "client/importing.py",
        "an import drops tasks of its own source only",
        'self.source_of(task) not in self.sources or one["state"] == "done"',
        'one["state"] == "done"',
        (IMPORT + "what_is_gone_is_dropped_of_this_source_alone_or_kept",),
    ),
    Mutant(
        "an import drops done tasks",
        "client/importing.py",
        "an import undoes no done task (rule 25)",
        ' or one["state"] == "done":\n',
        ":\n",
        (IMPORT + "an_import_touches_no_claim_and_undoes_no_done",),
    ),
    Mutant(
        "an import takes the names of another source",
        "client/importing.py",
        "a task is identified by its source and its id there",
        "            if source and source not in self.sources and not is_vague:\n",
        "            if False:\n",
        (IMPORT + "a_name_of_another_source_is_another_task",),
    ),
    Mutant(
        "a phase does not wait for the one before",
        "client/checklists.py",
        "spec-kit's phases are barriers",
        "        barrier = narrowed(ends)\n",
        "        barrier = []\n",
        (IMPORT_FORMATS + "spec_kit_phases_are_barriers_and_p_runs_beside",),
    ),
    Mutant(
        "the admin key goes to any host",
        "client/people.py",
        "the admin key goes to its own host alone",
        '    key = setup.bound("DIBS_ADMIN_KEY", key, place)\n',
        "",
        (PEOPLE + "the_admin_key_goes_to_the_host_that_it_is_for_alone",),
    ),
    Mutant(
        "init replaces somebody else's push hook",
        "client/install.py",
        "init changes no file of somebody else",
        "    if is_elsewhere or (os.path.lexists(path) and PUSH_MARK not in found):\n",
        "    if is_elsewhere:\n",
        (CLIENT_REVIEW + "a_push_hook_of_somebody_else_stays",),
    ),
]
