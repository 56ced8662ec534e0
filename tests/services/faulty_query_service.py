"""The query service with a ships projection that cannot apply one event: a ship named "poison".

Runs as `python -m tests.services.faulty_query_service serve`.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace

import query_service.projections
from query_service.projections.ship import SHIPS
from query_service.projections.user import USERS
from query_service.states import States
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import Ship, ShipRegistered

POISON = "poison"


def without_poison(events: Iterable[RecordedEvent]) -> Iterator[RecordedEvent]:
    for event in events:
        payload = SHIPS.aggregate.unpack_known(event)
        if isinstance(payload, ShipRegistered) and payload.name == POISON:
            raise ValueError("It is poison")
        yield event


def apply(db: sqlite3.Connection, events: Iterable[RecordedEvent], ships: States[Ship]) -> None:
    """What the ships projection does, but for the poison."""
    SHIPS.apply(db, without_poison(events), ships)


query_service.projections.PROJECTIONS = (replace(SHIPS, apply=apply), USERS)

if __name__ == "__main__":
    # It takes the list of projections when it is imported.
    from query_service.__main__ import app

    app()
