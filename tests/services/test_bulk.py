"""BulkCommandService: commands of every kind, many at a time, over one stream."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from grpc import StatusCode

from examples.services import Service
from shared.aggregates.aggregate import pack
from tests.services.commanding import (
    CALL_S,
    failure,
    failure_in,
    failure_of,
    of,
    send,
    send_all,
)
from tests.services.deployment import CommandClient, Deployment, deployment, tenant
from tests.services.subscribing import history, payload_names, versions
from tidemark.v1.command_pb2 import CommandReceipt, CommandResult, ExecuteRequest, ExecuteResponse
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    LoadCargo,
    RegisterShip,
    Ship,
    ShipDocked,
    UnloadCargo,
)
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")
CREATE = CreateUser(username="ada", balance=10)

LONG_S = 30.0
"""The longest that a big stream may take."""


def request_of(*commands: Message) -> ExecuteRequest:
    """Commands of one request; an Any stays what it is."""
    return ExecuteRequest(
        commands=[each if isinstance(each, AnyMessage) else pack(each) for each in commands]
    )


def requests_of(commands: Iterable[Message], size: int) -> list[ExecuteRequest]:
    """The commands, so many to a request."""
    left = iter(commands)
    return [request_of(*part) for part in iter(lambda: list(islice(left, size)), [])]


async def execute(
    client: CommandClient, requests: Sequence[ExecuteRequest], tenant_id: str = "default"
) -> list[ExecuteResponse]:
    """Sends a stream to its end; there is a response for each request."""
    call = client.bulk.Execute(
        requests, metadata=tenant(tenant_id), timeout=LONG_S, wait_for_ready=True
    )
    responses = [response async for response in call]
    assert [len(each.results) for each in responses] == [len(each.commands) for each in requests]
    return responses


async def results_of(
    client: CommandClient, *commands: Message, tenant_id: str = "default"
) -> list[CommandResult]:
    """The results of commands in one request."""
    [response] = await execute(client, [request_of(*commands)], tenant_id)
    return list(response.results)


async def receipts_of(
    client: CommandClient, requests: Sequence[ExecuteRequest], tenant_id: str = "default"
) -> list[CommandReceipt]:
    """The receipts of all commands, none of which may fail."""
    responses = await execute(client, requests, tenant_id)
    results = [result for response in responses for result in response.results]
    assert {result.WhichOneof("result") for result in results} <= {"receipt"}
    return [result.receipt for result in results]


def summary(results: Iterable[CommandResult]) -> list[int | str]:
    """For each result its version, or its reason."""
    return [
        result.receipt.version
        if result.WhichOneof("result") == "receipt"
        else failure_in(result.error).reason
        for result in results
    ]


async def to_end(call: Any) -> None:
    """Reads a stream that ends well to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def execute_until_failure(
    service: Service,
    requests: Iterable[ExecuteRequest | bytes],
    tenant_id: str = "default",
    at_first_response: Callable[[], object] = lambda: None,
) -> tuple[list[ExecuteResponse], grpc.RpcError]:
    """What a stream answers before it fails, and with what it does.

    Through gRPC's synchronous client: the asynchronous one can show an INTERNAL of its own in place
    of the status, when a write fails because the stream has ended.
    """

    def run() -> tuple[list[ExecuteResponse], grpc.RpcError]:
        responses: list[ExecuteResponse] = []
        with grpc.insecure_channel(service.address) as channel:
            call = channel.stream_stream(
                "/tidemark.v1.BulkCommandService/Execute",
                request_serializer=_serialized,
                response_deserializer=ExecuteResponse.FromString,
            )(iter(requests), metadata=tenant(tenant_id), timeout=LONG_S)
            try:
                for response in call:
                    responses.append(response)
                    if len(responses) == 1:
                        at_first_response()
            except grpc.RpcError as error:
                return responses, error
        raise AssertionError("the stream ended well")

    return await asyncio.to_thread(run)


def _serialized(request: ExecuteRequest | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def by_aggregate(events: Iterable[RecordedEvent]) -> dict[str, list[RecordedEvent]]:
    """The events of each aggregate, in order."""
    grouped: dict[str, list[RecordedEvent]] = defaultdict(list)
    for event in events:
        grouped[event.aggregate_id].append(event)
    return dict(grouped)


# Results


async def test_results_come_in_the_order_of_the_commands(
    shared: Deployment, ship_id: str, user_id: str
) -> None:
    commands = [
        of(ship_id, REGISTER),
        of(user_id, CREATE),
        of(ship_id, DOCK),
        of(ship_id, LoadCargo(item="silk", quantity=5)),
        of(user_id, ChangeUserBalance(balance_change=-10)),
        of(user_id, ChangeUserBalance(balance_change=-1)),
        of(ship_id, UnloadCargo(item="silk", quantity=5)),
        of(ship_id, DepartShip()),
        of(user_id, DeleteUser()),
        of(ship_id, DepartShip()),
    ]

    results = await results_of(shared.commands, *commands)

    assert summary(results) == [
        *(1, 1, 2, 3, 2, "INSUFFICIENT_BALANCE", 4, 5, 3, "SHIP_NOT_DOCKED"),
    ]
    receipts = [each.receipt for each in results if each.WhichOneof("result") == "receipt"]
    positions = [receipt.position for receipt in receipts]
    assert positions == sorted(set(positions))
    ids = [ship_id, user_id]
    events = await history(shared.commands.log, *ids)
    assert [event.position for event in events] == positions
    assert [event.causation_id for event in events] == [each.command_id for each in receipts]
    kinds = [event.aggregate_type for event in events]
    assert kinds == ["ship", "user", "ship", "ship", "user", "ship", "ship", "user"]


async def test_responses_come_in_the_order_of_the_requests(
    shared: Deployment, tenant_id: str
) -> None:
    ships = [f"ship {n}" for n in range(50)]
    commands: list[Message] = [of(ship, REGISTER) for ship in ships]
    requests = [*requests_of(commands, 7), *requests_of([of(ship, DOCK) for ship in ships], 3)]

    receipts = await receipts_of(shared.commands, requests, tenant_id)

    assert [receipt.aggregate_id for receipt in receipts] == ships * 2
    assert [receipt.version for receipt in receipts] == [1] * 50 + [2] * 50


async def test_thousands_of_commands_go_through_one_stream(
    shared: Deployment, tenant_id: str
) -> None:
    ships = [f"ship {n}" for n in range(100)]
    commands: list[Message] = [of(ship, REGISTER) for ship in ships]
    for n in range(49):
        commands += [of(ship, DockShip(port=f"port {n}")) for ship in ships]

    receipts = await receipts_of(shared.commands, requests_of(commands, 100), tenant_id)

    assert [receipt.aggregate_id for receipt in receipts] == ships * 50
    assert [receipt.version for receipt in receipts] == [
        version for version in range(1, 51) for _ in ships
    ]
    events = await history(shared.commands.log, tenant_id=tenant_id)
    assert [event.position for event in events] == [receipt.position for receipt in receipts]


async def test_a_request_may_have_1000_commands(shared: Deployment, tenant_id: str) -> None:
    commands = [of(f"ship {n}", REGISTER) for n in range(1000)]

    receipts = await receipts_of(shared.commands, [request_of(*commands)], tenant_id)

    assert [receipt.version for receipt in receipts] == [1] * 1000


async def test_an_answer_does_not_wait_for_the_end_of_the_stream(
    shared: Deployment, ship_id: str
) -> None:
    call = shared.commands.bulk.Execute(timeout=CALL_S)

    versions_answered = []
    for command in (REGISTER, DOCK, DepartShip()):
        await call.write(request_of(of(ship_id, command)))
        response = await call.read()
        versions_answered.append(response.results[0].receipt.version)
    await call.done_writing()

    assert versions_answered == [1, 2, 3]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is StatusCode.OK


async def test_who_half_closes_at_once_gets_every_answer(
    shared: Deployment, tenant_id: str
) -> None:
    requests = requests_of((of(f"ship {n}", REGISTER) for n in range(500)), 50)
    call = shared.commands.bulk.Execute(metadata=tenant(tenant_id), timeout=CALL_S)
    for request in requests:
        await call.write(request)

    await call.done_writing()

    answered = [summary(response.results) async for response in call]
    assert answered == [[1] * 50] * 10
    assert await call.code() is StatusCode.OK


async def test_an_empty_request_has_an_empty_response(shared: Deployment, ship_id: str) -> None:
    requests = [request_of(), request_of(of(ship_id, REGISTER)), request_of()]

    responses = await execute(shared.commands, requests)

    assert [summary(response.results) for response in responses] == [[], [1], []]


async def test_a_stream_without_requests_ends_without_responses(shared: Deployment) -> None:
    assert await execute(shared.commands, []) == []


async def test_ids_are_made_up_as_for_a_single_command(shared: Deployment) -> None:
    receipts = await receipts_of(shared.commands, [request_of(REGISTER, REGISTER, CREATE)])

    made_up = [receipt.aggregate_id for receipt in receipts]
    assert len(set(made_up)) == 3
    assert all(made_up)
    events = await history(shared.commands.log, *made_up)
    assert [event.aggregate_id for event in events] == made_up


async def test_commands_of_one_aggregate_take_effect_in_order_across_requests(
    shared: Deployment, ship_id: str
) -> None:
    commands: list[Message] = [of(ship_id, REGISTER)]
    commands += [of(ship_id, DockShip(port=f"port {n}")) for n in range(600)]

    receipts = await receipts_of(shared.commands, requests_of(commands, 40))

    assert [receipt.version for receipt in receipts] == list(range(1, 602))
    events = await history(shared.commands.log, ship_id)
    ports = [ShipDocked.FromString(event.payload.value).port for event in events[1:]]
    assert ports == [f"port {n}" for n in range(600)]


async def test_streams_and_single_commands_on_one_ship_share_its_versions(
    shared: Deployment, ship_id: str
) -> None:
    await send(shared.commands, of(ship_id, REGISTER))
    dock = of(ship_id, DOCK)

    *streams, singles = await asyncio.gather(
        *(receipts_of(shared.commands, requests_of([dock] * 100, 9)) for _ in range(4)),
        asyncio.gather(*(send(shared.commands, dock) for _ in range(50))),
    )

    answered = [[receipt.version for receipt in each] for each in (*streams, singles)]
    assert all(each == sorted(each) for each in answered[:-1])
    assert sorted(chain.from_iterable(answered)) == list(range(2, 452))
    assert versions(await history(shared.commands.log, ship_id)) == list(range(1, 452))


# Errors of single commands


@pytest.mark.parametrize(
    ("wrong", "code", "reason", "fields"),
    [
        (
            pack(DepartShip(ship_id="nobody's")),
            StatusCode.NOT_FOUND,
            "SHIP_NOT_FOUND",
            [],
        ),
        (
            pack(DockShip(ship_id="a")),
            StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            ["port"],
        ),
        (
            pack(of("a", DOCK, command_id="x")),
            StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            ["context.command_id"],
        ),
        (pack(Ship(ship_id="a")), StatusCode.INVALID_ARGUMENT, "UNKNOWN_COMMAND", []),
        (
            AnyMessage(type_url="type.googleapis.com/tidemark.v1.SinkShip"),
            StatusCode.INVALID_ARGUMENT,
            "UNKNOWN_COMMAND",
            [],
        ),
        (AnyMessage(), StatusCode.INVALID_ARGUMENT, "UNKNOWN_COMMAND", []),
        (
            AnyMessage(type_url="type.googleapis.com/tidemark.v1.DockShip", value=b"\xff"),
            StatusCode.INVALID_ARGUMENT,
            "MALFORMED_REQUEST",
            [],
        ),
        (
            pack(of("nobody's", DOCK, expected_version=3)),
            StatusCode.ABORTED,
            "WRONG_VERSION",
            [],
        ),
    ],
    ids=[
        "refused",
        "field missing",
        "command_id no UUID",
        "a state",
        "no such type",
        "empty",
        "malformed",
        "wrong version",
    ],
)
async def test_an_error_is_the_verdict_on_one_command_and_ends_nothing(
    shared: Deployment,
    ship_id: str,
    tenant_id: str,
    wrong: AnyMessage,
    code: StatusCode,
    reason: str,
    fields: list[str],
) -> None:
    requests = [
        request_of(wrong, of(ship_id, REGISTER), wrong, of(ship_id, DOCK)),
        request_of(wrong),
        request_of(of(ship_id, DepartShip()), wrong),
    ]

    responses = await execute(shared.commands, requests, tenant_id)

    results = [list(response.results) for response in responses]
    assert [summary(each) for each in results] == [[reason, 1, reason, 2], [reason], [3, reason]]
    for error in (results[0][0], results[0][2], results[1][0], results[2][1]):
        failed = failure_in(error.error)
        assert (failed.code, failed.reason, failed.domain) == (code, reason, "tidemark")
        assert failed.fields == fields
        assert failed.message
    events = await history(shared.commands.log, tenant_id=tenant_id)
    assert payload_names(events) == ["ShipRegistered", "ShipDocked", "ShipDeparted"]


async def test_an_error_in_a_result_is_the_one_that_a_single_command_gets(
    shared: Deployment, ship_id: str
) -> None:
    await send_all(shared.commands, ship_id, REGISTER, DOCK)
    wrong = of(ship_id, UnloadCargo(item="silk", quantity=1))

    [result] = await results_of(shared.commands, wrong)

    assert failure_in(result.error) == await failure(send(shared.commands, wrong))


async def test_expected_versions_hold_within_a_stream(shared: Deployment, ship_id: str) -> None:
    results = await results_of(
        shared.commands,
        of(ship_id, REGISTER, expected_version=0),
        of(ship_id, DOCK, expected_version=0),
        of(ship_id, DOCK, expected_version=1),
        of(ship_id, DepartShip(), expected_version=2),
    )

    assert summary(results) == [1, "WRONG_VERSION", 2, 3]
    assert failure_in(results[1].error).metadata["actual_version"] == "1"


async def test_validate_only_in_a_stream_sees_what_came_before_and_records_nothing(
    shared: Deployment, ship_id: str
) -> None:
    results = await results_of(
        shared.commands,
        of(ship_id, REGISTER),
        of(ship_id, DOCK, validate_only=True),
        of(ship_id, DepartShip()),
        of(ship_id, DOCK),
    )

    assert summary(results) == [1, 2, "SHIP_NOT_DOCKED", 2]
    assert payload_names(results[1].receipt.events) == ["ShipDocked"]
    assert versions(await history(shared.commands.log, ship_id)) == [1, 2]


# Errors that end the stream


async def test_1001_commands_in_a_request_are_refused_and_none_is_executed(
    shared: Deployment, tenant_id: str
) -> None:
    too_many = request_of(*(of(f"ship {n}", REGISTER) for n in range(1001)))
    responses, error = await execute_until_failure(
        shared.command, [request_of(of("first", REGISTER)), too_many], tenant_id
    )

    failed = failure_of(error)
    assert [summary(response.results) for response in responses] == [[1]]
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failed.fields == ["commands"]
    events = await history(shared.commands.log, tenant_id=tenant_id)
    assert [event.aggregate_id for event in events] == ["first"]


@pytest.mark.parametrize("malformed", [b"\xff\xff\xff", b"\x0a\x7f", b"\x0b"])
async def test_bytes_that_are_no_request_end_the_stream_after_what_came_before(
    shared: Deployment, ship_id: str, malformed: bytes
) -> None:
    before, after = request_of(of(ship_id, REGISTER)), request_of(of(ship_id, DOCK))

    responses, error = await execute_until_failure(shared.command, [before, malformed, after])

    failed = failure_of(error)
    assert [summary(response.results) for response in responses] == [[1]]
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert versions(await history(shared.commands.log, ship_id)) == [1]


async def test_a_message_over_4_mib_ends_the_stream(shared: Deployment, ship_id: str) -> None:
    before = request_of(of(ship_id, REGISTER))
    too_large = request_of(of(ship_id, DockShip(port="x" * (4 << 20))))
    after = request_of(of(ship_id, DOCK))

    responses, error = await execute_until_failure(shared.command, [before, too_large, after])

    assert [summary(response.results) for response in responses] in ([], [[1]])
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert versions(await history(shared.commands.log, ship_id)) in ([], [1])


@pytest.mark.parametrize("header", ["*", "", "t" * 129])
async def test_a_stream_is_for_one_tenant_with_a_proper_id(
    shared: Deployment, ship_id: str, header: str
) -> None:
    responses, error = await execute_until_failure(
        shared.command, [request_of(of(ship_id, REGISTER))], header
    )

    failed = failure_of(error)
    assert responses == []
    assert (failed.code, failed.fields) == (StatusCode.INVALID_ARGUMENT, ["x-tenant-id"])
    assert await history(shared.commands.log, ship_id, tenant_id="*") == []


# Repeating


async def test_a_stream_sent_again_under_its_command_ids_changes_nothing(
    shared: Deployment, tenant_id: str
) -> None:
    ships = [f"ship {n}" for n in range(20)]
    commands: list[Message] = [
        of(ship, command, command_id=str(uuid4()))
        for command in (REGISTER, DOCK, DepartShip(), DOCK)
        for ship in ships
    ]
    requests = requests_of(commands, 9)
    first = await receipts_of(shared.commands, requests, tenant_id)

    again = await receipts_of(shared.commands, requests, tenant_id)
    in_other_requests = await receipts_of(shared.commands, requests_of(commands, 1), tenant_id)

    assert not any(receipt.duplicate for receipt in first)
    for receipt in first:
        receipt.duplicate = True
    assert again == in_other_requests == first
    assert len(await history(shared.commands.log, tenant_id=tenant_id)) == 80


async def test_the_same_stream_twice_at_once_takes_effect_once(
    shared: Deployment, tenant_id: str
) -> None:
    commands: list[Message] = [of("a ship", REGISTER, command_id=str(uuid4()))]
    commands += [of("a ship", DockShip(port=f"{n}"), command_id=str(uuid4())) for n in range(200)]

    one, other = await asyncio.gather(
        *(receipts_of(shared.commands, requests_of(commands, 10), tenant_id) for _ in range(2))
    )

    assert [each.version for each in one] == [each.version for each in other] == list(range(1, 202))
    assert [(a.duplicate, b.duplicate) for a, b in zip(one, other, strict=True)].count(
        (True, True)
    ) == 0
    assert all(a.duplicate != b.duplicate for a, b in zip(one, other, strict=True))
    events = await history(shared.commands.log, tenant_id=tenant_id)
    assert versions(events) == list(range(1, 202))


async def test_a_command_twice_in_one_request_takes_effect_once(
    shared: Deployment, ship_id: str
) -> None:
    command_id = str(uuid4())
    command = of(ship_id, REGISTER, command_id=command_id)

    results = await results_of(
        shared.commands, command, command, of(ship_id, DOCK, command_id=command_id)
    )

    assert summary(results) == [1, 1, "COMMAND_ID_REUSED"]
    assert [result.receipt.duplicate for result in results[:2]] == [False, True]
    assert versions(await history(shared.commands.log, ship_id)) == [1]


async def test_a_single_command_is_repeated_by_a_stream_and_the_other_way_round(
    shared: Deployment, ship_id: str
) -> None:
    register = of(ship_id, REGISTER, command_id=str(uuid4()))
    dock = of(ship_id, DOCK, command_id=str(uuid4()))

    single = await send(shared.commands, register)
    in_stream = await receipts_of(shared.commands, [request_of(register, dock)])
    single_again = await send(shared.commands, dock)

    assert [each.duplicate for each in in_stream] == [True, False]
    assert in_stream[0].position == single.position
    assert single_again.duplicate
    assert single_again.position == in_stream[1].position


# Streams that are cut


class Voyages:
    """A big stream: some ships, each with a long list of commands under command_ids."""

    def __init__(self, ships: int, commands: int, size: int) -> None:
        ids = [f"ship {n}" for n in range(ships)]
        self.commands: list[RegisterShip | DockShip] = [
            of(ship, REGISTER, command_id=str(uuid4())) for ship in ids
        ]
        self.commands += [
            of(ship, DockShip(port=f"port {n}"), command_id=str(uuid4()))
            for n in range(commands - 1)
            for ship in ids
        ]
        self.requests = requests_of(self.commands, size)

    def command_ids_of(self, ship_id: str) -> list[str]:
        """Those of a ship's commands, in order."""
        return [each.context.command_id for each in self.commands if each.ship_id == ship_id]

    def assert_prefix_for_each_ship(self, events: Sequence[RecordedEvent]) -> None:
        """What took effect of each ship's commands is what came first."""
        for ship_id, own in by_aggregate(events).items():
            took_effect = [event.causation_id for event in own]
            assert took_effect == self.command_ids_of(ship_id)[: len(own)]

    def assert_all_once(self, events: Sequence[RecordedEvent]) -> None:
        """Every command took effect, once and in order."""
        self.assert_prefix_for_each_ship(events)
        assert len(events) == len(self.commands)


async def test_sigterm_in_the_middle_of_a_stream_ends_it_without_losing_an_answer(
    tmp_path: Path,
) -> None:
    voyages = Voyages(ships=20, commands=300, size=20)
    async with deployment(tmp_path) as own:
        responses, error = await execute_until_failure(
            own.command,
            voyages.requests,
            at_first_response=own.command.process.terminate,
        )
        exit_code = await own.command.process.wait()

        answered = [result for response in responses for result in response.results]
        failed = failure_of(error)
        assert exit_code == 0
        assert failed.code is StatusCode.UNAVAILABLE
        assert failed.reason == "DRAINING"
        assert failed.retry_after
        assert len(answered) < len(voyages.commands), "the stream ended before the signal came"
        assert {result.WhichOneof("result") for result in answered} == {"receipt"}

        await own.start_command()
        client = CommandClient(own.command.address)
        events = await history(client.log)
        voyages.assert_prefix_for_each_ship(events)
        position_of = {event.causation_id: event.position for event in events}
        for result in answered:
            assert position_of[result.receipt.command_id] == result.receipt.position

        again = await receipts_of(client, voyages.requests)
        recorded = await history(client.log)
        await client.channel.close()
        assert [each.duplicate for each in again[: len(answered)]] == [True] * len(answered)
        voyages.assert_all_once(recorded)


async def test_a_kill_in_the_middle_of_a_stream_loses_no_answer(tmp_path: Path) -> None:
    voyages = Voyages(ships=20, commands=300, size=20)
    async with deployment(tmp_path) as own:
        responses, error = await execute_until_failure(
            own.command, voyages.requests, at_first_response=own.command.process.kill
        )
        await own.command.kill()
        answered = [result.receipt for response in responses for result in response.results]
        await own.start_command()
        client = CommandClient(own.command.address)
        events = await history(client.log)
        await receipts_of(client, voyages.requests)
        recorded = await history(client.log)
        await client.channel.close()

        assert error.code() is StatusCode.UNAVAILABLE
        voyages.assert_prefix_for_each_ship(events)
        assert len(events) < len(voyages.commands), "everything was done before the kill"
        position_of = {event.causation_id: event.position for event in events}
        assert [position_of[each.command_id] for each in answered] == [
            each.position for each in answered
        ]
        voyages.assert_all_once(recorded)


async def test_who_cancels_a_stream_can_send_it_again(shared: Deployment, tenant_id: str) -> None:
    voyages = Voyages(ships=10, commands=400, size=20)
    call = shared.commands.bulk.Execute(metadata=tenant(tenant_id), timeout=LONG_S)
    for request in voyages.requests[:50]:
        await call.write(request)
    assert summary((await call.read()).results) == [1] * 10 + [2] * 10

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    receipts = await receipts_of(shared.commands, voyages.requests, tenant_id)

    assert [receipt.duplicate for receipt in receipts[:20]] == [True] * 20
    assert not receipts[-1].duplicate
    assert [receipt.version for receipt in receipts] == [
        version for version in range(1, 401) for _ in range(10)
    ]
    voyages.assert_all_once(await history(shared.commands.log, tenant_id=tenant_id))


async def test_with_little_room_a_stream_is_slower_and_not_refused(tmp_path: Path) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command("--max-commands", "2")
        voyages = Voyages(ships=10, commands=20, size=3)

        receipts = await receipts_of(own.commands, voyages.requests)

        assert len(receipts) == 200
        voyages.assert_all_once(await history(own.commands.log))
    finally:
        await own.close()


async def test_beyond_the_limit_of_streams_a_stream_is_refused(tmp_path: Path) -> None:
    own = Deployment(tmp_path)
    try:
        await own.start_command("--max-streams", "1")
        first = own.commands.bulk.Execute(timeout=CALL_S)
        await first.write(request_of(of("a", REGISTER)))
        assert summary((await first.read()).results) == [1]

        _, error = await execute_until_failure(own.command, [request_of(of("b", REGISTER))])
        await first.done_writing()
        await to_end(first)

        refused = failure_of(error)
        assert (refused.code, refused.reason) == (
            StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_STREAMS",
        )
        assert refused.metadata == {"limit": "1"}
        assert refused.retry_after
        assert [event.aggregate_id for event in await history(own.commands.log)] == ["a"]
    finally:
        await own.close()
