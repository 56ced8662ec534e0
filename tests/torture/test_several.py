"""Two command services on one PostgreSQL, attacked in the middle of their work."""

import asyncio
import random
from pathlib import Path

from tests.torture.faults import LARGE_COMMAND, Fault
from tests.torture.proxy import Mode
from tests.torture.run import play
from tests.torture.stage import Stage

SEED = 1


async def _attack(stage: Stage, choose: random.Random) -> None:
    """Kills either command service, freezes either, and cuts links."""
    for party in (stage.command, *stage.others):
        await party.kill()
        await asyncio.sleep(choose.uniform(0.2, 0.5))
        await party.start()
        await asyncio.sleep(choose.uniform(0.1, 0.3))
        party.freeze()
        await asyncio.sleep(choose.uniform(0.3, 0.8))
        party.thaw()
    for link in stage.links:
        link.set(Mode.CUT)
        await asyncio.sleep(choose.uniform(0.1, 0.3))
        link.set(Mode.PASS)


async def test_every_promise_is_kept_by_two_command_services(
    postgres_url: str, tmp_path: Path
) -> None:
    fault = Fault("several", _attack, command=LARGE_COMMAND, log=postgres_url, others=1)
    verdict = await play(fault, SEED, tmp_path)

    assert verdict.complaints == ()
    assert verdict.unknown, "no outcome was ever in doubt"
    assert verdict.resolved == verdict.unknown
