"""Files of events: one object a line, or an array of them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from shared.json_events import EVENT_TYPES, EventTypes, NotAnEvent, from_dict
from shared.json_events.older import from_older, is_older
from tidemark.v1.event_pb2 import RecordedEvent

_BETWEEN = " \t\r\n,"


class Line(NamedTuple):
    """What stands in a line of a file.

    Args:
        number: the line that it begins in, from 1.
        event: None: no event could be made of it.
        problem: why not.
        is_older: the event has no version and no position yet.
        is_naive: its time had no zone, and was taken as UTC.
    """

    number: int
    event: RecordedEvent | None = None
    problem: str = ""
    is_older: bool = False
    is_naive: bool = False


def events_in(file: TextIO, types: EventTypes = EVENT_TYPES) -> Iterator[Line]:
    """What stands in a file, in its order: one object a line, or an array, which is read whole."""
    for number, described in _objects(file):
        yield _line(number, described, types)


def _line(number: int, described: Any, types: EventTypes) -> Line:
    if not isinstance(described, dict):
        return Line(number, problem="this is not a JSON object")
    try:
        if is_older(described):
            event, is_naive = from_older(described, types)
            return Line(number, event, is_older=True, is_naive=is_naive)
        return Line(number, from_dict(described, types))
    except NotAnEvent as error:
        return Line(number, problem=str(error))


def _objects(file: TextIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if line.lstrip().startswith("["):
            yield from _array(number, line + file.read())
        elif line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _array(number: int, text: str) -> Iterator[tuple[int, Any]]:
    """The members of an array, each with the line that it begins in."""
    decoder = json.JSONDecoder()
    start = text.index("[") + 1
    end = 0
    while True:
        while start < len(text) and text[start] in _BETWEEN:
            start += 1
        number += text.count("\n", end, start)
        if text[start : start + 1] == "]":
            return
        try:
            described, end = decoder.raw_decode(text, start)
        except ValueError:
            yield number, None
            return
        yield number, described
        number += text.count("\n", start, end)
        start = end
