"""The query service with a ships projection that cannot apply one event: a ship named "poison".

Runs as `python -m tests.services.faulty_query_service serve`.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import query_service.projections
from query_service.projections.ship import SHIPS
from query_service.projections.user import USERS
from shared.log.log import AggregateKey
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.ship_pb2 import ShipRegistered

POISON = "poison"


def apply(db: sqlite3.Connection, events: Sequence[RecordedEvent]) -> set[AggregateKey]:
    """What the ships projection does, but for the poison."""
    for event in events:
        payload = SHIPS.aggregate.unpack_known(event)
        if isinstance(payload, ShipRegistered) and payload.name == POISON:
            raise ValueError("It is poison")
    return SHIPS.apply(db, events)


query_service.projections.PROJECTIONS = (replace(SHIPS, apply=apply), USERS)

if __name__ == "__main__":
    # It takes the list of projections when it is imported.
    from query_service.__main__ import app

    app()
