"""The log of a running service is backed up, put back, and gone on with."""

import shutil
from pathlib import Path
from uuid import uuid4

from tests.log.damaging import change
from tests.services.caller import Caller
from tests.services.commanding import of, send
from tests.services.deployment import Deployment
from tests.services.health import NOT_SERVING, SERVING, until_health
from tests.services.histories import WholeLog
from tests.services.load import load
from tests.services.operating import Ended, events_verified, operate
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip

REGISTER = RegisterShip(name="Aurora")
DOCK = DockShip(port="Oslo")


async def back_up(log: Path, target: Path) -> Ended:
    return await operate("command_service", "backup", "--log", f"sqlite:{log}", "--to", str(target))


def put_back(backup: Path, log: Path) -> None:
    """What the README says, of a service that is stopped."""
    for file in log.parent.glob(f"{log.name}*"):
        file.unlink()
    shutil.copy(backup, log)


async def test_a_backup_under_load_is_a_prefix_of_the_log_and_a_service_goes_on_from_it(
    own: Deployment,
) -> None:
    backup = own.folder / "backup.db"
    async with load(own) as caller:
        acknowledged = caller.position
        ended = await back_up(own.folder / "log.db", backup)
    whole = await WholeLog.of(own.commands)
    events = events_verified(ended)
    await own.query.stop()
    await own.command.kill()

    put_back(backup, own.folder / "log.db")
    await own.start_command()
    restored = await WholeLog.of(own.commands)

    assert acknowledged <= events <= len(whole.records)
    assert restored.records == whole.records[:events]
    assert restored.computed_digest == restored.checkpoint.digest
    receipt = await send(own.commands, of("new", REGISTER))
    assert (receipt.version, receipt.position) == (1, events + 1)
    assert [file.name for file in own.folder.glob("backup*")] == ["backup.db"]


async def test_a_reader_that_is_ahead_of_a_restored_backup_faults_until_it_begins_anew(
    own: Deployment,
) -> None:
    backup = own.folder / "backup.db"
    caller = Caller(own.commands, own.queries, "default")
    before, after = str(uuid4()), str(uuid4())
    await send(own.commands, of("aurora", REGISTER, command_id=before))
    assert events_verified(await back_up(own.folder / "log.db", backup)) == 1
    await send(own.commands, of("aurora", DOCK, command_id=after))
    await caller.ask(GetShipRequest(ship_id="aurora", min_position=2))
    await own.command.stop()

    put_back(backup, own.folder / "log.db")
    await own.start_command()
    await until_health(own.queries.channel, "", NOT_SERVING)
    # What the backup has, it knows; what it lacks, it is told again by whoever retries.
    known = await send(own.commands, of("aurora", REGISTER, command_id=before))
    lost = await send(own.commands, of("aurora", DOCK, command_id=after))
    assert (known.position, known.duplicate) == (1, True)
    assert (lost.position, lost.duplicate) == (2, False)
    assert "LOG_DIVERGED" in (own.folder / "query.log").read_text()

    await own.query.stop()
    shutil.rmtree(own.folder / "query")
    await own.start_query()
    await until_health(own.queries.channel, "", SERVING)
    found = await caller.ask(GetShipRequest(ship_id="aurora", min_position=2))
    assert found.ship.current_port == "Oslo"


async def test_the_copy_of_a_reader_can_take_the_place_of_the_log(own: Deployment) -> None:
    backup = own.folder / "backup.db"
    caller = Caller(own.commands, own.queries, "default")
    command_id = str(uuid4())
    await send(own.commands, of("aurora", REGISTER, command_id=command_id))
    await send(own.commands, of("aurora", DOCK))
    await caller.ask(GetShipRequest(ship_id="aurora", min_position=2))

    assert events_verified(await back_up(own.folder / "query" / "log.db", backup)) == 2
    await own.command.kill()
    put_back(backup, own.folder / "log.db")
    await own.start_command()

    repeated = await send(own.commands, of("aurora", REGISTER, command_id=command_id))
    receipt = await send(own.commands, of("aurora", DOCK))
    assert (repeated.position, repeated.duplicate) == (1, True)
    assert (receipt.position, receipt.version) == (3, 3)
    found = await caller.ask(GetShipRequest(ship_id="aurora", min_position=3))
    assert found.ship.version == 3
    await until_health(own.queries.channel, "", SERVING)


async def test_what_is_damaged_in_the_log_is_found_in_its_backup(own: Deployment) -> None:
    backup = own.folder / "backup.db"
    await send(own.commands, of("aurora", REGISTER))
    await own.command.stop()
    change(own.folder / "log.db", "DELETE FROM versions")

    ended = await back_up(own.folder / "log.db", backup)
    again = await back_up(own.folder / "log.db", backup)

    assert ended.code == 1
    assert ended.stdout.startswith("Position 1: the index entry of version 1 of ship 'aurora' ")
    assert ended.closing.endswith("verified, 2 findings")
    assert backup.is_file()
    assert (again.code, again.stdout) == (2, "")
    assert again.stderr == f"command_service: {backup} is there already, and is not overwritten\n"
