"""Users as they are, and their statements."""

import sqlite3
from contextlib import aclosing

from query_service.aggregate_queries import get, get_now, watch
from query_service.pages import PAGE_CHECKS, Cursor
from query_service.past import Moment, Past
from query_service.projection import Projection
from query_service.projector import Projector
from shared.aggregates.user import USER
from shared.call import Call
from shared.checks import check, identifier
from shared.log.log import AggregateKey
from tidemark.v1 import user_pb2
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
CREATE INDEX users_there ON states (tenant_id, aggregate_id) WHERE NOT deleted;
"""


class UserQueries:
    """UserQueryService."""

    def __init__(self, projector: Projector, past: Past) -> None:
        self._projector = projector
        self._past = past

    async def get_user(self, request: GetUserRequest, call: Call) -> GetUserResponse:
        """See the contract."""
        user, position = await get(self._projector, self._past, request, call)
        return GetUserResponse(user=user, position=position)

    async def list_users(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check(request, *PAGE_CHECKS)
        cursor = Cursor(request, tenant_id, "")
        (users, token), position = await self._projector.query(
            call, request.min_position, _users, tenant_id, cursor
        )
        found = [User.FromString(user) for user in users]
        await self._projector.unseal(tenant_id, found)
        return ListUsersResponse(
            users=found,
            next_page_token=token,
            position=position,
        )

    async def watch_user(self, request: WatchUserRequest, call: Call) -> None:
        """See the contract."""
        await watch(self._projector, request, call, WatchUserResponse)

    async def list_balance_changes(
        self, request: ListBalanceChangesRequest, call: Call
    ) -> ListBalanceChangesResponse:
        """See the contract."""
        key = AggregateKey(call.tenant_id, USER.name, request.user_id)
        check(request, identifier("user_id"), *PAGE_CHECKS)
        cursor = Cursor(request, key.tenant_id, FIRST_OF_NEWEST_FIRST)
        user, position = await get_now(self._projector, key, request, call)
        newest = min(user.version, cursor.after - 1)
        if 0 < newest < user.version:
            user, _ = await self._past.state(USER, key, Moment(position, newest))
        changes, token = cursor.page(await self._changes(key, user, newest, cursor.size + 1))
        return ListBalanceChangesResponse(
            changes=[BalanceChange.FromString(change) for change in changes],
            next_page_token=token,
            position=position,
        )

    async def _changes(
        self, key: AggregateKey, user: User, newest: int, count: int
    ) -> list[tuple[int, bytes]]:
        """The last changes up to a version, at which the user is given, newest first."""
        changes: list[tuple[int, bytes]] = []
        balance = user.balance
        async with aclosing(self._past.events_newest_first(key, newest, count)) as events:
            async for event in events:
                change = USER.unpack_known(event)
                if isinstance(change, UserBalanceChanged):
                    row = BalanceChange(
                        version=event.version,
                        occurred_at=event.occurred_at,
                        balance_change=change.balance_change,
                        balance=balance,
                        correlation_id=event.correlation_id,
                    )
                    changes.append((event.version, row.SerializeToString()))
                    balance -= change.balance_change
                if len(changes) == count:
                    break
        return changes


def _users(db: sqlite3.Connection, tenant_id: str, cursor: Cursor) -> tuple[list[bytes], str]:
    rows = db.execute(
        "SELECT aggregate_id, state FROM states"
        " WHERE tenant_id = ? AND aggregate_id > ? AND NOT deleted ORDER BY aggregate_id LIMIT ?",
        (tenant_id, cursor.after, cursor.size + 1),
    )
    return cursor.page(rows)


USERS = Projection(
    name="users",
    aggregate=USER,
    schema_version=2,
    service=user_pb2.DESCRIPTOR.services_by_name["UserQueryService"],
    queries=UserQueries,
    is_deleted=lambda user: user.deleted,
    columns={"deleted": lambda user: user.deleted},
    schema=SCHEMA,
)
