"""`tidemark export`: the log as a running query service has it."""

import sys
from contextlib import aclosing
from typing import Annotated

import typer

from shared.cli.connecting import run
from shared.client import Client
from shared.json_events.exporting import Format, line_of
from shared.json_events.offline import FormatOption
from tidemark.v1.event_pb2 import SubscribeRequest


def export(
    ctx: typer.Context,
    form: FormatOption = Format.JSON,
    every_tenant: Annotated[
        bool, typer.Option("--every-tenant", help="The whole log, rather than one tenant's.")
    ] = False,
) -> None:
    """Write events to standard output as JSON, one a line, from the first to the newest."""
    run(ctx, lambda client: _export(client, form, every_tenant))


async def _export(client: Client, form: Format, every_tenant: bool) -> None:
    subscription = client.subscribe(SubscribeRequest(stop_at_head=True), every_tenant=every_tenant)
    async with aclosing(subscription) as responses:
        async for response in responses:
            sys.stdout.write("".join(line_of(event, form) for event in response.events))
