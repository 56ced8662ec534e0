"""The image and the deployment of it: checked as files, and run as processes, without an engine."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.services import START_S, Service
from shared import healthcheck
from shared.server import GRACE_S
from tests.postgres.databases import keys_of
from tests.services.deployment import CommandClient, QueryClient
from tidemark.v1.user_pb2 import CreateUser, GetUserRequest

# The first test that needs it waits for the installation of everything.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PACKAGES = ("command_service", "query_service", "shared")
DATA = "/data"
NO_ENGINE = {"PATH": os.defpath, "HOME": "/nonexistent", "DOCKER_HOST": "unix:///nonexistent"}


def run(
    *command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, which has to be a good one."""
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def copy_build_context(folder: Path) -> Path:
    """What a Dockerfile's `COPY . .` copies, which is what .dockerignore lets through."""
    folder.mkdir()
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Compose's services, all of its shorthand expanded."""
    config = run(BIN / "docker-compose", "-f", COMPOSE, "config", "--format=json", env=NO_ENGINE)
    expanded: dict[str, Any] = json.loads(config.stdout)["services"]
    return expanded


@pytest.fixture(scope="module")
def on_postgres() -> dict[str, Any]:
    """Compose's services of the profile `postgres`, likewise."""
    config = run(
        *(BIN / "docker-compose", "-f", COMPOSE, "--profile", "postgres"),
        *("config", "--format=json"),
        env=NO_ENGINE,
    )
    expanded: dict[str, Any] = json.loads(config.stdout)["services"]
    return {name: each for name, each in expanded.items() if each.get("profiles") == ["postgres"]}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in isolation from what the image is built from."""
    folder = tmp_path_factory.mktemp("wheel")
    context = copy_build_context(folder / "src")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, context)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of an environment with the wheel and what that asks for, made as the image's."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    run(sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", wheel)
    yield venv / "bin"
    shutil.rmtree(venv)


class Container:
    """A service of compose's as a process, with a folder in the place of its volume.

    Args:
        config: the service, as compose expands it.
        installed: where the image has its programs.
        folder: to be made.
        replacements: what of the configuration is different here, and how.
    """

    def __init__(
        self, config: dict[str, Any], installed: Path, folder: Path, replacements: dict[str, str]
    ) -> None:
        folder.mkdir()
        self._folder = folder
        self._port = str(config["ports"][0]["target"])
        metrics = config["environment"]["TIDEMARK_METRICS"].rpartition(":")[2]
        free = {f":{port}": ":0" for port in (self._port, metrics)}
        replacements = {**free, DATA: str(folder), **replacements}
        entrypoint = re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
        assert entrypoint
        assert config["entrypoint"] is None
        self._command = [*json.loads(entrypoint[1]), *config["command"]]
        shell, *self._probe = config["healthcheck"]["test"]
        assert shell == "CMD"
        self._environment = {"PATH": f"{installed}{os.pathsep}{os.defpath}"}
        for name, value in config["environment"].items():
            for old, new in replacements.items():
                value = value.replace(old, new)  # noqa: PLW2901  # step by step
            self._environment[name] = value
        self.service: Service

    async def start(self) -> None:
        """Starts it, and waits for its line."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        self.service = Service(process, self._command[-2], "")
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await process.stdout.readline()).decode()
        assert f"{self.service.name} ready on 0.0.0.0:" in line
        self.service.address = f"127.0.0.1:{line.rpartition(':')[2].strip()}"

    async def probe(self) -> tuple[int | None, str]:
        """Compose's health check: its exit code, and what it says."""
        port = self.service.address.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(argument.replace(self._port, port) for argument in self._probe),
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    async def becomes_healthy(self) -> None:
        """Probes it until it can be sent calls."""
        found = await self.probe()
        async with asyncio.timeout(START_S):
            while found == (1, f"{self.service.address}: NOT_SERVING\n"):
                found = await self.probe()
        assert found == (0, f"{self.service.address}: SERVING\n")

    async def close(self) -> None:
        """Ends what a test that failed has left."""
        if hasattr(self, "service"):
            await self.service.kill()


@asynccontextmanager
async def container(
    config: dict[str, Any], installed: Path, folder: Path, replacements: dict[str, str]
) -> AsyncIterator[Container]:
    """A service, ready; see `Container`."""
    made = Container(config, installed, folder, replacements)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run(BIN / "hadolint", "Dockerfile")


def test_compose_accepts_its_file_without_an_engine() -> None:
    run(BIN / "docker-compose", "-f", COMPOSE, "config", "--quiet", env=NO_ENGINE)


def test_the_compose_file_is_valid_by_the_published_schema() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema=vendor.compose-spec", COMPOSE)


def test_both_services_are_the_image_of_this_version(services: dict[str, Any]) -> None:
    assert {service["image"] for service in services.values()} == {f"tidemark:{VERSION}"}
    assert [name for name, service in services.items() if "build" in service] == ["command-service"]


def test_ports_are_published_on_loopback_alone(services: dict[str, Any]) -> None:
    for service in services.values():
        port, metrics = service["ports"]
        assert port["host_ip"] == metrics["host_ip"] == "127.0.0.1"
        assert service["environment"]["TIDEMARK_LISTEN"] == f"0.0.0.0:{port['target']}"
        assert service["environment"]["TIDEMARK_METRICS"] == f"0.0.0.0:{metrics['target']}"
        assert service["healthcheck"]["test"][-1] == f"127.0.0.1:{port['target']}"


def test_what_a_service_keeps_is_on_a_named_volume(services: dict[str, Any]) -> None:
    kept = {"command-service": "TIDEMARK_LOG", "query-service": "TIDEMARK_STORE"}
    volumes = set()
    for name, service in services.items():
        (volume,) = service["volumes"]
        assert (volume["type"], volume["target"]) == ("volume", DATA)
        assert service["environment"][kept[name]].removeprefix("sqlite:").startswith(f"{DATA}/")
        volumes.add(volume["source"])
    assert len(volumes) == len(services)


def test_the_profile_has_a_database_and_two_of_each_service(on_postgres: dict[str, Any]) -> None:
    database = on_postgres["postgres"]
    ours = {name: service for name, service in on_postgres.items() if name != "postgres"}
    kinds = sorted(name.rpartition("-")[0] for name in ours)
    assert kinds == ["postgres-command"] * 2 + ["postgres-query"] * 2
    assert {service["image"] for service in ours.values()} == {f"tidemark:{VERSION}"}
    # Whichever of them is started builds it.
    assert all(
        ("build" in service) == (service["command"][0] == "command_service")
        for service in ours.values()
    )
    assert re.fullmatch(r"postgres:\d+-\w+", database["image"])
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert "ports" not in database
    volumes = [database["volumes"][0]["source"]]
    published = []
    for service in ours.values():
        (port,) = service["ports"]
        assert port["host_ip"] == "127.0.0.1"
        assert service["environment"]["TIDEMARK_LISTEN"] == f"0.0.0.0:{port['target']}"
        assert service["healthcheck"]["test"][-1] == f"127.0.0.1:{port['target']}"
        published.append(port["published"])
        volumes += [volume["source"] for volume in service.get("volumes", ())]
    assert len({*published, "50051", "50052"}) == 6
    assert len(set(volumes)) == 3


async def test_the_installed_services_run_on_postgres_as_compose_runs_them(
    on_postgres: dict[str, Any], installed: Path, postgres_url: str, tmp_path: Path
) -> None:
    database = on_postgres["postgres"]["environment"]
    named = "postgresql://{POSTGRES_USER}:{POSTGRES_PASSWORD}@postgres:5432/{POSTGRES_DB}"
    place = {
        named.format(**database): postgres_url,
        named.format(**database | {"POSTGRES_DB": "postgres"}): keys_of(postgres_url),
    }

    async with (
        container(on_postgres["postgres-command-1"], installed, tmp_path / "1", place) as one,
        container(on_postgres["postgres-command-2"], installed, tmp_path / "2", place) as other,
    ):
        upstream = {"postgres-command-2:50051": other.service.address}
        config = on_postgres["postgres-query-2"]
        async with container(config, installed, tmp_path / "query", upstream) as query:
            for each in (one, other, query):
                await each.becomes_healthy()
            commands = CommandClient(one.service.address)
            queries = QueryClient(query.service.address)
            receipt = await commands.users.Create(CreateUser(user_id="u", username="Ada"))
            response = await queries.users.GetUser(
                GetUserRequest(user_id="u", min_position=receipt.position)
            )
            assert response.user.username == "Ada"
            await queries.channel.close()
            await commands.channel.close()


def test_the_image_has_the_environment_and_a_user_who_is_not_root() -> None:
    final_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", final_stage, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^WORKDIR (.+)$", final_stage, re.MULTILINE) == [DATA]
    assert re.findall(r"^(?:COPY|ADD) (.+)$", final_stage, re.MULTILINE) == [
        "--from=builder /opt/venv /opt/venv"
    ]


def test_compose_waits_longer_than_the_services_do(services: dict[str, Any]) -> None:
    for service in services.values():
        assert float(service["stop_grace_period"].removesuffix("s")) > GRACE_S
        timeout = float(service["healthcheck"]["timeout"].removesuffix("s"))
        assert timeout > healthcheck.TIMEOUT_S


def test_the_wheel_has_the_services_and_the_contract_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"tidemark-{VERSION}.dist-info"
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, "tidemark", info}
    assert {Path(name).suffix for name in names if not name.startswith(info)} == {
        ".py",
        ".pyi",
        ".typed",
    }
    source = wheel.parent / "src"
    modules = {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*.py")
    }
    generated = {
        str(path.relative_to(source / "protos").with_name(f"{path.stem}_pb2{suffix}"))
        for path in (source / "protos").rglob("*.proto")
        for suffix in (".py", ".pyi")
    }
    assert modules | generated <= names


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    context = copy_build_context(tmp_path / "src")
    run(BIN / "hatchling", "build", "--target=sdist", "--directory", tmp_path, cwd=context)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    run(BIN / "hatchling", "build", "--target=wheel", "--directory", tmp_path, cwd=unpacked)
    (rebuilt,) = tmp_path.glob("*.whl")
    assert rebuilt.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(rebuilt) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


async def test_the_installed_services_run_as_compose_runs_them(
    services: dict[str, Any], installed: Path, tmp_path: Path
) -> None:
    command_config, query_config = services["command-service"], services["query-service"]
    async with container(command_config, installed, tmp_path / "command", {}) as command:
        upstream = {"command-service:50051": command.service.address}
        async with container(query_config, installed, tmp_path / "query", upstream) as query:
            for each in (command, query):
                await each.becomes_healthy()

            commands = CommandClient(command.service.address)
            queries = QueryClient(query.service.address)
            receipt = await commands.users.Create(CreateUser(user_id="u", username="Ada"))
            response = await queries.users.GetUser(
                GetUserRequest(user_id="u", min_position=receipt.position)
            )
            assert response.user.username == "Ada"
            await queries.channel.close()
            await commands.channel.close()

            for each in (query, command):
                assert await each.service.stop() == 0
                code, said = await each.probe()
                assert code == 1
                assert said.startswith(f"{each.service.address}: UNAVAILABLE: ")
