"""Users whose events are in UmaDB: `python -m benchmarks.peers.umadb_users` obeys orders.

It is what `benchmarks.load` is for the services, with UmaDB's own client for Python. That blocks,
and leaves Python to other threads meanwhile; each caller is a thread, and all share a client, as is
fastest. A user is known by a tag. Before it is ready, a process reads the log, and creates those of
its users that are not there yet. It then has the state and the position of each in memory, and they
belong to one caller each: none has to be read again.

With one operation in a request, a command is: judge it by the user's state, append the event under
the condition that the user has no later one. With more, so many are judged, and their events are
appended in one call, which is one transaction, and without a condition.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

from umadb import AppendCondition, Client, Event, Query, QueryItem

from benchmarks.errors import BenchmarkFailed
from benchmarks.orders import Order
from benchmarks.peers.obeying import Work, obey
from benchmarks.recorder import Recorder
from benchmarks.users import FIRST_BALANCE
from tidemark.v1.user_pb2 import ChangeUserBalance, UserBalanceChanged, UserCreated

CREATED = "tidemark.v1.UserCreated"
BALANCE_CHANGED = "tidemark.v1.UserBalanceChanged"
CREATED_AT_ONCE = 1000

Change = tuple["User", int]
"""Of a user's balance, and by how much."""


@dataclass
class User:
    """A user as a caller has it in memory.

    Args:
        user_id: the tag of its events.
        balance: after the last of them.
        position: of the last of them; 0 if there is none.
    """

    user_id: str
    balance: int = 0
    position: int = 0

    def created(self) -> Event:
        """The user's first event."""
        created = UserCreated(username=self.user_id, balance=FIRST_BALANCE)
        return Event(CREATED, created.SerializeToString(), [self.user_id])

    def changed(self, balance_change: int) -> Event:
        """Judges a change, and answers its event."""
        if self.balance + balance_change < 0:
            raise BenchmarkFailed("A change of balance was refused")
        changed = UserBalanceChanged(balance_change=balance_change)
        return Event(BALANCE_CHANGED, changed.SerializeToString(), [self.user_id])

    def has_no_later_event(self) -> AppendCondition:
        """The condition that what was judged is the user's last state."""
        return AppendCondition(Query([QueryItem(tags=[self.user_id])]), after=self.position)

    def record(self, event: Event, position: int) -> None:
        """Has the user as it is after an event."""
        if event.event_type == CREATED:
            self.balance = UserCreated.FromString(event.data).balance
        else:
            self.balance += UserBalanceChanged.FromString(event.data).balance_change
        self.position = position


class Users:
    """The users of one load process.

    Args:
        client: of the server.
        changes: one of each user; there may be other users in the log.
    """

    def __init__(self, client: Client, changes: Sequence[ChangeUserBalance]) -> None:
        self._client = client
        self._users = {change.user_id: User(change.user_id) for change in changes}
        self._read_to = 0
        self._read()
        self._create()
        self.changes = [(self._users[each.user_id], each.balance_change) for each in changes]

    def unread(self) -> int:
        """How many events of the users were not read yet; that of others is read over."""
        return sum(1 for _ in self._news())

    def _read(self) -> None:
        for user, event, position in self._news():
            user.record(event, position)

    def _create(self) -> None:
        missing = [user for user in self._users.values() if user.position == 0]
        for first in range(0, len(missing), CREATED_AT_ONCE):
            users = missing[first : first + CREATED_AT_ONCE]
            self._client.append([user.created() for user in users])
        self._read()

    def _news(self) -> Iterator[tuple[User, Event, int]]:
        for recorded in self._client.read(start=self._read_to + 1):
            self._read_to = recorded.position
            event = recorded.event
            (user_id,) = event.tags
            if (user := self._users.get(user_id)) is not None:
                yield user, event, recorded.position


@contextmanager
def prepared(order: Order) -> Iterator[Work]:
    """Has all users of the order in memory; afterwards, counts the events.

    Raises:
        BenchmarkFailed: the log has others than were acknowledged.
    """
    changes = [ChangeUserBalance.FromString(message) for message in order.requests.messages]
    with Client(f"http://{order.address}") as client, ThreadPoolExecutor(order.callers) as threads:
        users = Users(client, changes)
        appended = 0
        lock = threading.Lock()

        def call(number: int, recorder: Recorder) -> None:
            nonlocal appended
            own = cycle(users.changes[number :: order.callers])
            while not recorder.is_over:
                started = time.monotonic()
                _append(client, list(islice(own, order.operations)))
                with lock:
                    appended += order.operations
                    recorder.completed(started, order.operations)

        def work(recorder: Recorder) -> None:
            calls = [threads.submit(call, number, recorder) for number in range(order.callers)]
            for each in calls:
                each.result()

        yield work
        events = users.unread()
        if events != appended:
            raise BenchmarkFailed(f"{events} events are new where {appended} were acknowledged")


def _append(client: Client, changes: Sequence[Change]) -> None:
    events = [user.changed(balance_change) for user, balance_change in changes]
    condition = changes[0][0].has_no_later_event() if len(changes) == 1 else None
    last = client.append(events, condition)
    positions = range(last - len(events) + 1, last + 1)
    for (user, _), event, position in zip(changes, events, positions, strict=True):
        user.record(event, position)


if __name__ == "__main__":
    obey(prepared)
