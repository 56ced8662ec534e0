"""`tidemark events tail`: what happens, as it happens."""

import zlib
from contextlib import aclosing
from typing import Annotated

import typer
from google.protobuf.empty_pb2 import Empty
from rich.markup import escape

from shared.cli.connecting import JsonOption, run
from shared.cli.output import console, errors, print_json
from shared.cli.requests import timestamp
from shared.client import Client
from shared.errors import TidemarkError
from shared.json_events import EVENT_TYPES, to_dict
from shared.personal.sealing import is_sealed
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent, SubscribeRequest

COLOURS = (
    "cyan",
    "green",
    "magenta",
    "yellow",
    "blue",
    "bright_red",
    "bright_cyan",
    "bright_green",
)

group = typer.Typer(no_args_is_help=True)


@group.command()
def tail(
    ctx: typer.Context,
    event_types: Annotated[
        list[str] | None, typer.Option("--type", help="Only such events: ShipDocked.")
    ] = None,
    aggregate_types: Annotated[
        list[str] | None, typer.Option("--aggregate", help="Only of such aggregates: ship.")
    ] = None,
    aggregate_ids: Annotated[
        list[str] | None, typer.Option("--id", help="Only of this aggregate.")
    ] = None,
    correlation_ids: Annotated[
        list[str] | None, typer.Option("--correlation", help="Only what this request set off.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after a position; 0: with the first.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Begin at a time, ISO 8601, without a zone in UTC.")
    ] = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop where the log ends, rather than follow it.")
    ] = False,
    every_tenant: Annotated[
        bool, typer.Option("--every-tenant", help="The whole log, rather than one tenant's.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print events as they happen, from now on, until Ctrl-C. A lost connection is found again."""
    request = SubscribeRequest(
        stop_at_head=stop,
        filter=EventFilter(
            event_types=map(EVENT_TYPES.full_name, event_types or ()),
            aggregate_types=aggregate_types,
            aggregate_ids=aggregate_ids,
            correlation_ids=correlation_ids,
        ),
    )
    if since is not None:
        try:
            request.from_time.CopyFrom(timestamp(since))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--since") from error
    elif after is not None:
        request.after_position = after
    else:
        request.from_head.CopyFrom(Empty())
    run(ctx, lambda client: _tail(client, request, every_tenant, as_json=as_json), is_endless=True)


async def _tail(
    client: Client, request: SubscribeRequest, every_tenant: bool, *, as_json: bool
) -> None:
    said = ""

    def say(why: TidemarkError) -> None:
        """Not at every attempt."""
        nonlocal said
        if why.message != said:
            said = why.message
            errors.print(f"[dim]… {escape(said)}; connecting again[/]")

    subscription = client.subscribe(request, every_tenant=every_tenant, on_interruption=say)
    async with aclosing(subscription) as responses:
        async for response in responses:
            said = ""
            for event in response.events:
                if as_json:
                    print_json(to_dict(event))
                else:
                    console.print(line_of(event, with_tenant=every_tenant))


def line_of(event: RecordedEvent, *, with_tenant: bool = False) -> str:
    """An event in a line, all those of one aggregate in one colour."""
    said = to_dict(event)
    subject = "/".join(
        ([event.tenant_id] if with_tenant else []) + [event.aggregate_type, event.aggregate_id]
    )
    colour = COLOURS[zlib.crc32(subject.encode()) % len(COLOURS)]
    name = said["event_type"].rpartition(".")[2]
    content = said["data"] if said["data"] is not None else {"data_base64": said["data_base64"]}
    return (
        f"[dim]{event.position:>6}  {said['occurred_at']}[/]"
        f"  [{colour}]{escape(subject)}[/] [dim]v{event.version}[/]  [bold]{name}[/]  "
        + escape(", ".join(f"{field}={_shown(value)}" for field, value in content.items()))
    ).rstrip()


def _shown(value: object) -> object:
    """What is encrypted is for nobody to read."""
    return "(encrypted)" if isinstance(value, str) and is_sealed(value) else value
