"""Which positions somebody had been told of, and when."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from tests.history.recorded import Failure, History, Replayed, Unknown
from tidemark.v1.command_pb2 import CommandReceipt


class Telling(NamedTuple):
    """An answer that names a position: everything up to it was durable, and could be read."""

    time: float
    position: int
    client: str
    is_receipt: bool = False


NOTHING = Telling(float("-inf"), 0, "nobody")


class Told:
    """Everything that anybody was told in a history."""

    def __init__(self, history: History) -> None:
        self.tellings = sorted(_tellings(history))
        self._times = [each.time for each in self.tellings]
        self._newest: list[Telling] = []
        newest = NOTHING
        for each in self.tellings:
            if each.position > newest.position:
                newest = each
            self._newest.append(newest)

    def before(self, time: float) -> Telling:
        """The answer with the newest position of those that had come by then."""
        index = bisect_left(self._times, time)
        return self._newest[index - 1] if index else NOTHING


def _tellings(history: History) -> Iterator[Telling]:
    for call in history.calls:
        match call.answer:
            case Failure() | Unknown() | Replayed(responses=()):
                continue
            case Replayed(responses=responses):
                yield Telling(call.ended, responses[-1].event.position, call.client)
            case CommandReceipt(position=position):
                yield Telling(call.ended, position, call.client, is_receipt=True)
            case answer:
                # Every answer of a query has one.
                position = answer.position  # type: ignore[attr-defined]
                yield Telling(call.ended, position, call.client)
    for subscription in history.subscriptions:
        for delivery in (each for connection in subscription.connections for each in connection):
            position = max(delivery.position, delivery.head_position)
            yield Telling(delivery.received, position, subscription.client)
    for watch in history.watches:
        for connection in watch.connections:
            for received, response in connection.responses:
                position = response.position  # type: ignore[attr-defined]  # the same
                yield Telling(received, position, watch.client)
