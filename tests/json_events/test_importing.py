"""What comes into a log from a file, and what does not."""

import io
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from shared.errors import DataLoss
from shared.json_events import to_dict
from shared.json_events.exporting import Format, export_log, line_of
from shared.json_events.importing import Imported, ImportRefused, import_events
from shared.json_events.reading import events_in
from shared.log.log import Head, timestamp_of
from shared.log.sqlite import SqliteLog
from tests.log.builders import NOON, SECOND, Clock, command, commit, ship, user
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import CargoLoaded, ShipDocked, ShipRegistered
from tidemark.v1.user_pb2 import UserBalanceChanged, UserCreated

Described = dict[str, Any]

REGISTERED = ShipRegistered(name="Aurora")
DOCKED = ShipDocked(port="Oslo")


@pytest_asyncio.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """An empty log, to import into."""
    opened = await SqliteLog.open(tmp_path / "target" / "log.db", clock=Clock())
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def source(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A log with two ships of one id, in two tenants, and a user."""
    opened = await SqliteLog.open(tmp_path / "source" / "log.db", clock=Clock())
    await opened.append(
        [
            commit(ship(), events=[REGISTERED, DOCKED], command=command(1)),
            commit(user(), events=[UserCreated(username="ada", balance=5)], command=command(2)),
            commit(ship(tenant_id="other"), events=[REGISTERED], correlation_id="a voyage"),
            commit(ship(), 2, [CargoLoaded(item="silk", quantity=3, port="Oslo")]),
            commit(user(), 1, [UserBalanceChanged(balance_change=-5)]),
        ]
    )
    yield opened
    await opened.close()


async def exported(log: SqliteLog, form: Format = Format.JSON) -> str:
    written = io.StringIO()
    await export_log(log, form, written.write)
    return written.getvalue()


async def objects_of(log: SqliteLog) -> list[Described]:
    return [json.loads(line) for line in (await exported(log)).splitlines()]


async def bring(log: SqliteLog, objects: Iterable[Described]) -> Imported:
    return await bring_text(log, "".join(json.dumps(each) + "\n" for each in objects))


async def bring_text(log: SqliteLog, text: str) -> Imported:
    return await import_events(log, events_in(io.StringIO(text)))


async def refused(log: SqliteLog, objects: Iterable[Described]) -> list[str]:
    """The problems of an import, which has written nothing."""
    head = log.head
    with pytest.raises(ImportRefused) as raised:
        await bring(log, objects)
    assert log.head == head
    return raised.value.problems


def happened(
    version: int, payload: Message, *, at: int = 0, aggregate_id: str = "aurora", **changes: Any
) -> Described:
    """An event as JSON, so many seconds after noon."""
    kind = "user" if payload.DESCRIPTOR.name.startswith("User") else "ship"
    event = RecordedEvent(
        position=at + 1,
        event_id=f"00000000-0000-7000-8000-{at:012}",
        tenant_id="acme",
        aggregate_type=kind,
        aggregate_id=aggregate_id,
        version=version,
        occurred_at=timestamp_of(NOON + at * SECOND),
    )
    event.payload.Pack(payload)
    return to_dict(event) | changes


async def test_an_export_comes_back_as_the_same_log(source: SqliteLog, log: SqliteLog) -> None:
    imported = await bring_text(log, await exported(source))

    assert imported == Imported(written=6)
    assert log.head == source.head
    assert (await log.read(0)).records == (await source.read(0)).records
    assert await log.receipts([command(1), command(2)]) == await source.receipts(
        [command(1), command(2)]
    )


async def test_a_repeated_import_changes_nothing(source: SqliteLog, log: SqliteLog) -> None:
    text = await exported(source)
    await bring_text(log, text)
    head = log.head

    assert await bring_text(log, text) == Imported(found=6)
    assert log.head == head


async def test_an_import_into_the_log_it_is_from_changes_nothing(source: SqliteLog) -> None:
    head = source.head

    assert await bring_text(source, await exported(source)) == Imported(found=6)
    assert source.head == head


async def test_what_was_cut_off_is_completed(source: SqliteLog, log: SqliteLog) -> None:
    lines = (await exported(source)).splitlines(keepends=True)
    await bring_text(log, "".join(lines[:4]))

    assert await bring_text(log, "".join(lines)) == Imported(written=2, found=4)
    assert log.head == source.head


async def test_one_tenant_of_a_log_keeps_its_positions(source: SqliteLog, log: SqliteLog) -> None:
    of_acme = [each for each in await objects_of(source) if each["tenant_id"] == "acme"]

    await bring(log, of_acme)

    assert await objects_of(log) == of_acme
    assert [each["position"] for each in of_acme] == [1, 2, 3, 5, 6]


async def test_positions_that_are_taken_are_given_anew(log: SqliteLog) -> None:
    await bring(log, [happened(1, REGISTERED, at=1, position=40)])

    imported = await bring(log, [happened(1, REGISTERED, at=2, aggregate_id="b", position=7)])

    assert imported == Imported(written=1, renumbered=1)
    assert [each["position"] for each in await objects_of(log)] == [40, 41]
    assert "1 have other positions: the log already had theirs." in imported.sentences()


async def test_the_log_goes_on_after_an_import(log: SqliteLog) -> None:
    await bring(log, [happened(1, REGISTERED, at=3), happened(2, DOCKED, at=4)])

    await log.append([commit(ship(), 2)])

    assert [each["version"] for each in await objects_of(log)] == [1, 2, 3]


async def test_a_log_that_goes_beyond_the_first_event_is_refused(log: SqliteLog) -> None:
    await log.append([commit(ship("later"), events=[REGISTERED])])

    problems = await refused(log, [happened(1, REGISTERED, at=0), happened(2, DOCKED, at=1)])

    assert problems == [
        "line 1: occurred at 2026-01-01T12:00:00Z; the log already goes to 2026-01-01T12:00:00Z"
    ]


FIRST = happened(1, REGISTERED, at=1)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (happened(3, DOCKED, at=2), "line 2: version 3 of ship 'aurora' of tenant 'acme' follows"),
        (happened(1, REGISTERED, at=2), "follows version 1"),
        (happened(1, DOCKED, at=2, aggregate_id="b"), "begins with ShipDocked"),
        (
            happened(2, DOCKED, at=2, occurred_at="2026-01-01T12:00:01Z"),
            "occurred at 2026-01-01T12:00:01Z; the one before it at",
        ),
        (happened(2, DOCKED, at=0), "occurred at 2026-01-01T12:00:00Z; the one before it at"),
        (happened(2, DOCKED, at=2, occurred_at="9999-01-01T00:00:00Z"), "in the future"),
        (happened(2, DOCKED, at=2, occurred_at="2026-01-01T12:01:00.0000001Z"), "microseconds"),
        (happened(2, DOCKED, at=2, event_id=FIRST["event_id"]), "comes twice"),
        (happened(2, DOCKED, at=2, event_id="7"), "event_id must be a UUID"),
        (happened(2, DOCKED, at=2, causation_id="7", command_fingerprint="AA=="), "causation_id"),
        (happened(2, DOCKED, at=2, tenant_id="*"), "tenant_id must not be"),
        (happened(2, DOCKED, at=2, tenant_id=""), "tenant_id must not be empty"),
        (happened(2, DOCKED, at=2, aggregate_id="x" * 129), "at most 128 bytes"),
        (happened(2, DOCKED, at=2, event_type="tidemark.v1.ShipSighted"), "is unknown"),
        (happened(2, DOCKED, at=2, aggregate_type="user"), "no event of 'user'"),
        (happened(2, DOCKED, at=2, data_base64="/w=="), "does not parse"),
        (happened(2, DOCKED, at=2, data=[]), "data is not an object"),
        (happened(2, DOCKED, at=2, occurred_at=None), "occurred_at must be"),
        ({"aggregate_id": "aurora"}, "event_type is missing"),
    ],
)
async def test_what_would_break_a_history_is_refused_with_its_line(
    log: SqliteLog, second: Described, said: str
) -> None:
    [problem] = await refused(log, [FIRST, second])

    assert problem.startswith("line 2: ")
    assert said in problem


async def test_a_number_that_leads_beyond_its_field_is_refused(log: SqliteLog) -> None:
    created = happened(1, UserCreated(username="ada", balance=2**63 - 1), at=1)

    [problem] = await refused(
        log, [created, happened(2, UserBalanceChanged(balance_change=1), at=2)]
    )

    assert problem.startswith("line 2: version 2 of user 'aurora' of tenant 'acme' cannot be: ")


async def test_another_event_at_a_version_of_the_log_is_refused(log: SqliteLog) -> None:
    await bring(log, [FIRST])

    problems = await refused(log, [happened(1, ShipRegistered(name="Boreas"), at=1)])

    assert problems == [
        "line 1: version 1 of ship 'aurora' of tenant 'acme' is another one in the log"
    ]


async def test_each_broken_history_is_named_once_and_all_are(log: SqliteLog) -> None:
    problems = await refused(
        log,
        [
            happened(2, DOCKED, at=1, aggregate_id="a"),
            happened(3, DOCKED, at=2, aggregate_id="a"),
            happened(1, REGISTERED, at=3, aggregate_id="b"),
            happened(4, DOCKED, at=4, aggregate_id="c"),
        ],
    )

    assert [problem.split(":")[0] for problem in problems] == ["line 1", "line 4"]


async def test_after_many_problems_the_rest_is_not_looked_at(log: SqliteLog) -> None:
    problems = await refused(
        log, (happened(2, DOCKED, at=number, aggregate_id=str(number)) for number in range(1, 100))
    )

    assert len(problems) == 21
    assert problems[-1] == "…"


@pytest.mark.parametrize("text", ["nonsense", "7", '"text"', "[{}, 7"])
async def test_what_is_no_file_of_events_is_refused(log: SqliteLog, text: str) -> None:
    with pytest.raises(ImportRefused, match="line 2: "):
        await bring_text(log, f"\n{text}\n")


async def test_an_export_refuses_what_it_would_not_say_whole() -> None:
    event = RecordedEvent.FromString(
        RecordedEvent(position=3).SerializeToString() + b"\xfa\x7f\x01x"
    )
    event.payload.Pack(DOCKED)

    with pytest.raises(DataLoss, match="position 3 has more than this program knows"):
        line_of(event, Format.JSON)


async def test_cloudevents_are_exported_a_line_each(source: SqliteLog) -> None:
    lines = (await exported(source, Format.CLOUDEVENTS)).splitlines()

    assert [json.loads(line)["sequence"] for line in lines] == [f"{n:019}" for n in range(1, 7)]


async def test_an_empty_file_is_no_event(log: SqliteLog) -> None:
    assert await bring_text(log, "") == Imported()
    assert log.head == Head()
