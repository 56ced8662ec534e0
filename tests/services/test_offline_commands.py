"""Exporting a log and importing it, as an operator does, with the services stopped."""

import asyncio
import json
import sys
from pathlib import Path

from tests.services.commanding import of, send, send_all
from tests.services.deployment import Deployment
from tests.services.subscribing import reached
from tidemark.v1.ship_pb2 import DockShip, GetShipRequest, RegisterShip
from tidemark.v1.user_pb2 import CreateUser

VOYAGE = (RegisterShip(name="Ever"), DockShip(port="Kiel"), DockShip(port="Oslo"))


async def offline(*arguments: str, text: str = "") -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of a command on a log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "command_service", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(text.encode()), 30)
    return process.returncode, stdout.decode(), stderr.decode()


async def test_an_exported_log_comes_back_as_the_log_that_others_have_read(
    own: Deployment, ship_id: str, user_id: str
) -> None:
    await send_all(own.commands, ship_id, *VOYAGE)
    last = await send(own.commands, of(user_id, CreateUser(username="Ada")), "another tenant")
    await reached(own.queries.log, last.position)
    log = own.folder / "log.db"

    code, _, said = await offline("export", "--log", f"sqlite:{log}")
    assert (code, "LOG_IN_USE" in said) == (1, True)
    await own.command.stop()
    code, exported, said = await offline("export", "--log", f"sqlite:{log}")
    assert (code, said) == (0, "")
    for path in own.folder.glob("log.db*"):
        path.rename(path.with_name(path.name.replace("log", "lost")))

    first = await offline("import", "-", "--log", f"sqlite:{log}", text=exported)
    again = await offline("import", "-", "--log", f"sqlite:{log}", text=exported)
    assert first == (0, "", "4 events imported, 0 were there already.\n")
    assert again == (0, "", "0 events imported, 4 were there already.\n")

    # The query service has the digest of the log that it read, and goes on only with that one.
    await own.start_command()
    receipt = await send(own.commands, of(ship_id, DockShip(port="Riga")), wait_for_ready=True)
    assert (receipt.version, receipt.position) == (4, 5)
    response = await own.queries.ships.GetShip(
        GetShipRequest(ship_id=ship_id, min_position=receipt.position), timeout=15
    )
    assert response.ship.current_port == "Riga"


async def test_an_import_that_is_refused_names_the_lines_and_writes_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    event = {"event_id": "0197f3a1-0000-7000-8000-000000000101", "ship_id": "s", "port": "Kiel"}
    file = tmp_path / "events"
    file.write_text(
        json.dumps(event | {"event_type": "ShipDocked", "occurred_at": "2025-01-01T00:00:00"})
    )

    code, printed, said = await offline("import", str(file), "--log", f"sqlite:{log}")

    assert (code, printed) == (1, "")
    assert said.startswith("line 1: version 1 of ship 's' of tenant 'default' cannot be: ")
    assert said.endswith("\nNothing was imported.\n")
    assert (await offline("export", "--log", f"sqlite:{log}"))[:2] == (0, "")


async def test_a_log_that_is_not_there_is_not_exported(tmp_path: Path) -> None:
    log = tmp_path / "log.db"

    code, printed, said = await offline("export", "--log", f"sqlite:{log}")
    wrong = await offline("export", "--log", "log.db")

    assert (code, printed) == (2, "")
    assert "There is no" in said
    assert (wrong[0], "is no log" in wrong[2]) == (2, True)
    assert not log.exists()
