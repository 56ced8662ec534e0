"""Opening the log that a URL names."""

from pathlib import Path

from shared.log.log import EventLog
from shared.log.sqlite import SqliteLog

SQLITE = "sqlite:"
FORMS = "sqlite:PATH"


def names_a_log(url: str) -> bool:
    """Whether there can be a log of that URL."""
    return url.startswith(SQLITE) and url != SQLITE


def may_be_there(url: str) -> bool:
    """Whether there is such a file."""
    return Path(url.removeprefix(SQLITE)).exists()


async def open_log(url: str) -> EventLog:
    """Opens a log, and makes it if it is not there.

    Raises:
        Unavailable: it cannot be had now; DataLoss: it is damaged. See the adapters.
    """
    return await SqliteLog.open(Path(url.removeprefix(SQLITE)))
