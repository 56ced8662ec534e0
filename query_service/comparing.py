"""Compares two databases that have to have the same tables with the same rows, however many."""

import sqlite3
from collections.abc import Iterator
from typing import Any

Value = int | float | str | bytes | None
Row = tuple[Value, ...]
Place = list[tuple[int, Any]]

_KINDS: dict[type, int] = {type(None): 0, int: 1, float: 1, str: 2, bytes: 3}
"""The order in which SQLite sorts values of different types."""

END = (4, None)


def differences(
    expected: sqlite3.Connection, found: sqlite3.Connection, ignored_table: str
) -> Iterator[str]:
    """What the second does not have as the first has it; the end of a sentence for each."""
    schema = "SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    made = {name: rest for name, *rest in found.execute(schema)}
    for name, kind, sql in expected.execute(schema).fetchall():
        if made.get(name) != [kind, sql]:
            yield f"{kind} {name} is missing, or another one"
        elif kind == "table" and name != ignored_table:
            yield from (f"table {name}: {each}" for each in _in_table(name, expected, found))


def _in_table(table: str, expected: sqlite3.Connection, found: sqlite3.Connection) -> Iterator[str]:
    """Reads both in the order of the table's key, so that neither has to be in memory."""
    columns = expected.execute("SELECT name, pk FROM pragma_table_info(?)", (table,)).fetchall()
    # Without a key, by whole rows.
    key = [name for place, name in sorted((pk, name) for name, pk in columns) if place]
    key = key or [name for name, _ in columns]
    names = [*key, *(name for name, _ in columns if name not in key)]
    query = f"SELECT {', '.join(names)} FROM {table} ORDER BY {', '.join(key)}"  # noqa: S608  # ours
    wanted, there = expected.execute(query), found.execute(query)
    want, have = next(wanted, None), next(there, None)
    while want is not None or have is not None:
        if want == have:
            want, have = next(wanted, None), next(there, None)
            continue
        want_place, have_place = _place(want, len(key)), _place(have, len(key))
        if want_place < have_place:
            yield f"row {_said(want_place)} is missing"
        elif want_place > have_place:
            yield f"row {_said(have_place)} is one too many"
        else:
            values = zip(names, want or (), have or (), strict=True)
            other = ", ".join(name for name, *pair in values if pair[0] != pair[1])
            yield f"row {_said(want_place)} differs in {other}"
        want = want if want_place > have_place else next(wanted, None)
        have = have if have_place > want_place else next(there, None)


def _place(row: Row | None, size: int) -> Place:
    """To sort by as SQLite does; after the last row there is none."""
    return [END] if row is None else [(_KINDS[type(value)], value) for value in row[:size]]


def _said(place: Place) -> str:
    return ", ".join(repr(value) for _, value in place)
