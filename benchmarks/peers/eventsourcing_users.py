"""Users as the library `eventsourcing` keeps them, in the process that changes them.

`python -m benchmarks.peers.eventsourcing_users` obeys orders as `benchmarks.load` does; the address
is the path of a SQLite file that does not exist yet. Its users are created, and in the cache of
aggregates, before it is ready. A command is then: get the aggregate, trigger an event, save.

The journal is a WAL, and `synchronous` is FULL: what SQLite, and the library, do by default. Cached
aggregates are neither looked up again in the file nor copied, as is right, and fastest, where one
thread alone writes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.errors import BenchmarkFailed
from benchmarks.orders import Order
from benchmarks.peers.obeying import Work, obey
from benchmarks.recorder import Recorder
from benchmarks.users import FIRST_BALANCE
from tidemark.v1.user_pb2 import ChangeUserBalance

FULL = 2

SETTINGS = {
    "PERSISTENCE_MODULE": "eventsourcing.sqlite",
    "AGGREGATE_CACHE_MAXSIZE": "0",
    "AGGREGATE_CACHE_FASTFORWARD": "n",
    "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
}


class User(Aggregate):  # type: ignore[misc]
    """A user with a balance that never goes below zero."""

    @event("Created")  # type: ignore[untyped-decorator]
    def __init__(self, username: str, balance: int) -> None:
        self.username = username
        self.balance = balance

    def change_balance(self, balance_change: int) -> None:
        """Judges, then triggers the event."""
        if self.balance + balance_change < 0:
            raise BenchmarkFailed("A change of balance was refused")
        self._change_balance(balance_change)

    @event("BalanceChanged")  # type: ignore[untyped-decorator]
    def _change_balance(self, balance_change: int) -> None:
        self.balance += balance_change


class Users(Application[UUID]):  # type: ignore[misc]
    """All users."""


@contextmanager
def prepared(order: Order) -> Iterator[Work]:
    """Has all users of the order in memory; afterwards, counts the events.

    Raises:
        BenchmarkFailed: the file is less durable than said, or has other events.
    """
    changes = [ChangeUserBalance.FromString(message) for message in order.requests.messages]
    with Users({**SETTINGS, "SQLITE_DBNAME": order.address}) as users:
        created = {each.user_id: User(each.user_id, FIRST_BALANCE) for each in changes}
        users.save(*created.values())
        requests = cycle([(created[each.user_id].id, each.balance_change) for each in changes])
        with users.factory.datastore.transaction(commit=True) as cursor:
            cursor.execute("PRAGMA synchronous")
            if tuple(cursor.fetchone()) != (FULL,):
                raise BenchmarkFailed("Events are not durable once they are saved")
        saved = len(created)

        def work(recorder: Recorder) -> None:
            nonlocal saved
            while not recorder.is_over:
                started = time.monotonic()
                user_id, balance_change = next(requests)
                user = users.repository.get(user_id)
                user.change_balance(balance_change)
                users.save(user)
                saved += 1
                recorder.completed(started)

        yield work
        events = users.recorder.max_notification_id()
        if events != saved:
            raise BenchmarkFailed(f"{events} events are there where {saved} were saved")


if __name__ == "__main__":
    obey(prepared)
