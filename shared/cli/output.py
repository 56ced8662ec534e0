"""Answers for people: coloured on a terminal, plain where they are piped; and for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.json_messages import JsonObject, as_json
from tidemark.v1.command_pb2 import CommandReceipt

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def print_json(described: JsonObject) -> None:
    """One object, on a line of its own, at once."""
    typer.echo(json.dumps(described))


def print_message(message: Any) -> None:
    """An answer of any RPC: its lists as tables, the rest a field a line."""
    if isinstance(message, CommandReceipt):
        _print_receipt(message)
        return
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if is_list_of_messages(field):
            print_rows([each.name for each in field.message_type.fields], map(flat, value))
        elif field.message_type is not None and message.HasField(field.name):
            _print_fields(flat(value))
        elif value and field.message_type is None and not _is_piped_list(message):
            console.print(f"[dim]{field.name.replace('_', ' ')}[/] {escape(str(value))}")


def print_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table; where it is piped, its lines with tabs between, the names of the columns first."""
    found = list(rows)
    if not console.is_terminal:
        for values in [columns, *([_cell(row, name) for name in columns] for row in found)]:
            typer.echo("\t".join(values))
        return
    table = Table(box=None, header_style="dim")
    for name in columns:
        table.add_column(name.replace("_", " "))
    for row in found:
        table.add_row(*(escape(_cell(row, name)) for name in columns))
    console.print(table, soft_wrap=False)


def flat(message: Message) -> dict[str, Any]:
    """The fields of a message by their paths, such as "cargo.silk", and enums without prefix."""
    return dict(_leaves("", as_json(message), message.DESCRIPTOR.fields_by_name))


def is_list_of_messages(field: Any) -> bool:
    """Whether a field repeats a message, other than a map's entry."""
    return bool(
        field.is_repeated
        and field.message_type is not None
        and not field.message_type.GetOptions().map_entry
    )


def short_names(field: Any) -> dict[str, str]:
    """The values of an enum: "SHIP_STATUS_AT_SEA" is "at sea"."""
    names = [value.name for value in field.enum_type.values]
    # By the contract's style the first is SHIP_STATUS_UNSPECIFIED.
    prefix = names[0].removesuffix("UNSPECIFIED")
    return {name: name.removeprefix(prefix).lower().replace("_", " ") for name in names}


def _is_piped_list(message: Any) -> bool:
    """Whether what is not in the table would be in the way of who reads its lines."""
    return not console.is_terminal and any(map(is_list_of_messages, message.DESCRIPTOR.fields))


def _leaves(
    path: str, described: JsonObject, fields: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    for name, value in described.items():
        field = fields.get(name)
        if isinstance(value, dict):
            nested = field.message_type.fields_by_name if field and field.message_type else {}
            yield from _leaves(f"{path}{name}.", value, nested)
        elif field is not None and field.enum_type is not None and isinstance(value, str):
            yield path + name, short_names(field)[value]
        else:
            yield path + name, value


def _print_receipt(receipt: CommandReceipt) -> None:
    if receipt.events:
        console.print(
            f"[yellow]·[/] {escape(receipt.aggregate_id)}"
            f" [dim]would be at version {receipt.version}[/]"
        )
        return
    note = " · [yellow]duplicate[/]" if receipt.duplicate else ""
    console.print(
        f"[green]✓[/] {escape(receipt.aggregate_id)}"
        f" [dim]version {receipt.version} · position {receipt.position}[/]{note}"
    )


def _print_fields(fields: Mapping[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        console.print(f"[dim]{escape(name.replace('_', ' ')):<{width}}[/]  {escape(str(value))}")


def _cell(row: Mapping[str, Any], column: str) -> str:
    """A field of a row; of one that has several, as a map has, each."""
    if column in row:
        return str(row[column])
    nested = (
        f"{name.removeprefix(f'{column}.')} {value}"
        for name, value in row.items()
        if name.startswith(f"{column}.")
    )
    return ", ".join(nested)
