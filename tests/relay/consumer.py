"""A Celery application that tells a test of each event, and waits for its leave to be done.

`celery --app tests.relay.consumer worker`, with BROKER, and ARRIVALS for where the test listens.
"""

import json
import os
import socket
from typing import Any

from celery import Celery, Task

from shared.aggregates.known import known_aggregates

app = Celery("consumer", broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # What a worker had in hand that was killed comes again after a second or two.
    broker_transport_options={
        "visibility_timeout": 1,
        "unacked_restore_interval": 0.5,
        "unacked_restore_throttle": 1,
        # One that is killed as it looks for those of others keeps them from looking for so long.
        "unacked_mutex_expire": 1,
    },
)


class NotHandled(Exception):
    """The test has not given leave."""


def handle(self: "Task[Any, Any]", event: dict[str, Any]) -> None:
    """Any event."""
    request = self.request
    assert request.delivery_info is not None  # it came from a broker
    arrival = {
        "task": self.name,
        "id": request.id,
        "correlation_id": request.correlation_id,
        "headers": request.headers,
        "is_redelivered": request.delivery_info["redelivered"],
        "event": event,
    }
    host, _, port = os.environ["ARRIVALS"].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{json.dumps(arrival)}\n".encode())
        if not connection.recv(1):
            raise NotHandled


for aggregate in known_aggregates():
    for payload in aggregate.events:
        app.task(name=payload.DESCRIPTOR.full_name, bind=True)(handle)
