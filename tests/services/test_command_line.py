"""`tidemark`, as somebody types it and as a script calls it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from google.protobuf.message import Message

from shared.client import Client
from shared.json_messages import as_json
from tests.services.clients import connection_to
from tests.services.deployment import Deployment
from tests.services.subscribing import history, reached
from tests.services.terminal import SOON_S, Terminal
from tidemark.v1.ship_pb2 import (
    DepartShip,
    DockShip,
    GetShipRequest,
    GetShipResponse,
    LoadCargo,
    RegisterShip,
)
from tidemark.v1.user_pb2 import ChangeUserBalance, CreateUser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def terminal(shared: Deployment, tenant_id: str) -> Terminal:
    return Terminal(shared, tenant_id)


async def given(both: Deployment, tenant_id: str, *commands: Message) -> int:
    """Commands that have taken effect, and that the query service has; the last position."""
    async with Client(connection_to(both, tenant_id)) as client:
        for command in commands:
            await client.execute(command)
        await reached(both.queries.log, client.position)
        await client.ask(GetShipRequest(ship_id="aurora"), GetShipResponse)
        return client.position


VOYAGE = (
    RegisterShip(ship_id="aurora", name="Aurora"),
    DockShip(ship_id="aurora", port="Oslo"),
    LoadCargo(ship_id="aurora", item="silk", quantity=3),
    LoadCargo(ship_id="aurora", item="tea", quantity=2),
    DepartShip(ship_id="aurora"),
)


async def test_a_ship_is_commanded_and_asked_for(terminal: Terminal) -> None:
    registered = await terminal.sees("ships", "register", "aurora", "--name", "Aurora")
    [docked] = await terminal.reads("ships", "dock", "aurora", "--port", "Oslo", "--json")
    position = str(docked["position"])
    shown = await terminal.sees("ships", "get", "aurora", "--min-position", position)
    [was] = await terminal.reads("ships", "get", "aurora", "--as-of-version", "1", "--json")

    assert registered.startswith("✓ aurora version 1 · position ")
    assert docked["version"] == 2
    assert "status        docked\n" in shown
    assert "current port  Oslo\n" in shown
    assert was["ship"]["status"] == "SHIP_STATUS_REGISTERED"


async def test_a_user_is_commanded_and_asked_for(terminal: Terminal) -> None:
    [created] = await terminal.reads(
        *("users", "create", "--username", "Ada", "--balance", "10", "--json")
    )
    user_id = created["aggregate_id"]
    [changed] = await terminal.reads(
        *("users", "change-balance", user_id, "--balance-change", "-3", "--json")
    )
    statement = await terminal.sees(
        "users", "list-balance-changes", user_id, "--min-position", str(changed["position"])
    )

    header, line = statement.splitlines()
    columns = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert (columns["balance_change"], columns["balance"]) == ("-3", "7")


async def test_a_list_is_a_table_whose_lines_a_script_can_read(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    await given(shared, tenant_id, *VOYAGE)

    printed = await terminal.sees("ships", "list", "--status", "at-sea")

    header, line = printed.splitlines()
    assert header == "ship_id\tname\tstatus\tcurrent_port\tcargo\tversion\tupdated_at"
    assert line.split("\t")[:6] == ["aurora", "Aurora", "at sea", "", "silk 3, tea 2", "5"]
    assert await terminal.sees("ships", "list", "--status", "docked") == header + "\n"


async def test_the_context_of_a_command_are_options(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    await given(shared, tenant_id, *VOYAGE)
    command_id = "3f0c1d5e-8a41-4e0b-9a43-5d1b3f6c2a77"
    dock = ("ships", "dock", "aurora", "--port", "Kiel")

    tried = await terminal.sees(*dock, "--validate-only")
    code, _, said = await terminal.types(*dock, "--expected-version", "4")
    printed = [await terminal.sees(*dock, "--command-id", command_id) for _ in range(2)]

    assert tried == "· aurora would be at version 6\n"
    assert (code, "ABORTED, WRONG_VERSION" in said) == (1, True)
    assert [line.endswith("· duplicate\n") for line in printed] == [False, True]


async def test_a_refusal_says_why_to_people_and_to_programs(terminal: Terminal) -> None:
    people = await terminal.types("ships", "load", "aurora", "--item", "silk", "--quantity", "1")
    code, printed, said = await terminal.types("ships", "load", "aurora", "--json")

    assert people == (1, "", "✗ There is no such ship\n  NOT_FOUND, SHIP_NOT_FOUND\n")
    assert (code, printed) == (1, "")
    error = json.loads(said)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [each["field"] for each in error["violations"]] == ["item", "quantity"]


async def test_a_history_shows_what_each_event_changed(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    await given(shared, tenant_id, *VOYAGE)

    people = await terminal.sees("history", "ship", "aurora")
    programs = await terminal.reads("history", "ship", "aurora", "--json")

    lines = [line.strip() for line in people.splitlines()]
    assert lines[-3].endswith("ship/aurora v5  ShipDeparted  departed_from=Oslo")
    assert lines[-2:] == ["~ status docked → at sea", "- current port Oslo"]
    assert [each["event"]["version"] for each in programs] == [1, 2, 3, 4, 5]
    assert programs[2]["changes"] == {"cargo.silk": {"from": None, "to": 3}}


async def test_a_diff_is_of_two_moments(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    last = await given(shared, tenant_id, *VOYAGE)
    events = await history(shared.commands.log, "aurora", tenant_id=tenant_id)
    time = as_json(events[1])["occurred_at"]

    by_version = await terminal.sees("diff", "ship", "aurora", "--from", "v1", "--to", "v3")
    by_time = await terminal.reads("diff", "ship", "aurora", "--from", time, "--json")
    by_position = await terminal.reads(
        *("diff", "ship", "aurora", "--from", "2000-01-01", "--to", f"p{last - 4}", "--json")
    )

    assert [line.strip() for line in by_version.splitlines()] == [
        "~ status registered → docked",
        "+ current port Oslo",
        "+ cargo.silk 3",
    ]
    assert by_time[0]["changes"]["current_port"] == {"from": "Oslo", "to": None}
    assert by_position[0]["changes"]["name"] == {"from": None, "to": "Aurora"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("diff", "ship", "aurora", "--from", "once"),
        ("diff", "boat", "aurora", "--from", "v1"),
        ("events", "tail", "--since", "once"),
        ("ships", "list", "--status", "sunk"),
        ("--cert", __file__, "ships", "list"),
    ],
)
async def test_what_is_no_command_is_said_without_a_traceback(
    terminal: Terminal, arguments: tuple[str, ...]
) -> None:
    code, printed, said = await terminal.types(*arguments)

    assert (code, printed) == (2, "")
    assert "Usage: tidemark" in said
    assert "Traceback" not in said


async def test_events_are_followed_live_and_filtered(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    await given(shared, tenant_id, *VOYAGE)
    options = ("--type", "ShipDocked", "--type", "UserCreated", "--after", "0")
    async with terminal.watching("events", "tail", *options) as printed:
        before = (await asyncio.wait_for(printed.readline(), SOON_S)).decode()
        await given(
            shared,
            tenant_id,
            CreateUser(user_id="ada", username="Ada", balance=5),
            ChangeUserBalance(user_id="ada", balance_change=1),
            DockShip(ship_id="aurora", port="Kiel"),
        )
        after = [(await asyncio.wait_for(printed.readline(), SOON_S)).decode() for _ in range(2)]

    assert before.endswith("  ship/aurora v2  ShipDocked  port=Oslo\n")
    assert after[0].endswith("  user/ada v1  UserCreated  username=(encrypted), balance=5\n")
    assert after[1].endswith("  ship/aurora v6  ShipDocked  port=Kiel\n")
    assert "\x1b" not in before


async def test_events_on_a_terminal_have_the_colour_of_their_aggregate(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    await given(shared, tenant_id, *VOYAGE[:2], RegisterShip(ship_id="boreas", name="Boreas"))
    async with terminal.watching("events", "tail", "--after", "0", terminal=True) as printed:
        lines = [(await asyncio.wait_for(printed.readline(), SOON_S)).decode() for _ in range(3)]

    colours = [line.partition("ship/")[0].rpartition("\x1b")[2] for line in lines]
    assert colours[0] == colours[1] != colours[2]


async def test_events_are_followed_beside_the_demo(shared: Deployment) -> None:
    terminal = Terminal(shared, "default")
    [ships, _] = await terminal.reads("projections", "--json")
    async with terminal.watching("events", "tail", "--after", str(ships["position"])) as printed:
        telling = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demo", shared.command.address, shared.query.address),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await asyncio.wait_for(telling.communicate(), SOON_S)
        seen = await asyncio.wait_for(
            printed.readuntil(b"ShipDeparted  departed_from=Hong Kong\n"), SOON_S
        )

    assert telling.returncode == 0
    assert b"7 events, live, the same as the log has" in told
    assert b"UserBalanceChanged  balance_change=250\n" in seen


async def test_a_ship_is_watched(shared: Deployment, terminal: Terminal, tenant_id: str) -> None:
    await given(shared, tenant_id, *VOYAGE)
    async with terminal.watching("ships", "watch", "aurora", "--json") as printed:
        before = json.loads(await asyncio.wait_for(printed.readline(), SOON_S))
        await given(shared, tenant_id, DockShip(ship_id="aurora", port="Kiel"))
        after = json.loads(await asyncio.wait_for(printed.readline(), SOON_S))

    assert [each["ship"]["current_port"] for each in (before, after)] == ["", "Kiel"]


async def test_the_lag_of_projections_is_shown_once_where_it_is_piped(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    last = await given(shared, tenant_id, *VOYAGE)

    header, ships, users = (await terminal.sees("projections")).splitlines()
    programs = await terminal.reads("projections", "--json")

    assert header.split("\t")[:3] == ["name", "state", "position"]
    assert ships.split("\t")[:3] == ["ships", "live", str(last)]
    assert users.split("\t")[0] == "users"
    assert [each["events_behind"] for each in programs] == [0, 0]


async def test_the_lag_of_projections_is_shown_live_on_a_terminal(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    async with terminal.watching("projections", terminal=True) as printed:
        await asyncio.wait_for(printed.readuntil(b"ships"), SOON_S)
        last = await given(shared, tenant_id, *VOYAGE)
        await asyncio.wait_for(printed.readuntil(str(last).encode()), SOON_S)


async def test_a_rebuild_shows_its_progress(
    shared: Deployment, terminal: Terminal, tenant_id: str
) -> None:
    last = await given(shared, tenant_id, *VOYAGE)

    piped = await terminal.sees("rebuild", "ships")
    async with terminal.watching("rebuild", "ships", terminal=True, ends=True) as printed:
        shown = await asyncio.wait_for(printed.readuntil(b"rebuilt"), SOON_S)

    assert piped == f"✓ ships rebuilt up to position {last}\n"
    assert f"{last}/{last}" in shown.decode()
    assert "━━━" in shown.decode()


async def test_what_is_exported_from_a_running_service_is_a_log(
    shared: Deployment, terminal: Terminal, tenant_id: str, tmp_path: Path
) -> None:
    await given(shared, tenant_id, *VOYAGE)
    own = tmp_path / "own"
    own.write_text(await terminal.sees("export"))

    imported = await terminal.types("import", str(own), "--log", f"sqlite:{tmp_path / 'log.db'}")
    clouds = await terminal.reads("export", "--format", "cloudevents")
    everything = await terminal.reads("export", "--every-tenant")

    assert imported == (0, "", "5 events imported, 0 were there already.\n")
    assert [each["specversion"] for each in clouds] == ["1.0"] * 5
    assert [each["position"] for each in everything] == list(range(1, len(everything) + 1))
    assert [each for each in everything if each["tenant_id"] == tenant_id] == [
        json.loads(line) for line in own.read_text().splitlines()
    ]


async def test_a_shell_completes_commands_and_values(terminal: Terminal) -> None:
    async def completed(words: str) -> list[str]:
        terminal.env |= {
            "_TIDEMARK_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        return (await terminal.sees()).split()

    assert await completed("tidemark ships l") == ["load", "list", "list-ports", "list-port-cargo"]
    assert await completed("tidemark ships list --status ") == ["registered", "docked", "at-sea"]
