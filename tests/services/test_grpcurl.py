"""The services through grpcurl, which knows of them only what reflection tells."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.services.commanding import CALL_S, of, send
from tests.services.deployment import Deployment
from tests.services.subscribing import reached
from tidemark.v1.ship_pb2 import DockShip, RegisterShip

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

GRPCURL = str(Path(sys.executable).with_name("grpcurl"))
SERVERS = ("command_service", "query_service")


async def grpcurl(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of a run without TLS."""
    process = await asyncio.create_subprocess_exec(
        GRPCURL,
        "-plaintext",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(CALL_S):
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def output_of(*arguments: str) -> str:
    """What a run that goes well prints."""
    code, stdout, stderr = await grpcurl(*arguments)
    assert (code, stderr) == (0, "")
    return stdout


async def called(address: str, method: str, request: Any, *options: str) -> Any:
    """The one response of a call, decoded."""
    data = json.dumps(request)
    return json.loads(await output_of(*options, "-d", data, address, f"tidemark.v1.{method}"))


def responses_in(printed: str) -> list[Any]:
    """The responses of a stream, one JSON object after the other."""
    decoder = json.JSONDecoder()
    responses = []
    rest = printed.strip()
    while rest:
        response, end = decoder.raw_decode(rest)
        responses.append(response)
        rest = rest[end:].strip()
    return responses


def address_of(both: Deployment, server: str) -> str:
    return (both.command if server == "command_service" else both.query).address


@pytest.mark.parametrize(
    ("server", "service", "methods"),
    [
        (
            "command_service",
            "ShipCommandService",
            ["Depart", "Dock", "Load", "Register", "Unload"],
        ),
        ("command_service", "UserCommandService", ["ChangeBalance", "Create", "Delete", "Erase"]),
        ("command_service", "BulkCommandService", ["Execute"]),
        ("command_service", "EventLogService", ["Subscribe"]),
        ("query_service", "EventLogService", ["Subscribe"]),
        ("query_service", "ReplayService", ["Replay"]),
        (
            "query_service",
            "ShipQueryService",
            ["GetShip", "ListPortCargo", "ListPorts", "ListShips", "WatchShip"],
        ),
        (
            "query_service",
            "UserQueryService",
            ["GetUser", "ListBalanceChanges", "ListUsers", "WatchUser"],
        ),
        ("query_service", "ProjectionService", ["ListProjections", "RebuildProjection"]),
    ],
)
async def test_it_lists_services_and_their_methods(
    shared: Deployment, server: str, service: str, methods: list[str]
) -> None:
    address = address_of(shared, server)

    services = (await output_of(address, "list")).split()
    listed = (await output_of(address, "list", f"tidemark.v1.{service}")).split()

    assert f"tidemark.v1.{service}" in services
    assert sorted(listed) == [f"tidemark.v1.{service}.{method}" for method in methods]


async def test_it_describes_a_command(shared: Deployment) -> None:
    described = await output_of(shared.command.address, "describe", "tidemark.v1.LoadCargo")

    assert "int64 quantity = 3;" in described
    assert ".tidemark.v1.CommandContext context = 15;" in described


async def test_it_describes_a_service(shared: Deployment) -> None:
    described = await output_of(shared.query.address, "describe", "tidemark.v1.ShipQueryService")

    assert "returns ( stream .tidemark.v1.WatchShipResponse )" in described


async def test_it_sends_a_command_for_a_tenant(
    shared: Deployment, ship_id: str, tenant_id: str
) -> None:
    command_id = str(uuid4())
    request = {"ship_id": ship_id, "name": "Ever", "context": {"command_id": command_id}}
    register = "ShipCommandService/Register"
    header = ("-H", f"x-tenant-id: {tenant_id}")

    receipt = await called(shared.command.address, register, request, *header)
    again = await called(shared.command.address, register, request, *header)
    of_another_tenant = await called(shared.command.address, register, request)

    assert receipt == {
        "command_id": command_id,
        "aggregate_id": ship_id,
        "version": "1",
        "position": receipt["position"],
    }
    assert again == receipt | {"duplicate": True}
    assert int(of_another_tenant["position"]) > int(receipt["position"])
    assert "duplicate" not in of_another_tenant


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            {"ship_id": "nobody's", "port": "Kiel"},
            [
                "Code: NotFound",
                "Message: There is no such ship",
                "type.googleapis.com/google.rpc.ErrorInfo",
                '"reason":"SHIP_NOT_FOUND"',
                '"domain":"tidemark"',
                '"aggregate_id":"nobody\'s"',
            ],
        ),
        (
            {"ship_id": "a", "port": ""},
            [
                "Code: InvalidArgument",
                '"reason":"INVALID_FIELD"',
                "type.googleapis.com/google.rpc.BadRequest",
                '"field":"port"',
            ],
        ),
    ],
)
async def test_it_shows_a_rich_error_decoded(
    shared: Deployment, request_: dict[str, str], said: list[str]
) -> None:
    data = json.dumps(request_)

    code, stdout, stderr = await grpcurl(
        "-d", data, shared.command.address, "tidemark.v1.ShipCommandService/Dock"
    )

    compact = stderr.replace('": ', '":')
    assert code != 0
    assert stdout == ""
    for words in said:
        assert words in compact, stderr


@pytest.mark.parametrize("server", SERVERS)
async def test_it_reads_the_log_with_payloads_decoded(
    shared: Deployment, ship_id: str, tenant_id: str, server: str
) -> None:
    await send(shared.commands, of(ship_id, RegisterShip(name="Ever")), tenant_id)
    receipt = await send(shared.commands, of(ship_id, DockShip(port="Kiel")), tenant_id)
    await reached(shared.queries.log, receipt.position)

    printed = await output_of(
        *("-H", f"x-tenant-id: {tenant_id}", "-d", '{"stop_at_head": true}'),
        *(address_of(shared, server), "tidemark.v1.EventLogService/Subscribe"),
    )

    responses = responses_in(printed)
    events = [event for response in responses for event in response.get("events", [])]
    assert [event["payload"] for event in events] == [
        {"@type": "type.googleapis.com/tidemark.v1.ShipRegistered", "name": "Ever"},
        {"@type": "type.googleapis.com/tidemark.v1.ShipDocked", "port": "Kiel"},
    ]
    assert [event["aggregate_id"] for event in events] == [ship_id, ship_id]
    assert events[-1]["position"] == str(receipt.position)
    assert responses[-1]["checkpoint"]["position"] == str(receipt.position)


async def test_it_executes_a_stream_of_commands_in_any(shared: Deployment, ship_id: str) -> None:
    commands = [
        {"@type": "type.googleapis.com/tidemark.v1.RegisterShip", "shipId": ship_id, "name": "E"},
        {"@type": "type.googleapis.com/tidemark.v1.DepartShip", "shipId": ship_id},
        {"@type": "type.googleapis.com/tidemark.v1.DockShip", "shipId": ship_id, "port": "Kiel"},
    ]

    response = await called(
        shared.command.address, "BulkCommandService/Execute", {"commands": commands}
    )

    registered, departed, docked = response["results"]
    assert registered["receipt"]["version"] == "1"
    assert departed["error"]["message"] == "Ship is not docked at any port"
    assert departed["error"]["details"][0]["reason"] == "SHIP_NOT_DOCKED"
    assert docked["receipt"]["version"] == "2"


async def test_it_asks_the_query_service(shared: Deployment, ship_id: str) -> None:
    receipt = await send(shared.commands, of(ship_id, RegisterShip(name="Ever")))

    response = await called(
        shared.query.address,
        "ShipQueryService/GetShip",
        {"ship_id": ship_id, "min_position": receipt.position},
    )

    assert response["ship"]["name"] == "Ever"
    assert response["ship"]["status"] == "SHIP_STATUS_REGISTERED"
