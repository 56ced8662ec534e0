"""Several command services on one PostgreSQL, and clients who do not care which one answers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from examples.services import Service, start_command_service
from tests.postgres.databases import log_options
from tests.services.deployment import CommandClient, Deployment


class Several(Deployment):
    """Two command services on one log, and a query service that follows the first.

    `command` is the first, `commands` a client whose calls go to one of them after the other.
    """

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url
        self.other: Service
        self.each: tuple[CommandClient, CommandClient]
        """A client of the first, and one of the second."""

    async def start_commands(self) -> None:
        """Starts both command services."""
        await self.start_command(*log_options(self.url))
        await self.commands.channel.close()
        await self.start_other()
        addresses = (self.command.address, self.other.address)
        self.commands = CommandClient(f"ipv4:{','.join(addresses)}")
        self.each = CommandClient(addresses[0]), CommandClient(addresses[1])

    async def start_other(self) -> None:
        """Starts the second command service, again if it was stopped, where it was."""
        listen = self.other.address if hasattr(self, "other") else "127.0.0.1:0"
        self.other = await start_command_service(
            self.folder, listen, *log_options(self.url), log=self.folder / "other.log"
        )

    async def close(self) -> None:
        """Closes the clients and stops what runs."""
        for client in getattr(self, "each", ()):
            await client.channel.close()
        await super().close()
        if hasattr(self, "other"):
            await self.other.stop()


@asynccontextmanager
async def several(folder: Path, url: str) -> AsyncIterator[Several]:
    """All of them, running."""
    async with AsyncExitStack() as stack:
        deployed = Several(folder, url)
        stack.push_async_callback(deployed.close)
        await deployed.start_commands()
        await deployed.start_query()
        yield deployed
