"""Users as they are, and their statements."""

import sqlite3
from collections.abc import Sequence

from query_service.aggregate_queries import get, watch
from query_service.pages import PAGE_CHECKS, Cursor
from query_service.past import Past, not_found
from query_service.projection import Projection, States
from query_service.projector import Projector
from shared.aggregates.user import USER
from shared.checks import check, identifier
from shared.log.log import AggregateKey
from shared.rpc import Call
from tidemark.v1 import user_pb2
from tidemark.v1.event_pb2 import RecordedEvent
from tidemark.v1.user_pb2 import (
    BalanceChange,
    GetUserRequest,
    GetUserResponse,
    ListBalanceChangesRequest,
    ListBalanceChangesResponse,
    ListUsersRequest,
    ListUsersResponse,
    User,
    UserBalanceChanged,
    WatchUserRequest,
    WatchUserResponse,
)

FIRST_OF_NEWEST_FIRST = 2**63 - 1

SCHEMA = """
CREATE TABLE users (
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX users_there ON users (tenant_id, user_id) WHERE NOT deleted;
CREATE TABLE balance_changes (
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    change BLOB NOT NULL,
    PRIMARY KEY (tenant_id, user_id, version)
) STRICT, WITHOUT ROWID;
"""


def apply(db: sqlite3.Connection, events: Sequence[RecordedEvent]) -> set[AggregateKey]:
    """See `Projection.apply`."""
    users = States(db, USER, "users")
    changes = []
    for event in events:
        user = users.fold(event)
        payload = USER.unpack_known(event)
        if isinstance(payload, UserBalanceChanged):
            change = BalanceChange(
                version=event.version,
                occurred_at=event.occurred_at,
                balance_change=payload.balance_change,
                balance=user.balance,
                correlation_id=event.correlation_id,
            )
            changes.append(
                (event.tenant_id, event.aggregate_id, event.version, change.SerializeToString())
            )
    db.executemany(
        "INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " deleted = excluded.deleted, state = excluded.state",
        [
            (key.tenant_id, key.aggregate_id, user.deleted, user.SerializeToString())
            for key, user in users.states.items()
        ],
    )
    db.executemany("INSERT INTO balance_changes VALUES (?, ?, ?, ?)", changes)
    return set(users.states)


class UserQueries:
    """UserQueryService. A deleted user is there for the past and for those who watch, only."""

    def __init__(self, projector: Projector, past: Past) -> None:
        self._projector = projector
        self._past = past

    async def get_user(self, request: GetUserRequest, call: Call) -> GetUserResponse:
        """See the contract."""
        user, position = await get(self._projector, self._past, request, call, _user)
        return GetUserResponse(user=user, position=position)

    async def list_users(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check(request, *PAGE_CHECKS)
        cursor = Cursor(request, tenant_id, "")
        (users, token), position = await self._projector.query(
            call, request.min_position, _users, tenant_id, cursor
        )
        return ListUsersResponse(
            users=[User.FromString(user) for user in users],
            next_page_token=token,
            position=position,
        )

    async def watch_user(self, request: WatchUserRequest, call: Call) -> None:
        """See the contract."""
        await watch(
            self._projector,
            request,
            call,
            _user_even_deleted,
            WatchUserResponse,
            is_last=lambda user: user.deleted,
        )

    async def list_balance_changes(
        self, request: ListBalanceChangesRequest, call: Call
    ) -> ListBalanceChangesResponse:
        """See the contract."""
        key = AggregateKey(call.tenant_id, USER.name, request.user_id)
        check(request, identifier("user_id"), *PAGE_CHECKS)
        cursor = Cursor(request, key.tenant_id, FIRST_OF_NEWEST_FIRST)
        (changes, token), position = await self._projector.query(
            call, request.min_position, _balance_changes, key, cursor
        )
        return ListBalanceChangesResponse(
            changes=[BalanceChange.FromString(change) for change in changes],
            next_page_token=token,
            position=position,
        )


def _user(db: sqlite3.Connection, key: AggregateKey) -> User | None:
    user = _user_even_deleted(db, key)
    return None if user is None or user.deleted else user


def _user_even_deleted(db: sqlite3.Connection, key: AggregateKey) -> User | None:
    found = db.execute(
        "SELECT state FROM users WHERE tenant_id = ? AND user_id = ?",
        (key.tenant_id, key.aggregate_id),
    ).fetchone()
    return User.FromString(found[0]) if found else None


def _users(db: sqlite3.Connection, tenant_id: str, cursor: Cursor) -> tuple[list[bytes], str]:
    rows = db.execute(
        "SELECT user_id, state FROM users WHERE tenant_id = ? AND user_id > ? AND NOT deleted"
        " ORDER BY user_id LIMIT ?",
        (tenant_id, cursor.after, cursor.size + 1),
    )
    return cursor.page(rows)


def _balance_changes(
    db: sqlite3.Connection, key: AggregateKey, cursor: Cursor
) -> tuple[list[bytes], str]:
    if _user(db, key) is None:
        raise not_found(USER)
    rows = db.execute(
        "SELECT version, change FROM balance_changes"
        " WHERE tenant_id = ? AND user_id = ? AND version < ? ORDER BY version DESC LIMIT ?",
        (key.tenant_id, key.aggregate_id, cursor.after, cursor.size + 1),
    )
    return cursor.page(rows)


USERS = Projection(
    name="users",
    aggregate=USER,
    schema_version=1,
    schema=SCHEMA,
    apply=apply,
    service=user_pb2.DESCRIPTOR.services_by_name["UserQueryService"],
    queries=UserQueries,
)
