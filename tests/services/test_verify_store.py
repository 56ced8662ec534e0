"""A query service's folder is damaged by hand, and `verify` says where."""

import re
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from query_service import verifying
from query_service.states import KEPT_EVERY
from query_service.verifying import verify_store
from tests.log.damaging import change
from tests.log.told import Told, told
from tests.services.caller import Caller
from tests.services.deployment import deployment
from tests.services.traffic import traffic
from tidemark.v1.ship_pb2 import GetShipRequest
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser, DeleteUser, GetUserRequest

EVENTS = 2 + KEPT_EVERY + 200
EARLY = KEPT_EVERY // 2
"""A position before anything of users is kept."""
CLEAN = f"{EVENTS} events, 11 aggregates, 0 receipts, 0 snapshots, 2 projections verified"

Verify = Callable[[Path], Told]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def left(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The folder that a query service has left, of nine ships and two users."""
    async with deployment(tmp_path_factory.mktemp("services")) as both:
        caller = Caller(both.commands, both.queries, "default")
        changes = [ChangeUserBalance(user_id="ada", balance_change=1)] * KEPT_EVERY
        await caller.do(
            CreateUser(user_id="ada", username="Ada"),
            CreateUser(user_id="bob", username="Bob"),
            *changes[1:],
            DeleteUser(user_id="bob"),
            *traffic(seed=1, count=200),
        )
        await caller.ask(GetShipRequest(ship_id="ship-1"))
        await caller.ask(GetUserRequest(user_id="ada"))
        await both.query.stop()
        yield both.folder / "query"


@pytest.fixture
def store(left: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(left, tmp_path / "store"))


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    return lambda store: told(capsys, partial(verify_store, store))


def test_a_folder_that_is_as_it_was_left_verifies(store: Path, verify: Verify) -> None:
    said = verify(store)

    assert (said.code, said.findings, said.closing) == (0, [], f"{CLEAN}, 0 findings")


def test_a_projection_that_takes_many_steps_to_be_built_verifies(
    store: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "BATCH_EVENTS", 1)

    assert verify(store).closing == f"{CLEAN}, 0 findings"


def test_a_projection_that_is_still_to_be_built_is_no_finding(store: Path, verify: Verify) -> None:
    """It is missing, or an earlier program's, or a rebuild was interrupted, or has just begun."""
    (store / "users-000001.db").unlink()
    (store / "users-000002.db").touch()
    change(store / "ships-000001.db", "UPDATE checkpoint SET is_live = 0")

    said = verify(store)

    assert said.code == 0
    assert said.closing == f"{CLEAN.replace('2 projections', '0 projections')}, 0 findings"


def test_the_newest_file_of_those_that_count_is_verified(store: Path, verify: Verify) -> None:
    ships = store / "ships-000001.db"
    for name in ("ships-000002.db", "ships-000003.db"):
        shutil.copy(ships, store / name)
    change(ships, "DELETE FROM states")
    change(store / "ships-000003.db", "DELETE FROM states", "UPDATE checkpoint SET is_live = 0")

    assert verify(store).closing == f"{CLEAN}, 0 findings"


def found(projection: str, sentence: str) -> str:
    return f"Projection {projection} at position {EVENTS}: {sentence}"


CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "a state": (
        "ships",
        "UPDATE states SET state = x'00' WHERE aggregate_id = 'ship-1'",
        ["table states: row 'default', 'ship-1' differs in state"],
    ),
    "a column of a state": (
        "ships",
        "UPDATE states SET port = 'Atlantis', status = 9 WHERE aggregate_id = 'ship-1'",
        ["table states: row 'default', 'ship-1' differs in status, port"],
    ),
    "a state that is missing": (
        "users",
        "DELETE FROM states WHERE aggregate_id = 'ada'",
        ["table states: row 'default', 'ada' is missing"],
    ),
    "the last state that is missing": (
        "users",
        "DELETE FROM states WHERE aggregate_id = 'bob'",
        ["table states: row 'default', 'bob' is missing"],
    ),
    "a state too many": (
        "users",
        "INSERT INTO states SELECT 'acme', aggregate_id, deleted, state FROM states LIMIT 1",
        ["table states: row 'acme', 'ada' is one too many"],
    ),
    "a state too many at the end": (
        "users",
        "INSERT INTO states SELECT 'zenith', aggregate_id, deleted, state FROM states LIMIT 1",
        ["table states: row 'zenith', 'ada' is one too many"],
    ),
    "whose state it is": (
        "users",
        "UPDATE states SET tenant_id = 'acme' WHERE aggregate_id = 'ada'",
        [
            "table states: row 'acme', 'ada' is one too many",
            "table states: row 'default', 'ada' is missing",
        ],
    ),
    "a kept state": (
        "users",
        "UPDATE kept_states SET state = x'00'",
        [f"table kept_states: row 'default', 'ada', {KEPT_EVERY} differs in state"],
    ),
    "a kept state that is missing": (
        "users",
        "DELETE FROM kept_states",
        [f"table kept_states: row 'default', 'ada', {KEPT_EVERY} is missing"],
    ),
    "a view": (
        "ships",
        "UPDATE ports SET ships_docked = ships_docked + 1 WHERE port = 'Oslo'",
        ["table ports: row 'default', 'Oslo' differs in ships_docked"],
    ),
    "a view of two columns": (
        "ships",
        "UPDATE port_cargo SET loaded = 0, aboard = -1 WHERE port = 'Oslo' AND item = 'tin'",
        ["table port_cargo: row 'default', 'Oslo', 'tin' differs in aboard, loaded"],
    ),
    "an index that is missing": (
        "ships",
        "DROP INDEX ships_by_port",
        ["index ships_by_port is missing, or another one"],
    ),
    "a table that is missing": (
        "ships",
        "DROP TABLE ports",
        ["table ports is missing, or another one"],
    ),
    "a table that is another one": (
        "ships",
        "ALTER TABLE ports RENAME COLUMN port TO harbour",
        ["table ports is missing, or another one"],
    ),
    "the digest of its checkpoint": (
        "ships",
        "UPDATE checkpoint SET digest = zeroblob(32)",
        ["its digest is not that of the log"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named(what: str, store: Path, verify: Verify) -> None:
    projection, statement, expected = CHANGES[what]
    change(store / f"{projection}-000001.db", statement)

    said = verify(store)

    assert said.code == 1
    assert said.findings == [found(projection, sentence) for sentence in expected]


def test_a_checkpoint_that_is_too_early_is_found(store: Path, verify: Verify) -> None:
    statement = f"UPDATE checkpoint SET position = {EARLY}"  # noqa: S608  # ours
    change(store / "users-000001.db", statement)

    said = verify(store)

    assert said.code == 1
    assert said.findings == [
        f"Projection users at position {EARLY}: {sentence}"
        for sentence in (
            "its digest is not that of the log",
            "table states: row 'default', 'ada' differs in state",
            "table states: row 'default', 'bob' differs in deleted, state",
            f"table kept_states: row 'default', 'ada', {KEPT_EVERY} is one too many",
        )
    ]


def test_a_projection_that_is_ahead_of_the_copy_cannot_be_verified(
    store: Path, verify: Verify
) -> None:
    change(store / "ships-000001.db", "UPDATE checkpoint SET position = position + 1")

    said = verify(store)

    assert said.code == 1
    assert said.findings == [
        f"Projection ships at position {EVENTS + 1}: its copy of the log ends at position {EVENTS}"
    ]


def test_a_projection_without_a_checkpoint_is_found(store: Path, verify: Verify) -> None:
    change(store / "ships-000001.db", "DELETE FROM checkpoint")

    said = verify(store)

    assert said.code == 1
    assert said.findings == [
        f"{store / 'ships-000001.db'} cannot be read: LOG_CORRUPT: Its checkpoint is lost"
    ]
    assert "1 projection verified" in said.closing


def test_a_projection_that_is_no_database_is_found(store: Path, verify: Verify) -> None:
    (store / "ships-000001.db").write_bytes(b"This is not a database. " * 100)

    said = verify(store)

    assert said.code == 1
    assert said.findings == [f"{store / 'ships-000001.db'} cannot be read: file is not a database"]


def test_a_damaged_page_of_a_projection_is_found(store: Path, verify: Verify) -> None:
    path = store / "ships-000001.db"
    stored = bytearray(path.read_bytes())
    stored[-4096:] = b"\xff" * 4096
    path.write_bytes(stored)

    said = verify(store)

    assert said.code == 1
    assert said.findings[0].startswith("The file of ships is damaged: ")


def test_damage_in_the_copy_is_found_and_what_cannot_be_built_from_it(
    store: Path, verify: Verify
) -> None:
    change(store / "log.db", "UPDATE chunks SET records = x'0a020aff' WHERE first = 1")

    said = verify(store)

    assert said.code == 1
    assert re.fullmatch(r"Positions 1 to \d+: not what was written", said.findings[0])
    for projection in ("ships", "users"):
        sentence = found(projection, "it cannot be built from the log: ")
        assert any(each.startswith(sentence) for each in said.findings)


def test_a_chunk_that_the_copy_lacks_is_found_in_what_is_built_from_it(
    store: Path, verify: Verify
) -> None:
    change(store / "log.db", "DELETE FROM chunks WHERE first = 1")

    said = verify(store)

    assert said.code == 1
    assert re.fullmatch(r"Positions 1 to \d+: missing", said.findings[0])
    sentence = "it cannot be built from the log: CorruptHistory: "
    assert any(each.startswith(found("users", sentence)) for each in said.findings)


def test_a_folder_without_a_copy_cannot_be_verified(tmp_path: Path, verify: Verify) -> None:
    said = verify(tmp_path / "nowhere")

    assert (said.code, said.closing) == (2, "")
    assert said.errors == f"test: There is no {tmp_path / 'nowhere' / 'log.db'}\n"
