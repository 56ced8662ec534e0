"""A disk that fails and forgets; and what was shown once stays, whatever the disk does."""

from pathlib import Path

import pytest

from tests.history.recorded import Failure, History
from tests.services.histories import WholeLog
from tests.torture.faults import FAULTY_COMMAND, QUERY
from tests.torture.faulty_disk import lose_power
from tests.torture.recorder import Recorder
from tests.torture.stage import Stage, stage
from tests.torture.world import under
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.ship_pb2 import RegisterShip


async def register(stage: Stage, ship_id: str) -> object:
    recorder = Recorder(
        History(), "client", "red", stage.command.service.address, stage.query.service.address
    )
    try:
        return await recorder.command(under(RegisterShip(ship_id=ship_id, name="Ever")))
    finally:
        await recorder.close()


async def ships(stage: Stage) -> list[str]:
    recorder = Recorder(
        History(), "client", "red", stage.command.service.address, stage.query.service.address
    )
    try:
        log = await WholeLog.of(recorder.commands.client)
        return [event.aggregate_id for event in log.events]
    finally:
        await recorder.close()


async def test_a_power_loss_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    async with stage(tmp_path, FAULTY_COMMAND, QUERY) as actors:
        assert isinstance(await register(actors, "first"), CommandReceipt)
        assert isinstance(await register(actors, "second"), CommandReceipt)

        await actors.command.kill()
        lose_power(actors.log.parent)
        await actors.command.start()

        assert await ships(actors) == ["first", "second"]


async def test_what_was_written_and_not_synced_before_a_crash_is_durable_once_it_is_shown(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, FAULTY_COMMAND, QUERY) as actors:
        await register(actors, "first")
        actors.command.disturb("fsync")
        assert not isinstance(await register(actors, "second"), CommandReceipt)
        assert await actors.command.exit_code(within=10) == 70
        actors.command.mend()

        await actors.command.start()
        shown = await ships(actors)
        await actors.command.kill()
        lose_power(actors.log.parent)
        await actors.command.start()

        assert shown == ["first", "second"]
        assert await ships(actors) == shown


@pytest.mark.parametrize("failure", ["fsync", "write"])
async def test_an_error_of_the_disk_ends_the_service(tmp_path: Path, failure: str) -> None:
    async with stage(tmp_path, FAULTY_COMMAND, QUERY) as actors:
        actors.command.disturb(failure)
        await register(actors, "first")

        assert await actors.command.exit_code(within=10) == 70
        assert "commit_outcome_unknown" in actors.command.last_line


async def test_a_full_disk_refuses_commands_until_there_is_room(tmp_path: Path) -> None:
    async with stage(tmp_path, FAULTY_COMMAND, QUERY) as actors:
        await register(actors, "first")
        actors.command.disturb("full")

        refused = await register(actors, "second")
        meanwhile = await ships(actors)
        actors.command.mend()
        accepted = await register(actors, "third")

        assert isinstance(refused, Failure)
        assert refused.reason == "DISK_FULL"
        assert meanwhile == ["first"]
        assert isinstance(accepted, CommandReceipt)
        assert await ships(actors) == ["first", "third"]


async def test_on_a_full_disk_a_service_starts_and_can_be_read(tmp_path: Path) -> None:
    async with stage(tmp_path, FAULTY_COMMAND, QUERY) as actors:
        await register(actors, "first")
        await actors.command.kill()
        actors.command.disturb("full")

        await actors.command.start()
        refused = await register(actors, "second")
        meanwhile = await ships(actors)
        actors.command.mend()
        accepted = await register(actors, "third")

        assert isinstance(refused, Failure)
        assert refused.reason == "DISK_FULL"
        assert meanwhile == ["first"]
        assert isinstance(accepted, CommandReceipt)
