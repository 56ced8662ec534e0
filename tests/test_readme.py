"""Every snippet of the README and of docs/ is executed, with ports of the test's own."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from command_service.keys import opening
from command_service.keys.sqlite import SqliteKeys
from docs import contract
from examples import dev_credentials
from examples.dev_credentials import server_options, upstream_options
from examples.services import Service, start_command_service, start_query_service
from shared.log.opening import names_a_log
from shared.log.sqlite import SqliteLog
from tests.log.builders import commit, ship, user
from tests.postgres.databases import keys_of
from tests.relay.broker import free_port
from tests.relay.program import Program
from tests.services.caller import Caller
from tests.services.commanding import send_all
from tests.services.deployment import Deployment, deployment
from tidemark.v1.ship_pb2 import DepartShip, DockShip, GetShipRequest, LoadCargo, RegisterShip
from tidemark.v1.user_pb2 import CreateUser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
BIN = Path(sys.executable).parent

COPIED = (
    "protos", "shared", "command_service", "query_service", "examples", "tests",
    "hatch_build.py", "pyproject.toml",
)  # fmt: skip


COMMANDS = [
    RegisterShip(ship_id="explorer", name="Pacific Explorer"),
    DockShip(ship_id="explorer", port="Singapore"),
    LoadCargo(ship_id="explorer", item="electronics", quantity=500),
]


class Snippet(NamedTuple):
    """A fenced block: what it is, what it says, and the file it is the content of, if any."""

    kind: str
    content: str
    path: str


def snippets() -> Iterator[Snippet]:
    pattern = r"(?:^\*\*`([\w/.]+)`\*\*\n\n)?^```([\w ]*)\n(.*?)^```$"
    for page in PAGES:
        for path, kind, content in re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE):
            yield Snippet(kind, content, path)


def expected_after(kind: str = "sh") -> Iterator[tuple[Snippet, list[str]]]:
    """Each snippet for the shell, or of another kind, with what its page shows it to print."""
    blocks = list(snippets())
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.kind.startswith(kind):
            is_output = following is not None and following.kind == "text"
            yield block, following.content.splitlines() if following and is_output else []


def execute(script: str, command: Service, query: Service, *shell: str, cwd: Path = ROOT) -> str:
    """Runs a snippet as a user would paste it, and returns what it prints."""
    script = script.replace("127.0.0.1:50051", command.address)
    script = script.replace("127.0.0.1:50052", query.address)
    addresses = {"TIDEMARK_COMMANDS": command.address, "TIDEMARK_QUERIES": query.address}
    done = subprocess.run(
        [*(shell or ("bash", "-euo", "pipefail")), "-c", script],
        cwd=cwd,
        env={**os.environ, **addresses, "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def assert_shown(expected: list[str], printed: str) -> None:
    rest = printed
    for line in expected:
        assert line in rest, f"{line!r} is missing, or in another order, in:\n{printed}"
        rest = rest.partition(line)[2]


async def test_the_five_minutes_with_grpcurl_go_as_the_readme_says(tmp_path: Path) -> None:
    executed = 0
    async with deployment(tmp_path) as both:
        for snippet, expected in expected_after():
            if snippet.kind == "sh" and "grpcurl" in snippet.content:
                if "after_position" in snippet.content:
                    await restart(both)
                assert_shown(expected, execute(snippet.content, both.command, both.query))
                executed += 1
    assert executed >= 9


async def restart(both: Deployment) -> None:
    """What Ctrl-C and `make run` do."""
    await both.query.stop()
    await both.command.stop()
    await both.start_command()
    await both.start_query()


async def test_a_node_program_goes_as_the_readme_says(tmp_path: Path) -> None:
    [(snippet, expected)] = [each for each in expected_after() if each[0].kind == "sh node"]
    async with deployment(tmp_path) as both:
        assert_shown(expected, execute(snippet.content, both.command, both.query))


async def test_the_command_line_goes_as_the_readme_says(tmp_path: Path) -> None:
    [(snippet, expected)] = [each for each in expected_after() if each[0].kind == "sh tidemark"]
    async with deployment(tmp_path) as both:
        assert_shown(expected, execute(snippet.content, both.command, both.query))


async def test_a_python_program_goes_as_the_readme_says(tmp_path: Path) -> None:
    [(snippet, expected)] = [
        each for each in expected_after("python") if "asyncio.run(" in each[0].content
    ]
    async with deployment(tmp_path) as both:
        printed = execute(snippet.content, both.command, both.query, sys.executable)
    assert_shown(expected, printed)


async def test_a_log_leaves_and_comes_back_as_the_readme_says(tmp_path: Path) -> None:
    [(snippet, expected)] = [each for each in expected_after() if each[0].kind == "sh offline"]
    async with deployment(tmp_path) as both:
        await both.commands.users.Create(CreateUser(username="Ada"))
    script = snippet.content.replace("data/", f"{tmp_path}/")
    script = script.replace("events.jsonl", f"{tmp_path}/events.jsonl")
    assert_shown(expected, execute(script, both.command, both.query))


async def test_the_log_is_verified_backed_up_and_restored_as_the_readme_says(
    tmp_path: Path,
) -> None:
    by_kind = {snippet.kind: (snippet, expected) for snippet, expected in expected_after()}
    data = tmp_path / "data"
    data.mkdir()
    async with deployment(data) as both:
        caller = Caller(both.commands, both.queries, "default")
        await caller.do(*COMMANDS)
        await caller.ask(GetShipRequest(ship_id="explorer"))
        snippet, expected = by_kind["sh backup"]
        assert_shown(expected, execute(snippet.content, both.command, both.query, cwd=tmp_path))

        await both.command.stop()
        snippet, _ = by_kind["sh restore"]
        execute(snippet.content, both.command, both.query, cwd=tmp_path)
        await both.start_command()
        [receipt] = await caller.do(DepartShip(ship_id="explorer"))
        assert receipt.position == len(COMMANDS) + 1
        assert (await caller.ask(GetShipRequest(ship_id="explorer"))).ship.version == 4


async def test_events_go_on_to_celery_as_the_readme_says(tmp_path: Path) -> None:
    [tasks] = [each for each in snippets() if each.kind == "python tasks"]
    [(snippet, expected)] = [each for each in expected_after() if each[0].kind == "sh relay"]
    [parked] = [each for each in snippets() if each.kind == "sh parked"]
    port = str(free_port())
    (tmp_path / "tasks.py").write_text(tasks.content.replace("6379", port))
    async with deployment(tmp_path) as both, AsyncExitStack() as programs:
        env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "TIDEMARK_UPSTREAM": both.query.address,
        }
        said = ("started successfully", "relay ready on ", "tasks")
        lines = snippet.content.replace("6379", port).splitlines()
        started = []
        for line, ready in zip(lines, said, strict=True):
            program = await Program.start(*line.split(), ready=ready, env=env, cwd=tmp_path)
            programs.push_async_callback(program.kill)
            started.append(program)
        await send_all(
            both.commands, "explorer", RegisterShip(name="Explorer"), DockShip(port="Oslo")
        )
        for line in expected:
            await started[-1].said(line)

        listing = parked.content.split()
        listed = await asyncio.create_subprocess_exec(
            *listing, cwd=tmp_path, env={**os.environ, **env}
        )
        assert await listed.wait() == 0


def test_the_page_of_the_contract_is_of_this_contract() -> None:
    assert contract.PAGE.read_text() == contract.contract(), "make contract"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target == ROOT or ROOT in target.parents, link
        if heading:
            assert heading in anchors_of(target), link


def anchors_of(page: Path) -> set[str]:
    """What its headings can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_no_kind_of_snippet_is_unknown_here() -> None:
    """Of these there is a test each, but for what is shown: output, pictures, and settings."""
    executed = {
        *("sh", "sh node", "sh tidemark", "sh offline", "sh backup", "sh restore", "sh relay"),
        *(
            "sh parked",
            "sh docker",
            "sh docker postgres",
            "sh copy",
            "sh serve",
            "sh secure",
            "sh erase",
        ),
        "sh tidemark secure",
        *("sh lighthouse", "python", "python tasks", "python demands", "proto"),
    }
    assert {each.kind for each in snippets()} == executed | {"", "text", "yaml"}


def test_the_make_targets_that_the_readme_names_are_there() -> None:
    text = "".join(page.read_text() for page in PAGES)
    named = re.findall(r"^make ([\w-]+)$|`make ([\w-]+)`", text, re.MULTILINE)
    targets = {block or inline for block, inline in named}
    assert {"demo", "test", "run", "install", "proto"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


def test_the_container_snippet_fits_the_compose_file() -> None:
    [snippet] = [each for each in snippets() if each.kind == "sh docker"]
    assert snippet.content == "docker compose up --build\n"
    listed = subprocess.run(
        [BIN / "docker-compose", "config", "--services"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(listed.stdout.split()) == {"command-service", "query-service"}


async def test_a_log_is_copied_as_the_readme_says(postgres_url: str, tmp_path: Path) -> None:
    [snippet] = [each for each in snippets() if each.kind == "sh copy"]
    log = await SqliteLog.open(tmp_path / "data" / "log.db")
    await log.append([commit(ship(), events=3)])
    await log.close()
    keys = await SqliteKeys.open(tmp_path / "data" / "log.keys.db")
    await keys.make([user()])
    await keys.close()
    script = re.sub(r"postgresql://\S+/tidemark", f"'{postgres_url}'", snippet.content)
    script = re.sub(r"postgresql://\S+/keys", f"'{keys_of(postgres_url)}'", script)

    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip

    assert "has position 3" in done.stdout
    assert "has all 1 keys" in done.stdout


def test_the_container_snippet_of_the_profile_fits_the_compose_file() -> None:
    [snippet] = [each for each in snippets() if each.kind == "sh docker postgres"]
    *command, first, last = snippet.content.split()
    assert command == ["docker", "compose", "--profile", "postgres", "up", "--build"]
    listed = subprocess.run(
        [BIN / "docker-compose", "--profile", "postgres", "config", "--services"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {first, last} <= set(listed.stdout.split())


def test_the_url_that_the_readme_serves_from_is_one() -> None:
    [snippet] = [each for each in snippets() if each.kind == "sh serve"]
    *command, log, option, keys = shlex.split(snippet.content.replace("\\\n", " "))
    assert [*command, option] == ["python", "-m", "command_service", "serve", "--log", "--keys"]
    assert names_a_log(log)
    assert opening.keys_of(log, keys) == keys


async def test_a_person_is_erased_as_the_documentation_says(tmp_path: Path) -> None:
    [(snippet, expected)] = [each for each in expected_after() if each[0].kind == "sh erase"]
    async with deployment(tmp_path) as both:
        assert_shown(expected, execute(snippet.content, both.command, both.query))


async def test_a_call_over_mutual_tls_with_a_token_goes_as_the_readme_says(
    tmp_path: Path,
) -> None:
    kinds = ("sh secure", "sh tidemark secure")
    shown = [each for each in expected_after() if each[0].kind in kinds]
    assert [snippet.kind for snippet, _ in shown] == list(kinds)
    credentials = tmp_path / "dev-credentials"
    dev_credentials.make(credentials)
    server = server_options(credentials)
    command = await start_command_service(
        tmp_path, "127.0.0.1:0", *server, log=tmp_path / "command.log"
    )
    try:
        options = [*server, *upstream_options(credentials)]
        query = await start_query_service(
            tmp_path, command.address, "127.0.0.1:0", *options, log=tmp_path / "query.log"
        )
        try:
            for snippet, expected in shown:
                script = snippet.content.replace("dev-credentials", str(credentials))
                assert_shown(expected, await asyncio.to_thread(execute, script, command, query))
        finally:
            await query.stop()
    finally:
        await command.stop()
    modes = {file.name: file.stat().st_mode & 0o777 for file in credentials.iterdir()}
    assert set(modes.values()) == {0o600}
    assert credentials.stat().st_mode & 0o777 == 0o700


async def test_the_lighthouse_can_be_added_as_the_readme_says(tmp_path: Path) -> None:
    project = tmp_path / "project"
    paths = copy_with_lighthouse(project)
    env = {"PYTHONPATH": f"{project}:{project / 'build' / 'gen'}"}
    await asyncio.to_thread(generate_lint_and_test, project, paths, env)
    [(snippet, expected)] = [each for each in expected_after() if "lighthouse" in each[0].kind]

    command = await Service.start(
        "command_service", "--listen", "127.0.0.1:0", env=env, cwd=project, log=tmp_path / "log"
    )
    try:
        options = ("--listen", "127.0.0.1:0", "--upstream", command.address)
        query = await Service.start(
            "query_service", *options, env=env, cwd=project, log=tmp_path / "log"
        )
        try:
            assert_shown(expected, execute(snippet.content, command, query))
        finally:
            await query.stop()
    finally:
        await command.stop()


def generate_lint_and_test(project: Path, paths: list[str], env: dict[str, str]) -> None:
    for arguments in (
        ["python", "hatch_build.py"],
        ["ruff", "check", *paths],
        ["ruff", "format", "--check", *paths],
        ["python", "-m", "pytest", "-q", "tests/domain/test_lighthouse_rules.py"],
    ):
        done = subprocess.run(
            [BIN / arguments[0], *arguments[1:]],
            cwd=project, env={**os.environ, **env},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def copy_with_lighthouse(project: Path) -> list[str]:
    """Copies the project, adds the README's files and lines, and returns the Python files added."""
    project.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(source, project / name, ignore=ignored)
        else:
            shutil.copy(source, project / name)
    added = [each for each in snippets() if each.path]
    assert len(added) == 5
    for each in added:
        (project / each.path).write_text(each.content)
    add_to_list(
        project / "command_service/aggregates/__init__.py", "LIGHTHOUSE_RULES", "USER_RULES"
    )
    add_to_list(project / "query_service/projections/__init__.py", "LIGHTHOUSES", "USERS")
    [demands] = [each.content for each in snippets() if each.kind == "python demands"]
    table = project / "shared/security/authorization.py"
    begin = "DEMANDS: dict[str, Demand] = {\n"
    table.write_text(table.read_text().replace(begin, begin + demands))
    return [each.path for each in added if each.path.endswith(".py")]


def add_to_list(path: Path, name: str, last: str) -> None:
    """Adds an entry to a service's list of aggregates, as the README says in words."""
    text = path.read_text()
    package = ".".join(path.parent.parts[-2:])
    listed = text.replace(f"    {last},\n", f"    {last},\n    {name},\n")
    path.write_text(
        listed.replace(
            f"from {package}.user", f"from {package}.lighthouse import {name}\nfrom {package}.user"
        )
    )
    assert path.read_text().count(name) == 2
