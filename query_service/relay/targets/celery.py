"""Events as Celery tasks, by a Redis broker.

The task is named after the event's type, its id is the event_id, and its argument the flat
dictionary. Celery's correlation id is the event's. What the dictionary does not say is in the
headers: causation_id, aggregate_type, aggregate_id, version, position; correlation_id once more.
"""

import zlib

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import RedisError

from query_service.relay.target import NotTaken, Unsendable
from shared.json_events.flat import to_flat
from tidemark.v1.event_pb2 import RecordedEvent

SCHEMES = ("redis://", "rediss://")
QUEUE_PREFIX = "tidemark-"

TRANSPORT_OPTIONS = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
    # Whoever sends tries again, and says so.
    "max_retries": 0,
}

PROBE = b"tidemark-probe"


class CeleryTarget:
    """Sends tasks.

    Args:
        broker: redis://HOST:PORT/DATABASE, or rediss://.
        queues: how many there are: tidemark-0, tidemark-1, … All events of an aggregate are in one.

    Raises:
        ValueError: the broker is no Redis.
    """

    def __init__(self, broker: str, queues: int) -> None:
        self.address = str(maybe_sanitize_url(broker))
        if not broker.startswith(SCHEMES):
            raise ValueError(f"{self.address} is no redis://HOST:PORT/DATABASE")
        self._queues = queues
        self._app = Celery("tidemark", broker=broker, set_as_current=False)
        self._app.conf.update(broker_transport_options=TRANSPORT_OPTIONS, task_publish_retry=False)

    def send(self, event: RecordedEvent) -> None:
        """See `Target.send`: confirmed is what Redis has answered to."""
        try:
            described = to_flat(event)
        except Exception as error:
            # Whatever it is, it is about this event alone, and will be the next time.
            raise Unsendable(f"{type(error).__name__}: {error}") from error
        try:
            self._app.send_task(
                described["event_type"],
                args=[described],
                task_id=event.event_id,
                queue=self._queue_of(event),
                headers=_headers_of(event),
                # Without one, the task's id stands in its place, as Celery has it.
                correlation_id=event.correlation_id or event.event_id,
            )
        except OperationalError as error:
            raise NotTaken(str(error)) from error

    def takes_others(self, event: RecordedEvent) -> bool:
        """See `Target.takes_others`: puts a message into the queue and takes it out again, in one.

        No worker ever sees it.
        """
        queue = self._queue_of(event)
        try:
            with self._app.connection_for_write() as connection:
                redis = connection.default_channel.client  # type: ignore[attr-defined]  # Redis's has
                redis.pipeline(transaction=True).lpush(queue, PROBE).lrem(queue, 1, PROBE).execute()
        except (OperationalError, RedisError):
            return False
        return True

    def close(self) -> None:
        """Closes the connections to the broker."""
        self._app.close()

    def _queue_of(self, event: RecordedEvent) -> str:
        aggregate = "\0".join((event.tenant_id, event.aggregate_type, event.aggregate_id))
        return f"{QUEUE_PREFIX}{zlib.crc32(aggregate.encode()) % self._queues}"


def _headers_of(event: RecordedEvent) -> dict[str, str | int]:
    return {
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "aggregate_type": event.aggregate_type,
        "aggregate_id": event.aggregate_id,
        "version": event.version,
        "position": event.position,
    }
