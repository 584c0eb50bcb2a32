"""Commands that travel together: each of them is answered."""

import asyncio
from typing import Any

from dibs.store.link import FLIGHTS, PipelineLink


class Gated(PipelineLink):
    """A link whose batches are all answered at one moment, when the gate opens."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self.gate = asyncio.Event()

    async def _carry(self, commands: list[bytes]) -> list[Any]:
        await self.gate.wait()
        return ["answer"] * len(commands)


async def test_a_command_that_is_sent_as_all_flights_land_is_answered() -> None:
    link = Gated(None)

    async def caller(times: int) -> None:
        for _ in range(times):
            assert await link.command("PING") == "answer"

    callers = []
    for number in range(FLIGHTS):  # each on a flight of its own; only the first goes on after it
        callers.append(asyncio.create_task(caller(1 if number else 2)))
        for _ in range(3):
            await asyncio.sleep(0)
    link.gate.set()
    _, waiting = await asyncio.wait(callers, timeout=5)
    assert not waiting, "a command was never answered"
