"""Histories that were written elsewhere."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared.json_events.importing import Imported
from shared.log.sqlite import SqliteLog
from tests.json_events.test_importing import bring, bring_text, objects_of, refused
from tests.log.builders import Clock


@pytest_asyncio.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = await SqliteLog.open(tmp_path / "log.db", clock=Clock())
    yield opened
    await opened.close()


def entity_event(
    number: int, event_type: str, entity_id: str = "s1", **data: Any
) -> dict[str, Any]:
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "timestamp": f"2025-03-01T08:00:{number:02}",
        "event_type": event_type,
        "entity_id": entity_id,
        "data": data,
    }


def flat_event(number: int, event_type: str, **fields: Any) -> dict[str, Any]:
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "correlation_id": "a request",
        "occurred_at": f"2025-03-01T08:00:{number:02}+02:00",
        "tenant_id": "acme",
        "event_type": event_type,
        **fields,
    }


VOYAGE = [
    entity_event(1, "ShipRegistered", name="Aurora"),
    entity_event(2, "ShipRegistered", "s2", name="Boreas"),
    entity_event(3, "ShipDocked", port="Oslo"),
    entity_event(4, "CargoLoaded", item="silk", quantity=3, port="Oslo"),
    entity_event(5, "CargoUnloaded", item="silk", quantity=3, port="Oslo"),
    entity_event(6, "ShipDeparted", departed_from="Oslo"),
]


async def test_an_array_of_ship_events_becomes_their_histories(log: SqliteLog) -> None:
    imported = await bring_text(log, json.dumps(VOYAGE, indent=2))

    assert imported == Imported(written=6, naive=6)
    assert "6 times had no zone: they were taken as UTC." in imported.sentences()
    objects = await objects_of(log)
    assert [(each["aggregate_id"], each["version"]) for each in objects] == [
        ("s1", 1), ("s2", 1), ("s1", 2), ("s1", 3), ("s1", 4), ("s1", 5),
    ]  # fmt: skip
    assert objects[3] == {
        "event_id": "00000000-0000-4000-8000-000000000004",
        "event_type": "tidemark.v1.CargoLoaded",
        "tenant_id": "default",
        "aggregate_type": "ship",
        "aggregate_id": "s1",
        "version": 3,
        "position": 4,
        "occurred_at": "2025-03-01T08:00:04Z",
        "correlation_id": "",
        "causation_id": "",
        "data": {"item": "silk", "quantity": 3, "port": "Oslo"},
    }


async def test_flat_dictionaries_become_histories_of_what_they_name(log: SqliteLog) -> None:
    imported = await bring(
        log,
        [
            flat_event(1, "ShipRegistered", ship_id="s1", name="Aurora"),
            flat_event(2, "UserCreated", user_id="u1", username="ada", balance=7, colour="red"),
            flat_event(3, "UserBalanceChanged", user_id="u1", balance_change=-2),
        ],
    )

    assert imported == Imported(written=3)
    objects = await objects_of(log)
    assert [(each["aggregate_type"], each["aggregate_id"]) for each in objects] == [
        ("ship", "s1"), ("user", "u1"), ("user", "u1"),
    ]  # fmt: skip
    assert objects[1]["data"] == {"username": "ada", "balance": 7}
    assert objects[2]["version"] == 2
    assert objects[2]["occurred_at"] == "2025-03-01T06:00:03Z"
    assert {each["tenant_id"] for each in objects} == {"acme"}
    assert {each["correlation_id"] for each in objects} == {"a request"}


async def test_a_repeated_import_changes_nothing(log: SqliteLog) -> None:
    await bring(log, VOYAGE)
    head = log.head

    assert (await bring(log, VOYAGE)).found == 6
    assert log.head == head


async def test_a_later_file_goes_on_where_the_first_ended(log: SqliteLog) -> None:
    await bring(log, VOYAGE)

    await bring(log, [*VOYAGE[4:], entity_event(7, "ShipDocked", port="Kiel")])

    assert (await objects_of(log))[-1]["version"] == 6


async def test_events_of_one_moment_keep_their_order(log: SqliteLog) -> None:
    at_once = [dict(each, timestamp="2025-03-01T08:00:00Z") for each in VOYAGE[:3]]

    await bring(log, at_once)
    assert (await bring(log, at_once)).found == 3

    assert [each["occurred_at"] for each in await objects_of(log)] == [
        "2025-03-01T08:00:00Z", "2025-03-01T08:00:00.000001Z", "2025-03-01T08:00:00.000002Z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (entity_event(0, "ShipDocked", port="Oslo"), "the one before it at"),
        (entity_event(2, "ShipDocked", "s9", port="Oslo"), "begins with ShipDocked"),
        (entity_event(2, "ShipSunk"), "event_type 'ShipSunk' is unknown"),
        (entity_event(1, "ShipDocked", port="Oslo"), "comes twice"),
        (entity_event(2, "ShipDocked", port="Oslo") | {"event_id": "2"}, "'2' is not a UUID"),
        (entity_event(2, "ShipDocked", port="Oslo") | {"event_id": 2}, "event_id is not a text"),
        (entity_event(2, "ShipDocked", "", port="Oslo"), "entity_id is missing"),
        (entity_event(2, "ShipDocked", port="Oslo") | {"timestamp": "noon"}, "ISO 8601"),
        (entity_event(2, "ShipDocked", port=7), "port"),
        (flat_event(2, "ShipDocked", port="Oslo"), "ship_id is missing"),
    ],
)
async def test_what_would_break_a_history_is_refused_with_its_line(
    log: SqliteLog, wrong: dict[str, Any], said: str
) -> None:
    [problem] = await refused(log, [VOYAGE[0], wrong])

    assert problem.startswith("line 2: ")
    assert said in problem


async def test_the_lines_of_an_array_are_counted(log: SqliteLog) -> None:
    text = json.dumps([VOYAGE[0], entity_event(2, "ShipSunk")], indent=2)

    with pytest.raises(Exception, match="line 11: event_type 'ShipSunk' is unknown"):
        await bring_text(log, text)


async def test_two_formats_in_one_file_are_refused(log: SqliteLog) -> None:
    await bring(log, VOYAGE[:1])
    own = (await objects_of(log))[0]

    [problem] = await refused(log, [VOYAGE[0], own])

    assert "an event in another format" in problem
