"""What a command line says of a log."""

from typing import Annotated

import typer

from shared.log.opening import FORMS, names_a_log, shown

AllowDataLoss = Annotated[
    bool,
    typer.Option(
        "--allow-data-loss",
        envvar="TIDEMARK_ALLOW_DATA_LOSS",
        help="Take a PostgreSQL server, too, that can lose what it has acknowledged.",
    ),
]


def check_log(url: str, option: str) -> None:
    """Checks an option that has to name a log.

    Raises:
        typer.BadParameter: it does not.
    """
    if not names_a_log(url):
        raise typer.BadParameter(f"{shown(url)!r} is no log; it is {FORMS}", param_hint=option)
