"""Bugs in the one function that moves a task: each index, event and time that it updates."""

from tests.proofs.mutations.mutant import ATTEMPTS, BOUNDARIES, HISTORY, LISTED, MACHINE, Mutant

MUTANTS = [
    # The one function that moves a task: each index, event and time that it updates.
    *(
        Mutant(
            f"entered, but not in {index}",
            "store/lua/tenure.lua",
            "record, indexes and events agree (I8)",
            "  call('ZADD', PREFIX .. entered, rec.ended",
            f"  local _ = entered ~= '{index}' and call('ZADD', PREFIX .. entered, rec.ended",
        )
        for index in (":live", ":lapsed", ":done", ":ended")
    ),
    *(
        Mutant(
            f"left, but still in {index}",
            "store/lua/tenure.lua",
            "record, indexes and events agree (I8)",
            "    if left then call",
            f"    if left and left ~= '{index}' then call",
            (MACHINE,),
        )
        for index in (":lapsed", ":done", ":ended")
    ),
    *(
        Mutant(
            f"no event for {state}",
            "store/lua/tenure.lua",
            "the stream has each transition once (I12)",
            "  if shown then emit(",
            f"  if shown and to ~= '{state}' then emit(",
            tests,
        )
        for state, tests in (
            *((state, (BOUNDARIES,)) for state in ("parked", "done", "released", "broken")),
            *((state, (MACHINE,)) for state in ("review", "rejected", "abandoned")),
        )
    ),
    Mutant(
        "a grant emits no event",
        "store/lua/tenure.lua",
        "the stream has each transition once (I12)",
        "  if old then return emit('claimed', task, rec) end\n",
        "  if old then return end\n",
    ),
    Mutant(
        "a claim that leaves its review emits no event",
        "store/lua/tenure.lua",
        "the stream has each transition once (I12)",
        "({parked = 'resumed', review = 'resumed', lapsed",
        "({parked = 'resumed', lapsed",
        (MACHINE,),
    ),
    Mutant(
        "a failed task emits no event",
        "store/lua/tenure.lua",
        "the stream has each transition once (I12)",
        "  if used_up(rec) and not failed and not rec.hold then emit('failed', task, rec) end\n",
        "",
        (MACHINE,),
    ),
    Mutant(
        "a revived claim is not among its session's claims",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "      call('SADD', HELD .. rec.owner, task)\n",
        "      local _ = old and call('SADD', HELD .. rec.owner, task)\n",
    ),
    Mutant(
        "a task in review is not in the index of reviews",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "  if entered == ':live' and to ~= 'held' then call",
        "  if to == 'parked' then call",
        (MACHINE,),
    ),
    *(
        Mutant(
            f"no longer {state}, but still in its index",
            "store/lua/tenure.lua",
            "record, indexes and events agree (I8)",
            "  if left == ':live' and from ~= 'held' then call",
            f"  if left == ':live' and from ~= 'held' and from ~= '{state}' then call",
            (tests,),
        )
        for state, tests in (("parked", BOUNDARIES), ("review", MACHINE))
    ),
    Mutant(
        "a heartbeat updates the index but not the record",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "  if entered == ':live' or to == 'lapsed' then rec.due = text(rec.due_at) end\n",
        "  if from ~= to then rec.due = text(rec.due_at) end\n",
    ),
    Mutant(
        "a lapse ends when it is recorded, not at its deadline",
        "store/lua/tenure.lua",
        "data is kept as long as promised (rule 3)",
        "    rec.ended = to == 'lapsed' and rec.due or NOW_TEXT\n",
        "    rec.ended = NOW_TEXT\n",
    ),
    Mutant(
        "a revived claim keeps its end",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "  elseif rec.ended then\n    rec.ended = nil\n",
        "",
    ),
    Mutant(
        "a listed task does not move between the lists",
        "store/lua/tenure.lua",
        "next gives exactly the ready tasks (rule 23)",
        "  if rec.listed or rec.failures or failed",
        "  if rec.failures or failed",
        LISTED,
    ),
    Mutant(
        "a task that is not listed never enters the index of failed tasks",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "  if rec.listed or rec.failures or failed or old and old.failures then set_ready",
        "  if rec.listed then set_ready",
        ATTEMPTS,
    ),
    Mutant(
        "a new tenure leaves the task in the index of failed tasks",
        "store/lua/tenure.lua",
        "record, indexes and events agree (I8)",
        "or failed or old and old.failures then set_ready",
        "then set_ready",
        ATTEMPTS,
    ),
    Mutant(
        "the time of a tenure is not counted",
        "store/lua/tenure.lua",
        "a tenure shows who had a task, and for how long (rule 21)",
        "    if from ~= to or left ~= ':live' then count_time(rec, to) end\n",
        "",
        HISTORY,
    ),
    Mutant(
        "the time between an end and a later verdict counts as held",
        "store/lua/tenure.lua",
        "a tenure shows who had a task, and for how long (rule 21)",
        "if from ~= to or left ~= ':live' then count_time",
        "if from ~= to then count_time",
        HISTORY,
    ),
]
