"""`tidemark history` and `tidemark diff`: what each event changed, and what is different since."""

from typing import Annotated, Any

import typer
from google.protobuf import message_factory
from google.protobuf.message import Message
from rich.markup import escape

from shared.aggregates.aggregate import Aggregate
from shared.aggregates.known import known_aggregates
from shared.cli.connecting import JsonOption, run
from shared.cli.events import line_of
from shared.cli.output import console, flat, print_json
from shared.cli.requests import timestamp
from shared.client import Client
from shared.client.stubs import services
from shared.errors import NotFound
from shared.json_events import to_dict
from shared.json_messages import JsonObject
from tidemark.v1.query_pb2 import AsOf, ReplayRequest, ReplayResponse

FROM_ENVELOPE = {"version", "created_at", "updated_at"}
"""What every event changes, so that it is no difference."""

AGGREGATES = {aggregate.name: aggregate for aggregate in known_aggregates()}

Changes = dict[str, tuple[Any, Any]]
"""Of each field that is different, by its path: what it was, and what it is. None: not there."""

KindArgument = Annotated[
    str, typer.Argument(help=f"The kind: {', '.join(AGGREGATES)}.", metavar="KIND")
]
IdArgument = Annotated[str, typer.Argument(help="Which one.", metavar="ID")]

MOMENT_HELP = "v3: a version; p17: a position of the log; else a time, ISO 8601, by default in UTC."


def history(
    ctx: typer.Context, kind: KindArgument, aggregate_id: IdArgument, as_json: JsonOption = False
) -> None:
    """Print every event of an aggregate, and what it changed."""
    aggregate = _aggregate(kind)
    run(ctx, lambda client: _history(client, aggregate, aggregate_id, as_json=as_json))


def diff(
    ctx: typer.Context,
    kind: KindArgument,
    aggregate_id: IdArgument,
    from_: Annotated[str, typer.Option("--from", metavar="MOMENT", help=MOMENT_HELP)],
    to: Annotated[
        str | None, typer.Option("--to", metavar="MOMENT", help="The same; not given: now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what is different about an aggregate between two moments."""
    aggregate = _aggregate(kind)
    moments = [moment(from_, "--from"), moment(to, "--to") if to else None]

    async def show(client: Client) -> None:
        before, after = [await _state(client, aggregate, aggregate_id, each) for each in moments]
        if before is None and after is None:
            raise NotFound(f"{kind.upper()}_NOT_FOUND", f"There is no such {kind}")
        _print_changes(changes(before, after), as_json=as_json)

    run(ctx, show)


def changes(before: Message | None, after: Message | None) -> Changes:
    """What is different between two states; None: the aggregate does not exist."""
    old, new = _said(before), _said(after)
    return {
        name: (old.get(name), new.get(name))
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name) and name not in FROM_ENVELOPE
    }


def _said(state: Message | None) -> dict[str, Any]:
    """What a state says, which is nothing where a text is empty or something is not so."""
    fields = flat(state) if state is not None else {}
    return {name: value for name, value in fields.items() if value is not False and value != ""}


def moment(written: str, option: str) -> AsOf:
    """A moment as the command line has it.

    Raises:
        typer.BadParameter: it is none.
    """
    number = written[1:]
    if written[:1] in {"v", "p"} and number.isdecimal():
        return AsOf(version=int(number)) if written[0] == "v" else AsOf(position=int(number))
    try:
        return AsOf(time=timestamp(written))
    except ValueError as error:
        raise typer.BadParameter(f"{written!r} is no moment", param_hint=option) from error


def _aggregate(kind: str) -> Aggregate[Any]:
    if kind not in AGGREGATES:
        raise typer.BadParameter(f"There are: {', '.join(AGGREGATES)}", param_hint="KIND")
    return AGGREGATES[kind]


async def _history(
    client: Client, aggregate: Aggregate[Any], aggregate_id: str, *, as_json: bool
) -> None:
    request = ReplayRequest(
        aggregate_type=aggregate.name, aggregate_id=aggregate_id, include_state=True
    )
    before = None
    async for response in client.stream(request, ReplayResponse):
        after = aggregate.state.FromString(response.state.value)
        different = changes(before, after)
        if as_json:
            print_json({"event": to_dict(response.event), "changes": _described(different)})
        else:
            console.print(line_of(response.event))
            _print_changes(different, as_json=False)
        before = after


async def _state(
    client: Client, aggregate: Aggregate[Any], aggregate_id: str, as_of: AsOf | None
) -> Message | None:
    """The state at a moment; None as of: now. None: there was no such aggregate."""
    kind = aggregate.state.DESCRIPTOR.name
    [method] = [
        method
        for service in services()
        if service.name == f"{kind}QueryService"
        for method in service.methods
        if method.name == f"Get{kind}"
    ]
    request = message_factory.GetMessageClass(method.input_type)(
        **{aggregate.id_field: aggregate_id}, as_of=as_of
    )
    try:
        response = await client.ask(request, message_factory.GetMessageClass(method.output_type))
    except NotFound:
        return None
    state: Message = getattr(response, aggregate.name)
    return state


def _print_changes(different: Changes, *, as_json: bool) -> None:
    if as_json:
        print_json({"changes": _described(different)})
        return
    for name, (old, new) in different.items():
        field = escape(name.replace("_", " "))
        if old is None:
            console.print(f"        [green]+ {field} {escape(str(new))}[/]")
        elif new is None:
            console.print(f"        [red]- {field} {escape(str(old))}[/]")
        else:
            console.print(f"        [yellow]~ {field} {escape(str(old))} → {escape(str(new))}[/]")


def _described(different: Changes) -> JsonObject:
    return {name: {"from": old, "to": new} for name, (old, new) in different.items()}
