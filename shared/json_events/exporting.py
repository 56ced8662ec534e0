"""The log as lines of JSON."""

import json
from collections.abc import Callable
from enum import StrEnum

from shared.errors import DataLoss
from shared.json_events import from_dict, to_dict
from shared.json_events.cloudevents import to_cloudevent
from shared.log.log import EventLog
from tidemark.v1.event_pb2 import RecordedEvent


class Format(StrEnum):
    """What a line is: an event that can be imported again, or a CloudEvent."""

    JSON = "json"
    CLOUDEVENTS = "cloudevents"


def line_of(event: RecordedEvent, form: Format) -> str:
    """The event as a line of JSON, with its line feed.

    Raises:
        DataLoss: EVENT_NOT_EXPORTED: it has something that the line would lack: it was recorded by
            a newer program.
    """
    if form is Format.CLOUDEVENTS:
        described = to_cloudevent(event)
    else:
        described = to_dict(event)
        if from_dict(described) != event:
            raise DataLoss(
                "EVENT_NOT_EXPORTED",
                f"The event at position {event.position} has more than this program knows",
            )
    return json.dumps(described) + "\n"


async def export_log(log: EventLog, form: Format, write: Callable[[str], object]) -> None:
    """Writes every event of the log, of every tenant, a line each.

    Raises:
        DataLoss: see `line_of`.
    """
    position = 0
    while position < log.head.position:
        page = await log.read(position)
        write("".join(line_of(RecordedEvent.FromString(record), form) for record in page.records))
        position = page.position
