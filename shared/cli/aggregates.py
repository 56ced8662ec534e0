"""A group of commands for each kind of aggregate, made from the RPCs of its two services."""

import inspect
import re
from inspect import Parameter
from typing import Any

import typer
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from shared.aggregates.aggregate import Aggregate
from shared.aggregates.known import known_aggregates
from shared.cli.connecting import JsonOption, run
from shared.cli.output import print_json, print_message
from shared.cli.requests import leaves, parameter, request_of
from shared.client import Client
from shared.client.stubs import is_command, services
from shared.json_messages import as_json as json_of


def add_to(app: typer.Typer) -> None:
    """Adds the groups: `ships`, `users`."""
    by_name = {service.name: service for service in services()}
    for aggregate in known_aggregates():
        kind = aggregate.state.DESCRIPTOR.name
        group = typer.Typer(no_args_is_help=True)
        for service in (by_name.get(f"{kind}CommandService"), by_name.get(f"{kind}QueryService")):
            if service is not None:
                _add_methods(group, service, aggregate)
        app.add_typer(group, name=f"{aggregate.name}s", help=f"Command {aggregate.name}s, and ask.")


def _add_methods(group: typer.Typer, service: ServiceDescriptor, aggregate: Aggregate[Any]) -> None:
    for method in service.methods:
        group.command(_name(method, aggregate), help=_help(method))(_command(method, aggregate))


def _name(method: MethodDescriptor, aggregate: Aggregate[Any]) -> str:
    """ListShips is `list`, ListPortCargo `list-port-cargo`, ChangeBalance `change-balance`."""
    short = re.sub(f"(?<=[a-z]){aggregate.state.DESCRIPTOR.name}s?$", "", method.name)
    return re.sub(r"(?<!^)(?=[A-Z])", "-", short).lower()


def _help(method: MethodDescriptor) -> str:
    service = method.containing_service.name
    many = ", until it ends" if method.server_streaming else ""
    return f"{service}.{method.name}: {method.input_type.name}{many}."


def _command(method: MethodDescriptor, aggregate: Aggregate[Any]) -> Any:
    """A function whose parameters are the fields of the RPC's request."""

    def command(ctx: typer.Context, as_json: JsonOption = False, **values: Any) -> None:
        request = request_of(method.input_type, values)
        is_endless = method.server_streaming
        run(
            ctx,
            lambda client: _call(client, method, request, as_json=as_json),
            is_endless=is_endless,
        )

    own = list(inspect.signature(command).parameters.values())[:2]
    fields = [parameter(leaf, aggregate.id_field) for leaf in leaves(method.input_type)]
    keyword = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (*fields, own[1])]
    command.__signature__ = inspect.Signature([own[0], *keyword])  # type: ignore[attr-defined]  # inspect reads it
    return command


async def _call(
    client: Client, method: MethodDescriptor, request: Message, *, as_json: bool
) -> None:
    if is_command(method):
        _print(await client.execute(request), as_json=as_json)
        return
    answer = message_factory.GetMessageClass(method.output_type)
    if not method.server_streaming:
        _print(await client.ask(request, answer), as_json=as_json)
        return
    shown = None
    async for response in client.stream(request, answer):
        # A heartbeat repeats what was said, at another position.
        said = json_of(response) | {"position": None}
        if said != shown:
            shown = said
            _print(response, as_json=as_json)


def _print(message: Message, *, as_json: bool) -> None:
    if as_json:
        print_json(json_of(message))
    else:
        print_message(message)
