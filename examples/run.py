"""Both services in the foreground; Ctrl-C stops both, the query service first."""

import asyncio
import signal
import sys
from pathlib import Path

from examples.dev_credentials import FOLDER, server_options, upstream_options
from examples.services import Service, ServiceFailed, start_command_service, start_query_service

DATA = Path("data")
COMMANDS = "127.0.0.1:50051"
QUERIES = "127.0.0.1:50052"
METRICS = ("127.0.0.1:9051", "127.0.0.1:9052")

BANNER = """
Tidemark is up: commands on {commands}, queries on {queries}, data in {data}. Ctrl-C stops it.

Try, in another terminal, with .venv/bin on your PATH:

  grpcurl -plaintext -d '{{"user_id": "ada", "username": "Ada", "balance": 100}}' \\
    {commands} tidemark.v1.UserCommandService/Create
  grpcurl -plaintext -d '{{"user_id": "ada", "balance_change": 250}}' \\
    {commands} tidemark.v1.UserCommandService/ChangeBalance
  grpcurl -plaintext -d '{{"user_id": "ada"}}' {queries} tidemark.v1.UserQueryService/GetUser
  grpcurl -plaintext {queries} tidemark.v1.EventLogService/Subscribe

Metrics: http://{metrics[0]}/metrics and http://{metrics[1]}/metrics

"""

SECURE_BANNER = """
Tidemark is up: commands on {commands}, queries on {queries}, data in {data}. Ctrl-C stops it.

Both ask for a certificate and a token; docs/operating.md has a first call, at "Security".

"""


async def main(
    data: Path = DATA,
    commands: str = COMMANDS,
    queries: str = QUERIES,
    metrics: tuple[str, str] = METRICS,
    credentials: Path | None = None,
) -> int:
    """Runs both until a signal, or until one of them ends.

    Args:
        data: their folder.
        commands: where the command service listens.
        queries: where the query service listens.
        metrics: where the command service and the query service show theirs.
        credentials: folder of `examples.dev_credentials`, for services that ask everybody who
            they are.

    Returns:
        The exit code: that of the first service which failed, or 0.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    services: list[Service] = []
    codes = []
    try:
        server = server_options(credentials) if credentials else []
        upstream = upstream_options(credentials) if credentials else []
        command_options = [*server, "--metrics", metrics[0]]
        command = await start_command_service(data, commands, *command_options)
        services.append(command)
        query_options = [*server, *upstream, "--metrics", metrics[1]]
        query = await start_query_service(data, command.address, queries, *query_options)
        services.append(query)
        banner = (SECURE_BANNER if credentials else BANNER).format(
            commands=command.address, queries=query.address, data=data, metrics=metrics
        )
        sys.stdout.write(banner)
        sys.stdout.flush()
        await _until_end(stop, services)
    except ServiceFailed as failure:
        sys.stderr.write(f"{failure}\n")
        codes.append(1)
    finally:
        codes.extend([await service.stop() for service in reversed(services)])
    return next((code for code in codes if code), 0)


async def _until_end(stop: asyncio.Event, services: list[Service]) -> None:
    waits = [
        asyncio.create_task(stop.wait()),
        *(asyncio.create_task(service.process.wait()) for service in services),
    ]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(credentials=FOLDER if "--secure" in sys.argv else None)))
