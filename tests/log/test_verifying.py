"""A log is damaged by hand in every way that can be thought of, and `verify` says where."""

import asyncio
import random
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared import verification
from shared.aggregates.ship import SHIP
from shared.aggregates.user import USER
from shared.log import folds
from shared.log.folds import say
from shared.log.log import AggregateKey, Commit, Snapshot
from shared.log.sqlite import SqliteLog, indexing
from shared.log.sqlite.verifying import opened, verify_log
from shared.sqlite import temporary
from shared.verification import MAX_TOLD, Verification
from tests.log.builders import Clock, command, commit, ship, user
from tests.log.damaging import change, flip, reseal, rewrite
from tests.log.reading import records_of
from tests.log.told import Told, told
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import (
    SHIP_STATUS_DOCKED,
    CargoLoaded,
    CargoUnloaded,
    Ship,
    ShipDocked,
    ShipRegistered,
)
from tidemark.v1.user_pb2 import UserBalanceChanged, UserCreated

PAGE_BYTES = 4096

REGISTERED = ShipRegistered(name="Aurora")
DOCKED = ShipDocked(port="Oslo")
CHANGED = UserBalanceChanged(balance_change=1)

UNLOADED = Ship(
    ship_id="aurora",
    name="Aurora",
    status=SHIP_STATUS_DOCKED,
    current_port="Oslo",
    cargo={"silk": 3},
    version=4,
)
SNAPSHOT = Snapshot(4, SHIP.snapshot_schema, UNLOADED.SerializeToString(deterministic=True))

TRANSACTIONS: list[list[Commit]] = [
    [commit(ship(), 0, [REGISTERED], command=command(1))],
    [
        commit(
            ship(),
            1,
            [DOCKED, CargoLoaded(item="silk", quantity=5, port="Oslo")],
            command=command(2),
        )
    ],
    [
        commit(user(), 0, [UserCreated(username="Ada", balance=1)]),
        commit(user(), 1, [CHANGED]),
        commit(ship(tenant_id="zenith"), 0, [REGISTERED], command=command(1, "zenith")),
    ],
    [
        commit(
            ship(),
            3,
            [CargoUnloaded(item="silk", quantity=2, port="Oslo")],
            command=command(3),
            snapshot=SNAPSHOT,
        )
    ],
    [commit(user(), 2, [CHANGED], command=command(4))],
    [commit(ship(tenant_id="zenith"), 1, [DOCKED])],
]
"""Each is a chunk: 1, 2 to 3, 4 to 6, 7, 8 and 9."""

CLEAN = "9 events, 3 aggregates, 5 receipts, 1 snapshot verified, 0 findings"


Verify = Callable[[Path], Told]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def work(path: Path, verification: Verification) -> None:
        with opened(path) as db:
            verify_log(db, (SHIP, USER), verification)

    return lambda path: told(capsys, partial(work, path))


@asynccontextmanager
async def running(path: Path, *, with_receipts: bool = True) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(path, with_receipts=with_receipts, clock=Clock())
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "log.db"
    asyncio.run(write(path))
    return path


async def write(path: Path) -> None:
    async with running(path) as log:
        for commits in TRANSACTIONS:
            await log.append(commits)


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    shutil.copy(written, path)
    return path


# Nothing is found


def test_a_log_that_is_as_it_was_written_verifies(path: Path, verify: Verify) -> None:
    said = verify(path)

    assert (said.code, said.findings, said.closing) == (0, [], CLEAN)


async def test_a_log_without_events_verifies(tmp_path: Path, verify: Verify) -> None:
    async with running(tmp_path / "log.db"):
        pass

    said = verify(tmp_path / "log.db")

    assert said.code == 0
    assert said.closing == "0 events, 0 aggregates, 0 receipts, 0 snapshots verified, 0 findings"


async def test_what_the_index_does_not_have_yet_is_no_finding(
    tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", 5)
    async with running(tmp_path / "log.db") as log:
        for commits in TRANSACTIONS:
            await log.append(commits)

        said = verify(tmp_path / "log.db")

    assert said.code == 0
    assert said.closing == "9 events, 3 aggregates, 3 receipts, 0 snapshots verified, 0 findings"


async def test_a_copy_without_receipts_verifies_and_so_does_one_that_was_given_them(
    path: Path, tmp_path: Path, verify: Verify
) -> None:
    async with running(path) as log, running(tmp_path / "copy.db", with_receipts=False) as copy:
        records = await records_of(log)
        # One that ends in the middle of a command.
        await copy.copy(records[:2])
        await copy.copy(records[2:])
    without = verify(tmp_path / "copy.db")
    async with running(tmp_path / "copy.db"):
        pass
    with_receipts = verify(tmp_path / "copy.db")

    assert without.code == with_receipts.code == 0
    assert without.closing.startswith("9 events, 3 aggregates, 0 receipts, 0 snapshots")
    assert with_receipts.closing.startswith("9 events, 3 aggregates, 5 receipts, 0 snapshots")


@pytest.mark.parametrize("events", [1, 2, 3])
async def test_an_index_that_ends_in_the_middle_of_a_command_verifies(
    events: int, tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "INDEX_EVENTS", 1)
    async with running(tmp_path / "log.db") as log:
        await log.append([commit(ship(), 0, [REGISTERED, DOCKED, DOCKED], command=command(1))])
        records = await records_of(log)
    async with running(tmp_path / "copy.db") as copy:
        for record in records[:events]:
            await copy.copy([record])

        assert verify(tmp_path / "copy.db").findings == []


def test_states_that_do_not_fit_into_memory_are_verified_as_well(
    path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "MAX_RECENT", 1)

    assert verify(path).closing == CLEAN


def test_a_snapshot_of_an_earlier_program_is_ignored_as_the_service_ignores_it(
    path: Path, verify: Verify
) -> None:
    change(path, "UPDATE snapshots SET schema = x'00', state = x'00'")

    said = verify(path)

    assert said.code == 0
    assert said.closing == CLEAN.replace("1 snapshot", "0 snapshots")


# Something is found

ACME, ADA = ship(), user()
ZENITH, ZENITH_ADA = ship(tenant_id="zenith"), user(tenant_id="zenith")
SUBMARINE = AggregateKey("zenith", "submarine", "aurora")

MISSING = "is missing, or points elsewhere"
WRONG = "points here, to something else"
NOWHERE = "points here, where there is no event"


def entry(position: int, key: AggregateKey, version: int, what: str) -> str:
    return f"Position {position}: the index entry of version {version} of {say(key)} {what}"


def receipt(position: int, number: int, what: str, tenant_id: str = "acme") -> str:
    return (
        f"Position {position}: the receipt of command {number:032x} of tenant {tenant_id!r} {what}"
    )


def altered(places: str) -> str:
    return f"{places}: the digest that is stored there is not that of the log up to there"


def wrong_snapshot(position: int, version: int) -> str:
    return (
        f"Position {position}: the snapshot of version {version} of {say(ACME)} is not what its"
        " events lead to"
    )


CHANGES: dict[str, tuple[str, list[str]]] = {
    # The log
    "records": (
        "UPDATE chunks SET records = CAST(replace(records, 'Ada', 'Eve') AS BLOB) WHERE first = 4",
        [altered("Positions 4 to 6")],
    ),
    "a digest": (
        "UPDATE chunks SET digest = zeroblob(32) WHERE position = 6",
        [altered("Positions 4 to 6"), altered("Position 7")],
    ),
    "the last digest": (
        "UPDATE chunks SET digest = zeroblob(32) WHERE position = 9",
        [altered("Position 9")],
    ),
    "a record that is none": (
        "UPDATE chunks SET records = x'0a020aff' WHERE position = 9",
        [
            altered("Position 9"),
            "Position 9: what is stored is no event",
            entry(9, ZENITH, 2, NOWHERE),
        ],
    ),
    "too few records": (
        "UPDATE chunks SET records = x'' WHERE position = 9",
        ["Position 9: what is stored is not that many events"],
    ),
    "records that are none": (
        "UPDATE chunks SET records = x'ff' WHERE position = 9",
        ["Position 9: what is stored is not that many events"],
    ),
    "where a chunk begins": (
        "UPDATE chunks SET first = 8 WHERE position = 9",
        ["Positions 8 to 9: what is stored is not that many events"],
    ),
    "where a chunk stands": (
        "UPDATE chunks SET first = 11, position = 11 WHERE position = 9",
        [
            "Position 11: the event says that it stands at 9",
            entry(9, ZENITH, 2, NOWHERE),
        ],
    ),
    "whose events they are": (
        "UPDATE chunks SET tenant_id = 'acme' WHERE first = 4",
        ["Positions 4 to 6: tenant 'acme' is said to be that of each event"],
    ),
    "whose event it is": (
        "UPDATE chunks SET tenant_id = NULL WHERE first = 1",
        ["Position 1: tenant None is said to be that of each event"],
    ),
    "a missing chunk": (
        "DELETE FROM chunks WHERE position = 8",
        ["Position 8: missing", entry(8, ADA, 3, NOWHERE), receipt(8, 4, NOWHERE)],
    ),
    "a missing chunk, and so a gap in the versions": (
        "DELETE FROM chunks WHERE position = 6",
        [
            "Positions 4 to 6: missing",
            *(entry(position, ADA, position - 3, NOWHERE) for position in (4, 5)),
            entry(6, ZENITH, 1, NOWHERE),
            f"Position 8: version 3 of {say(ADA)} follows version 0",
            receipt(6, 1, NOWHERE, "zenith"),
            f"Position 9: version 2 of {say(ZENITH)} follows version 0",
        ],
    ),
    "the missing end": (
        "DELETE FROM chunks WHERE position = 9",
        [
            entry(9, ZENITH, 2, NOWHERE),
            "Position 9: the index reaches up to here, but the log to 8",
        ],
    ),
    # The index
    "an entry that is missing": (
        "DELETE FROM versions WHERE position = 5",
        [entry(5, ADA, 2, MISSING)],
    ),
    "an entry that points elsewhere": (
        "UPDATE versions SET position = 4 WHERE position = 5",
        [entry(4, ADA, 2, WRONG), entry(5, ADA, 2, MISSING)],
    ),
    "an entry too many": (
        "INSERT INTO versions SELECT aggregate, 9, 12 FROM versions WHERE position = 4",
        [entry(12, ADA, 9, NOWHERE)],
    ),
    "an index that reaches further than the log": (
        "UPDATE indexed SET versions = 10",
        ["Position 10: the index reaches up to here, but the log to 9"],
    ),
    "an index that reaches less far than it does": (
        "UPDATE indexed SET versions = 8",
        [entry(9, ZENITH, 2, WRONG)],
    ),
    "an aggregate of no event": (
        "INSERT INTO aggregates VALUES (99, 'ghost', 'ship', 'acme')",
        ["The index knows ship 'ghost' of tenant 'acme', but no version of it"],
    ),
    "the name of an aggregate": (
        "UPDATE aggregates SET aggregate_id = 'eve' WHERE aggregate_id = 'ada'",
        [
            entry(position, key, version, what)
            for position, version in ((4, 1), (5, 2), (8, 3))
            for key, what in ((ADA, MISSING), (user("eve"), WRONG))
        ],
    ),
    # Receipts
    "a receipt that is missing": (
        "DELETE FROM receipts WHERE position = 8",
        [receipt(8, 4, MISSING)],
    ),
    "a receipt that points elsewhere": (
        "UPDATE receipts SET position = 5 WHERE position = 8",
        [receipt(5, 4, WRONG), receipt(8, 4, MISSING)],
    ),
    "a receipt that points at the first event of its command": (
        "UPDATE receipts SET position = 2 WHERE position = 3",
        [receipt(2, 2, WRONG), receipt(3, 2, MISSING)],
    ),
    "a receipt of another tenant": (
        "UPDATE receipts SET tenant_id = 'zenith' WHERE position = 8",
        [receipt(8, 4, MISSING), receipt(8, 4, WRONG, "zenith")],
    ),
    "a receipt too many": (
        "INSERT INTO receipts VALUES (x'00000000000000000000000000000007', 'acme', 9)",
        [receipt(9, 7, WRONG)],
    ),
    # Snapshots
    "a snapshot": (
        "UPDATE snapshots SET state = CAST(replace(state, 'silk', 'tin!') AS BLOB)",
        [wrong_snapshot(7, 4)],
    ),
    "a snapshot that does not parse": (
        "UPDATE snapshots SET state = x'0aff'",
        [wrong_snapshot(7, 4)],
    ),
    "a snapshot of another version": (
        "UPDATE snapshots SET version = 3",
        [wrong_snapshot(3, 3)],
    ),
    "a snapshot of no version": (
        "UPDATE snapshots SET version = 7",
        [f"There is a snapshot of version 7 of {say(ACME)}, but no such version"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named_with_its_position(what: str, path: Path, verify: Verify) -> None:
    statement, expected = CHANGES[what]
    change(path, statement)
    reseal(path)

    said = verify(path)

    assert said.code == 1
    assert said.findings == expected
    assert f"{len(said.findings)} finding" in said.closing


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chunks SET records = CAST(replace(records, 'Ada', 'Eve') AS BLOB) WHERE first = 4",
        "UPDATE chunks SET tenant_id = 'acme' WHERE first = 4",
        "UPDATE chunks SET first = 5 WHERE first = 4",
        "UPDATE chunks SET checksum = checksum + 1 WHERE first = 4",
    ],
)
def test_what_was_not_changed_on_purpose_is_found_by_its_checksum(
    statement: str, path: Path, verify: Verify
) -> None:
    change(path, statement)

    said = verify(path)

    assert said.code == 1
    assert re.fullmatch(r"Positions [45] to 6: not what was written", said.findings[0])
    if "checksum" in statement:
        assert said.closing == CLEAN.replace("0 findings", "1 finding")


def alter_version(event: RecordedEvent) -> None:
    event.version = 5


def alter_position(event: RecordedEvent) -> None:
    event.position = 8


def alter_time(event: RecordedEvent) -> None:
    event.occurred_at.seconds -= 1


def alter_payload(event: RecordedEvent) -> None:
    event.payload.value = b"\xff"


def alter_type(event: RecordedEvent) -> None:
    event.payload.type_url = "type.googleapis.com/tidemark.v1.ShipSunk"


def alter_kind(event: RecordedEvent) -> None:
    event.aggregate_type = "submarine"


def alter_command(event: RecordedEvent) -> None:
    event.causation_id = "none"


def alter_tenant(event: RecordedEvent) -> None:
    event.tenant_id = "zenith"


def alter_change(event: RecordedEvent) -> None:
    event.payload.Pack(UserBalanceChanged(balance_change=2**63 - 1))


ALTERATIONS: dict[str, tuple[int, Callable[[RecordedEvent], object], list[str]]] = {
    "a gap in the versions": (
        8,
        alter_version,
        [
            f"Position 8: version 5 of {say(ADA)} follows version 2",
            entry(8, ADA, 5, MISSING),
            entry(8, ADA, 3, WRONG),
        ],
    ),
    "another position": (7, alter_position, ["Position 7: the event says that it stands at 8"]),
    "an earlier time": (
        7,
        alter_time,
        [
            (
                "Position 7: the event was recorded at 2026-01-01T11:59:59.000006+00:00, which is"
                " not after the one before it, 2026-01-01T12:00:00.000005+00:00"
            )
        ],
    ),
    "a payload that does not parse": (
        8,
        alter_payload,
        [
            (
                "Position 8: The type.googleapis.com/tidemark.v1.UserBalanceChanged at position 8"
                " does not parse"
            )
        ],
    ),
    "a payload of an unknown type": (
        8,
        alter_type,
        ["Position 8: this program does not know 'type.googleapis.com/tidemark.v1.ShipSunk'"],
    ),
    "an unknown kind of aggregate": (
        6,
        alter_kind,
        [
            f"Position 6: this program does not know what {say(SUBMARINE)} is",
            entry(6, SUBMARINE, 1, MISSING),
            entry(6, ZENITH, 1, WRONG),
            f"Position 9: version 2 of {say(ZENITH)} follows version 0",
        ],
    ),
    "no creation": (
        4,
        alter_change,
        [
            (
                "Position 4: The history of user 'ada' begins with UserBalanceChanged, not with"
                " UserCreated"
            )
        ],
    ),
    "what the state cannot hold": (
        8,
        alter_change,
        ["Position 8: cannot be folded: ValueError: Value out of range: 9223372036854775809"],
    ),
    "a command that is no UUID": (
        8,
        alter_command,
        ["Position 8: command 'none' is no UUID", receipt(8, 4, WRONG)],
    ),
    "whose event it is": (
        8,
        alter_tenant,
        [
            f"Position 8: version 3 of {say(ZENITH_ADA)} follows version 0",
            entry(8, ZENITH_ADA, 3, MISSING),
            entry(8, ADA, 3, WRONG),
            "Position 8: tenant 'acme' is said to be that of each event",
            receipt(8, 4, MISSING, "zenith"),
            receipt(8, 4, WRONG),
        ],
    ),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_what_cannot_be_is_named_though_its_digests_fit(
    what: str, path: Path, verify: Verify
) -> None:
    position, alter, expected = ALTERATIONS[what]
    rewrite(path, position, alter)

    said = verify(path)

    assert said.code == 1
    assert said.findings == expected


def test_an_altered_event_is_found_by_the_snapshot_that_it_led_to(
    path: Path, verify: Verify
) -> None:
    rewrite(path, 3, lambda event: event.payload.Pack(CargoLoaded(item="silk", quantity=6)))

    assert verify(path).findings == [wrong_snapshot(7, 4)]


async def test_a_command_that_took_effect_twice_is_found(tmp_path: Path, verify: Verify) -> None:
    path = tmp_path / "log.db"
    async with running(path) as log:
        await log.append([commit(ship(), 0, [REGISTERED], command=command(1))])
        await log.append([commit(user(), 0, [UserCreated(username="Ada")])])
        await log.append([commit(ship(), 1, [DOCKED], command=command(2))])
    rewrite(path, 3, lambda event: setattr(event, "causation_id", command(1).command_id))
    change(
        path,
        "DELETE FROM receipts WHERE position = 3",
        "UPDATE receipts SET position = 3",
    )

    assert verify(path).findings == [receipt(1, 1, MISSING)]


def test_whatever_is_flipped_in_the_file_is_found_if_anything_is_stored_there(
    path: Path, verify: Verify
) -> None:
    intact, before = path.read_bytes(), everything_in(path)
    choose = random.Random(1)  # noqa: S311  # no secret
    # Most of a file so small is empty.
    used = [place for place, byte in enumerate(intact) if byte]
    found = 0
    for place in choose.sample(used, 150):
        stored = bytearray(intact)
        stored[place] ^= 1 << choose.randrange(8)
        path.write_bytes(stored)

        said = verify(path)

        if said.code == 0:
            assert everything_in(path) == before, place
        found += said.code > 0
    assert found > 50


def everything_in(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables, but what a snapshot is ignored by if it is another."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE sql <> ''")]
        rows = {name.lower(): db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}  # noqa: S608  # ours
        rows["snapshots"] = db.execute("SELECT aggregate, version, state FROM snapshots").fetchall()
        return rows


async def test_a_flipped_bit_in_the_file_is_found(path: Path, verify: Verify) -> None:
    async with running(path) as log:
        record = (await records_of(log))[1]
    flip(path, record)

    said = verify(path)

    assert said.code == 1
    assert said.findings[:2] == [
        "Positions 2 to 3: not what was written",
        altered("Positions 2 to 3"),
    ]


def test_a_damaged_page_of_the_file_is_found_and_the_rest_is_verified(
    path: Path, verify: Verify
) -> None:
    page_of_commands = root_page(path, "receipts")
    stored = bytearray(path.read_bytes())
    stored[page_of_commands : page_of_commands + 16] = b"\xff" * 16
    path.write_bytes(stored)

    said = verify(path)

    assert said.code == 1
    assert said.findings[0].startswith("The file of log is damaged: ")
    assert any(found.startswith("The index cannot be read: ") for found in said.findings)
    assert said.closing.startswith("9 events, 3 aggregates, 0 receipts, 1 snapshot verified")


async def test_a_log_that_cannot_be_read_on_says_from_where(tmp_path: Path, verify: Verify) -> None:
    path = tmp_path / "log.db"
    long = [ShipDocked(port="x" * 1000)] * 1000
    async with running(path) as log:
        await log.append([commit(ship(), 0, [REGISTERED, *long])])
    stored = bytearray(path.read_bytes())
    middle = len(stored) // PAGE_BYTES // 2 * PAGE_BYTES
    stored[middle : middle + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(stored)

    said = verify(path)

    assert said.code == 1
    found = [
        re.match(r"Position (\d+): cannot be read from here on: ", each) for each in said.findings
    ]
    [position] = [int(each[1]) for each in found if each]
    assert 1 < position < 1001
    assert said.closing.startswith(f"{position - 1} events, 1 aggregate, ")


def test_the_first_findings_are_told_and_all_are_counted(
    path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_TOLD == 100
    monkeypatch.setattr(verification, "MAX_TOLD", 3)
    change(path, "DELETE FROM versions")

    said = verify(path)

    # Nine events without an entry, three aggregates without a version, one snapshot without.
    assert len(said.findings) == 3
    assert said.closing.endswith("verified, 13 findings, the first 3 of which are told")


# Nothing can be verified


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no "),
        (b"This is not a database. " * 100, "cannot be read: file is not a database"),
        (b"", "is no log of schema"),
    ],
)
def test_what_is_no_log_cannot_be_verified(
    content: bytes | None, sentence: str, tmp_path: Path, verify: Verify
) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)

    said = verify(path)

    assert (said.code, said.findings, said.closing) == (2, [], "")
    assert sentence in said.errors
    assert str(path) in said.errors


def test_what_the_system_refuses_to_open_cannot_be_verified(tmp_path: Path, verify: Verify) -> None:
    said = verify(tmp_path / ("x" * 300))

    assert said.code == 2
    assert "File name too long" in said.errors


def test_a_log_of_another_program_cannot_be_verified(path: Path, verify: Verify) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")

    said = verify(path)

    assert said.code == 2
    assert "of schema 7" in said.errors


def test_without_room_for_temporary_files_it_cannot_be_verified(
    path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room() -> sqlite3.Connection:
        db = temporary()
        db.execute("PRAGMA max_page_count = 1")
        return db

    monkeypatch.setattr(folds, "temporary", without_room)

    said = verify(path)

    assert (said.code, said.findings) == (2, [])
    assert "there is no room for temporary files" in said.errors


# It changes nothing


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_the_files_of_a_log_are_left_as_they_are(
    is_stopped: bool, tmp_path: Path, verify: Verify
) -> None:
    """A killed service leaves a WAL, which only the next one may move into the database."""
    log = await SqliteLog.open(tmp_path / "log.db", clock=Clock())
    for commits in TRANSACTIONS:
        await log.append(commits)
    if is_stopped:
        await log.close()
    left = tmp_path / "left"
    left.mkdir()
    for name in ("log.db", "log.db-wal"):
        if (tmp_path / name).exists():
            shutil.copy(tmp_path / name, left)
    if not is_stopped:
        await log.close()
    before = contents(left)

    said = verify(left / "log.db")

    assert said.code == 0
    assert said.closing.startswith("9 events, 3 aggregates")
    after = contents(left)
    # What it needs to read is made, and has nothing in it.
    assert {name: content for name, content in after.items() if name in before} == before
    assert after.get("log.db-wal", b"") == before.get("log.db-wal", b"")


def contents(folder: Path) -> dict[str, bytes]:
    """The files that have something that has to last."""
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")
    }


def root_page(path: Path, table: str) -> int:
    """Where the first page of a table begins."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        return int(found.fetchone()[0] - 1) * PAGE_BYTES
