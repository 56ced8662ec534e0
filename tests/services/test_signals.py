"""How the services end: told to, with calls and streams open, or killed."""

import asyncio
import contextlib
import signal
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from examples.services import Service
from shared.aggregates.aggregate import pack
from shared.client.stubs import Stub
from shared.security.tenants import EVERY_TENANT
from tests.services.commanding import CALL_S, failure_of, of, rpc_error, send
from tests.services.deployment import CommandClient, Deployment
from tests.services.health import NOT_SERVING, SERVING, until_health
from tests.services.serving import SERVICES, channel_to, health_watch
from tests.services.subscribing import history, reached, read, subscribed
from tidemark.v1 import event_pb2
from tidemark.v1.command_pb2 import CommandReceipt, ExecuteRequest
from tidemark.v1.event_pb2 import SubscribeRequest
from tidemark.v1.ship_pb2 import DockShip, RegisterShip, WatchShipRequest

pytestmark = pytest.mark.timeout(60)

REGISTER = RegisterShip(name="Ever")
DOCK = DockShip(port="Kiel")


async def exit_code(service: Service) -> int:
    """That of a service which was told to end."""
    async with asyncio.timeout(CALL_S):
        return await service.process.wait()


async def test_a_health_watch_sees_that_a_service_is_draining(own: Deployment) -> None:
    for module, service in (("query_service", own.query), ("command_service", own.command)):
        async with channel_to(service) as channel:
            await until_health(channel, "", SERVING)
            watches = [health_watch(channel, name) for name in ("", *SERVICES[module])]
            life = health_watch(channel, "live")
            before = [(await watch.read()).status for watch in watches]

            service.process.terminate()
            after = [(await watch.read()).status for watch in watches]
            code = await exit_code(service)
            last_words = await statuses_of(life)
            for watch in watches:
                watch.cancel()

        assert before == [SERVING] * len(watches)
        assert after == [NOT_SERVING] * len(watches)
        assert last_words == [SERVING]
        assert code == 0


async def statuses_of(watch: Any) -> list[int]:
    """What a health watch says until its server has ended."""
    statuses = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for response in watch:
            statuses.append(response.status)  # noqa: PERF401  # what came before the error counts
    return statuses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
async def test_a_signal_ends_every_stream_as_unavailable_and_the_service_with_0(
    own: Deployment, number: signal.Signals
) -> None:
    receipt = await send(own.commands, of("seen", REGISTER))
    watch = own.queries.ships.WatchShip(
        WatchShipRequest(ship_id="seen", min_position=receipt.position), timeout=CALL_S
    )
    assert (await watch.read()).ship.version == 1
    bulk = own.commands.bulk.Execute(timeout=CALL_S)
    await bulk.write(ExecuteRequest(commands=[pack(of("bulk", REGISTER))]))
    assert len((await bulk.read()).results) == 1
    async with (
        subscribed(own.commands.log, tenant_id=EVERY_TENANT) as of_commands,
        subscribed(own.queries.log, tenant_id=EVERY_TENANT) as of_queries,
    ):
        await of_commands.to_count(2)
        await of_queries.to_count(2)

        own.query.process.send_signal(number)
        own.command.process.send_signal(number)
        streams = (of_commands.to_end(), of_queries.to_end(), _to_end(watch), _to_end(bulk))
        ends = await asyncio.gather(*(rpc_error(stream) for stream in streams))

    assert [await exit_code(own.query), await exit_code(own.command)] == [0, 0]
    for end in map(failure_of, ends):
        assert (end.code, end.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
        assert end.retry_after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
async def test_every_command_that_took_effect_before_a_signal_is_answered(
    own: Deployment, number: signal.Signals
) -> None:
    answers = await _answers_under(own, number)

    receipts = [each for each in answers if isinstance(each, CommandReceipt)]
    assert await exit_code(own.command) == 0
    await own.start_command()
    client = CommandClient(own.command.address)
    recorded = [event.aggregate_id for event in await history(client.log)]
    await client.channel.close()
    assert sorted(recorded) == sorted(receipt.aggregate_id for receipt in receipts)


async def test_a_command_that_a_signal_comes_before_is_answered_as_unavailable(
    own: Deployment,
) -> None:
    answers = await _answers_under(own, signal.SIGTERM)

    errors = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert await exit_code(own.command) == 0
    assert errors, "the signal came after all commands"
    assert {error.code() for error in errors} == {StatusCode.UNAVAILABLE}


async def _answers_under(own: Deployment, number: signal.Signals) -> list[Any]:
    """Receipts and errors of many commands at once, when a signal comes after the first receipt."""
    calls = [
        asyncio.ensure_future(_receipt(own.commands, of(f"ship {n}", REGISTER)))
        for n in range(1000)
    ]
    async with asyncio.timeout(CALL_S):
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        own.command.process.send_signal(number)
        return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_a_subscriber_that_does_not_read_does_not_keep_a_service_from_ending(
    own: Deployment,
) -> None:
    wide = of("ship", DockShip(port="𝄞" * 256))
    async with (
        subscribed(own.commands.log) as of_commands,
        subscribed(own.queries.log) as of_queries,
    ):
        await of_commands.next()
        await of_queries.next()
        await send(own.commands, of("ship", REGISTER))
        requests = [ExecuteRequest(commands=[pack(wide)] * 500)] * 6
        await _to_end(own.commands.bulk.Execute(requests, timeout=CALL_S))
        head = (await read(own.commands.log)).checkpoint.position
        await reached(own.queries.log, head)

        codes = [await own.query.stop(), await own.command.stop()]

    assert head == 3001
    assert codes == [0, 0]


async def test_a_stream_that_ends_while_its_first_response_is_on_its_way_ends_as_unavailable(
    own: Deployment,
) -> None:
    wide = pack(of("ship", DockShip(port="𝄞" * 256)))
    await send(own.commands, of("ship", REGISTER))
    await _to_end(own.commands.bulk.Execute([ExecuteRequest(commands=[wide] * 500)]))
    # A window that does not grow, so that the response fills it.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(own.command.address, options=options) as channel:
        log = Stub(channel, event_pb2.DESCRIPTOR.services_by_name["EventLogService"])
        call = log.Subscribe(SubscribeRequest(), timeout=CALL_S)
        await call.initial_metadata()

        watch = health_watch(channel, "")
        assert (await watch.read()).status == SERVING
        own.command.process.terminate()
        assert (await watch.read()).status == NOT_SERVING
        end = failure_of(await rpc_error(_to_end(call)))
        watch.cancel()

    assert (end.code, end.reason) == (StatusCode.UNAVAILABLE, "DRAINING")


async def test_a_service_that_is_told_twice_to_end_still_exits_with_0(own: Deployment) -> None:
    own.command.process.terminate()
    own.command.process.send_signal(signal.SIGINT)

    assert await exit_code(own.command) == 0


async def test_a_kill_under_load_loses_no_acknowledged_command_and_doubles_none(
    own: Deployment,
) -> None:
    commands = [
        of(f"ship {n % 50}", REGISTER if n < 50 else DOCK, command_id=str(uuid4()))
        for n in range(2000)
    ]
    acknowledged: dict[str, CommandReceipt] = {}
    unanswered: list[Message] = []
    are_many = asyncio.Event()

    async def sail(voyage: list[RegisterShip | DockShip]) -> None:
        """One ship's commands, each after the answer to the one before."""
        for number, command in enumerate(voyage):
            try:
                receipt = await send(own.commands, command)
            except grpc.aio.AioRpcError as error:
                assert error.code() is StatusCode.UNAVAILABLE  # noqa: PT017  # in a loop
                unanswered.extend(voyage[number:])
                return
            acknowledged[command.context.command_id] = receipt
            if len(acknowledged) > 300:
                are_many.set()

    async with asyncio.timeout(30):
        voyages = [asyncio.create_task(sail(commands[n::50])) for n in range(50)]
        await are_many.wait()
        await own.command.kill()
        await asyncio.gather(*voyages)
    await own.start_command()
    client = CommandClient(own.command.address)
    after_kill = await history(client.log)
    retried = [await send(client, command, wait_for_ready=True) for command in unanswered[:200]]
    after_retry = await history(client.log)
    await client.channel.close()

    assert 300 < len(acknowledged) < len(commands), "the kill came too early or too late"
    position_of = {event.causation_id: event.position for event in after_kill}
    assert len(position_of) == len(after_kill), "a command took effect twice"
    for command_id, receipt in acknowledged.items():
        assert position_of[command_id] == receipt.position
    for receipt in retried:
        assert receipt.duplicate == (receipt.command_id in position_of)
    by_ship: dict[str, list[int]] = {}
    for event in after_retry:
        by_ship.setdefault(event.aggregate_id, []).append(event.version)
    assert all(versions == list(range(1, len(versions) + 1)) for versions in by_ship.values())
    assert len({event.causation_id for event in after_retry}) == len(after_retry)


async def _receipt(client: CommandClient, command: Message) -> Any:
    return await send(client, command)


async def _to_end(call: Any) -> None:
    """Reads a stream to its end, which may be an error."""
    while await call.read() is not grpc.aio.EOF:
        pass
