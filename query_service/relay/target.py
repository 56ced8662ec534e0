"""What events are passed on to, as a port: one implementation for each kind of queue or broker."""

from typing import Protocol

from tidemark.v1.event_pb2 import RecordedEvent


class Unsendable(Exception):
    """No message can be made of the event; the sentence says why. Trying again cannot help."""


class NotTaken(Exception):
    """The target did not confirm the message; it may have it nevertheless."""


class Target(Protocol):
    """Takes events, one at a time, in the log's order.

    All calls are made from one thread, and may block it, for some seconds at most.
    """

    address: str
    """Where it is, for the log: without a password."""

    def send(self, event: RecordedEvent) -> None:
        """Returns once the target has confirmed that it has the event.

        Events of one aggregate, in the order in which they were sent, are in one queue.

        Raises:
            Unsendable: no message can be made of it.
            NotTaken: it was not confirmed.
        """

    def takes_others(self, event: RecordedEvent) -> bool:
        """Whether it would take another message where it does not take the event's."""

    def close(self) -> None:
        """Lets go of the connections."""
