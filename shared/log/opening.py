"""Opening the log that a URL names."""

from pathlib import Path

from shared.log.log import EventLog
from shared.log.postgres import PostgresLog
from shared.log.postgres.connecting import is_well_formed, without_password
from shared.log.sqlite import SqliteLog

SQLITE = "sqlite:"
POSTGRES = ("postgresql://", "postgres://")
FORMS = "sqlite:PATH or postgresql://USER@HOST/DATABASE"


def names_a_log(url: str) -> bool:
    """Whether there can be a log of that URL."""
    if url.startswith(SQLITE):
        return url != SQLITE
    return url.startswith(POSTGRES) and url not in POSTGRES and is_well_formed(url)


def may_be_there(url: str) -> bool:
    """Whether there is such a file, or a server that has to be asked."""
    return not url.startswith(SQLITE) or Path(url.removeprefix(SQLITE)).exists()


async def open_log(url: str, *, allow_data_loss: bool = False) -> EventLog:
    """Opens a log, and makes it if it is not there.

    Args:
        url: that names a log.
        allow_data_loss: take a PostgreSQL server, too, that can lose what it has acknowledged.

    Raises:
        Unavailable: it cannot be had now; DataLoss: it is damaged. See the adapters.
    """
    if url.startswith(SQLITE):
        return await SqliteLog.open(Path(url.removeprefix(SQLITE)))
    return await PostgresLog.open(url, allow_data_loss=allow_data_loss)


def shown(url: str) -> str:
    """The URL without what is secret in it."""
    return url if url.startswith(SQLITE) else without_password(url)
