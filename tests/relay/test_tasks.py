"""What the relay puts into the broker's queues, and what it does not."""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from shared.json_events import to_dict
from shared.json_events.flat import to_flat
from shared.log.log import AggregateKey, Committed
from shared.log.memory import MemoryLog
from tests.log.builders import command, commit, ship, user
from tests.relay.broker import Task
from tests.relay.program import WAIT_S
from tests.relay.stage import Stage, serving, stage
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import CargoLoaded, DockShip, ShipDocked, ShipRegistered
from tidemark.v1.user_pb2 import UserCreated

REGISTERED = ShipRegistered(name="Aurora")
DOCKED = ShipDocked(port="Oslo")
UNKNOWN = DockShip(port="Oslo")
"""No event, so none that the relay knows."""
TOO_LARGE = ShipRegistered(name="A" * (1 << 20))
"""For a broker that takes values of 1 MiB."""

HEADERS = (
    "correlation_id", "causation_id", "aggregate_type", "aggregate_id", "version", "position",
)  # fmt: skip


@pytest_asyncio.fixture
async def on(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as made:
        yield made


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def add(log: MemoryLog, key: AggregateKey, *events: Message, after: int = 0) -> None:
    command_key = command(log.head.position, key.tenant_id)
    [result] = await log.append(
        [commit(key, after, events, command=command_key, correlation_id="request")]
    )
    assert isinstance(result, Committed)


async def events_of(log: MemoryLog) -> list[RecordedEvent]:
    return [RecordedEvent.FromString(record) for record in (await log.read(0)).records]


def key_of(task: Task) -> AggregateKey:
    names = ("aggregate_type", "aggregate_id")
    return AggregateKey(task.argument["tenant_id"], *(task.headers[name] for name in names))


async def ended(
    *arguments: str, program: tuple[str, ...] = ("-m", "query_service")
) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of a command of the query service."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode, stdout.decode(), stderr.decode()


async def parked(on: Stage) -> list[dict[str, Any]]:
    code, listed, said = await ended("parked", *on.on_store())
    assert (code, said) == (0, "")
    return [json.loads(line) for line in listed.splitlines()]


async def test_a_task_is_named_after_the_event_and_says_all_of_it(
    on: Stage, log: MemoryLog
) -> None:
    await add(log, ship(), REGISTERED, CargoLoaded(item="silk", quantity=3, port="Oslo"))
    async with serving(log) as upstream:
        await on.start_relay(upstream)
        tasks = await on.broker.take(2)

    for event, task in zip(await events_of(log), tasks, strict=True):
        assert task.name == to_dict(event)["event_type"]
        assert task.id == event.event_id
        assert task.argument == to_flat(event)
        assert task.correlation_id == "request"
        assert {name: task.headers[name] for name in HEADERS} == {
            name: getattr(event, name) for name in HEADERS
        }


async def test_the_events_of_an_aggregate_are_in_one_queue_in_order(
    on: Stage, log: MemoryLog
) -> None:
    ships = [ship(name, tenant) for name in ("aurora", "boreas") for tenant in ("a", "b", "c", "d")]
    for version in range(3):
        for key in ships:
            await add(log, key, DOCKED, after=version)
    async with serving(log) as upstream:
        await on.start_relay(upstream, "--queues", "2")
        tasks = await on.broker.take(3 * len(ships), ["tidemark-0", "tidemark-1"])

    for key in ships:
        found = [task for task in tasks if key == key_of(task)]
        assert [task.headers["version"] for task in found] == [1, 2, 3]
        assert len({task.queue for task in found}) == 1
    assert {task.queue for task in tasks} == {"tidemark-0", "tidemark-1"}


async def test_what_cannot_be_sent_is_parked_and_what_follows_is_sent(
    on: Stage, log: MemoryLog
) -> None:
    await on.broker.client.config_set("proto-max-bulk-len", "1mb")
    await add(log, ship(), REGISTERED, UNKNOWN, DOCKED)
    await add(log, ship("boreas"), TOO_LARGE, DOCKED)
    no_json = commit(user(), events=[UserCreated(username="Ada")])
    no_json.events[0].payload.CopyFrom(AnyMessage(type_url="json/other.Thing", value=b"{"))
    await log.append([no_json])
    await add(log, ship("chinook"), REGISTERED)
    events = await events_of(log)
    async with serving(log) as upstream:
        relay = await on.start_relay(upstream)
        tasks = await on.broker.take(4)
        assert [task.headers["position"] for task in tasks] == [1, 3, 5, 7]

        unknown, too_large, not_json = await parked(on)
        assert unknown["event"] == to_dict(events[1])
        assert unknown["reason"].endswith("tidemark.v1.DockShip, is of a type unknown here")
        assert too_large["event"] == to_dict(events[3])
        # The broker says why and hangs up: which of the two is seen first is a matter of luck.
        refusals = ("invalid bulk length", "Broken pipe", "reset by peer")
        assert any(refusal in too_large["reason"] for refusal in refusals)
        assert (not_json["position"], not_json["event"]) == (6, None)
        assert not_json["reason"].startswith("JSONDecodeError: ")
        assert relay.output.count('"event": "parked"') == 3
        assert await relay.stop() == 0

        relay = await on.start_relay(upstream)
        await add(log, user("bob"), UserCreated(username="Bob"))
        [task] = await on.broker.take(1)
    assert task.headers["position"] == 8
    assert '"position": 7, "parked": 3, "event": "relaying"' in relay.output


async def test_a_broker_that_takes_nothing_is_waited_for(on: Stage, log: MemoryLog) -> None:
    await on.broker.client.config_set("maxmemory", "1")
    await add(log, ship(), REGISTERED, DOCKED)
    async with serving(log) as upstream:
        relay = await on.start_relay(upstream, "--log-level", "debug")
        # More often than what it takes for a single event to be parked.
        await relay.said("not_taken", times=6)
        await on.broker.client.config_set("maxmemory", "0")
        tasks = await on.broker.take(2)
        await relay.said("not_taken_no_more")
    assert [task.headers["version"] for task in tasks] == [1, 2]
    assert await parked(on) == []


async def test_a_relay_that_is_stopped_sends_nothing_twice_nor_waits_for_the_broker(
    on: Stage, log: MemoryLog
) -> None:
    await add(log, ship(), REGISTERED)
    async with serving(log) as upstream:
        relay = await on.start_relay(upstream, "--log-level", "debug")
        await on.broker.take(1)
        await relay.said("passed_on")
        await on.broker.kill()
        await add(log, ship(), DOCKED, DOCKED, after=1)
        await relay.said("not_taken")
        assert await relay.stop() == 0
        assert '"position": 1, "parked": 0, "event": "stopped"' in relay.output

        await on.broker.start()
        await on.start_relay(upstream)
        tasks = await on.broker.take(2)
        assert [task.headers["version"] for task in tasks] == [2, 3]
        assert await on.broker.client.llen("tidemark-0") == 0


async def test_a_checkpoint_that_cannot_be_kept_is_tried_again(on: Stage, log: MemoryLog) -> None:
    async with serving(log) as upstream:
        relay = await on.start_relay(upstream, "--log-level", "debug")
        with closing(sqlite3.connect(on.store / "celery.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await add(log, ship(), REGISTERED)
            await relay.said("checkpoint_not_kept")
            await add(log, ship("boreas"), REGISTERED)
            other.execute("ROLLBACK")
        await relay.said('"position": 2, "count": 1, "event": "passed_on"')
        assert await relay.stop() == 0

        await on.start_relay(upstream)
        await add(log, user(), UserCreated(username="Ada"))
        tasks = await on.broker.take(3)
    assert [task.headers["position"] for task in tasks] == [1, 2, 3]


async def test_a_relay_does_not_go_on_with_another_log(on: Stage, log: MemoryLog) -> None:
    await add(log, ship(), REGISTERED)
    async with serving(log) as upstream:
        relay = await on.start_relay(upstream)
        await on.broker.take(1)
        assert await relay.stop() == 0

    another = MemoryLog()
    await add(another, ship("boreas"), REGISTERED, DOCKED)
    async with serving(another) as upstream:
        relay = await on.start_relay(upstream)
        assert await relay.ended() == 1
    assert "relay: LOG_DIVERGED: " in relay.output
    assert await on.broker.client.llen("tidemark-0") == 0


async def test_a_second_relay_with_the_same_checkpoint_refuses_to_start(
    on: Stage, log: MemoryLog
) -> None:
    async with serving(log) as upstream:
        await on.start_relay(upstream)
        code, _, said = await ended("relay", *on.on_store("--broker", on.broker.url))
    assert code == 1
    assert said.startswith("relay: LOG_IN_USE: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("relay", "--to", "celery", "--broker", "amqp://me:secret@host"), "is no redis://"),
        (("relay", "--to", "pigeons"), "'pigeons' is not"),
        (("parked", "--to", "celery", "--store", "nowhere"), "There is no nowhere/celery.db"),
    ],
)
async def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], said: str) -> None:
    code, _, complaint = await ended(*arguments)
    assert code == 2
    assert said in complaint
    assert "secret" not in complaint


async def test_without_the_extra_it_says_what_is_missing() -> None:
    without = (
        "import sys; sys.modules['celery'] = None; from query_service.__main__ import app; app()"
    )
    code, _, complaint = await ended("relay", "--to", "celery", program=("-c", without))
    assert code == 2
    assert "pip install 'tidemark[relay]'" in complaint
