"""Opening the key store that a URL names, in the forms in which a log is named."""

from pathlib import Path
from typing import Annotated

import typer

from command_service.keys.postgres import PostgresKeys
from command_service.keys.sqlite import SqliteKeys
from command_service.keys.store import KeyStore
from shared.log.opening import FORMS, SQLITE
from shared.log.options import check_log

KeysOption = Annotated[
    str | None,
    typer.Option(
        envvar="TIDEMARK_KEYS",
        help=f"Where the keys of personal fields are kept: {FORMS}. Beside a log on SQLite.",
        show_default=False,
    ),
]


def keys_of(log: str, keys: str | None) -> str:
    """The URL of the key store that belongs to a log.

    Args:
        log: URL of the log.
        keys: what the command line says.

    Raises:
        typer.BadParameter: it is none, or not one that goes with this log.
    """
    if keys is None:
        if log.startswith(SQLITE):
            # By another name than the log's own files, which are moved and copied by their prefix.
            return f"{SQLITE}{Path(log.removeprefix(SQLITE)).with_suffix('.keys.db')}"
        raise typer.BadParameter(
            "A log on PostgreSQL needs a place for the keys of personal fields:"
            " another database, which is not in the log's backups",
            param_hint="--keys",
        )
    check_log(keys, "--keys")
    if keys.startswith(SQLITE) and not log.startswith(SQLITE):
        raise typer.BadParameter(
            "Every command service of a log on PostgreSQL has to have the same keys:"
            " they have to be on PostgreSQL, too",
            param_hint="--keys",
        )
    if keys == log:
        raise typer.BadParameter(
            "The keys must not be where the log is, or its backups have them", param_hint="--keys"
        )
    return keys


async def open_keys(url: str, *, allow_data_loss: bool = False) -> KeyStore:
    """Opens a key store, and makes it if it is not there: see `shared.log.opening.open_log`."""
    if url.startswith(SQLITE):
        return await SqliteKeys.open(Path(url.removeprefix(SQLITE)))
    return await PostgresKeys.open(url, allow_data_loss=allow_data_loss)
