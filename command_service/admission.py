"""Whose call goes on now, while several tenants call.

A call is answered in many steps, which gRPC and the event loop take first come, first served. With
hundreds of a tenant's calls under way, each step of another's waits for a step of all of those; so
does its very beginning, since gRPC hands over one call after the other. So, while several tenants
call, only a few calls are under way, at least one of each tenant. The others wait here, where they
cost nothing; next is the tenant that has the fewest under way.
"""

import asyncio
from collections import Counter
from types import TracebackType

PLACES = 8
"""Calls under way while several tenants call. With twice as many the service does a fifth more, and
has a new call wait twice as long."""

QUICK_COMMIT_S = 0.003
"""A commit that takes longer keeps calls under way that give the service nothing to do; so there
may be more of them, by as much as it takes longer."""

MAX_SLOWNESS = 8.0
"""Beyond, it is a database that does not answer."""

CONTESTED_S = 10.0
"""For how long several tenants call: from a call of another tenant than the call before."""


class Admission:
    """See the module's description. A tenant with no call here goes on at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._under_way: Counter[str] = Counter()
        self._commit_s = QUICK_COMMIT_S
        self._all_under_way = 0
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        """By tenant, in the order in which they came; sets have none."""
        self._all_waiting = 0
        self._latest: str | None = None
        self._contested_until = 0.0

    def one(self, tenant_id: str) -> "One":
        """A call that is under way for the length of a block."""
        return One(self, tenant_id)

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return self._all_waiting

    def waiting_of(self, tenant_id: str) -> int:
        """Those of a tenant."""
        return len(self._waiting.get(tenant_id, ()))

    @property
    def is_contested(self) -> bool:
        """Whether several tenants call."""
        return self._loop.time() < self._contested_until

    @property
    def slowness(self) -> float:
        """How many quick commits a commit lately took, 1 to MAX_SLOWNESS."""
        return min(max(self._commit_s / QUICK_COMMIT_S, 1.0), MAX_SLOWNESS)

    def committed_in(self, seconds: float) -> None:
        """Notes how long the log has been waited for, to read what commands need and to commit."""
        self._commit_s += (seconds - self._commit_s) / 8

    def note(self, tenant_id: str) -> None:
        """Notes that a tenant calls."""
        if tenant_id != self._latest:
            if self._latest is not None:
                self._contested_until = self._loop.time() + CONTESTED_S
            self._latest = tenant_id

    async def enter(self, tenant_id: str) -> None:
        """Returns when a call may go on."""
        self.note(tenant_id)
        if tenant_id not in self._waiting and self._may_go_on(tenant_id):
            self._go_on(tenant_id)
            return
        turn = self._loop.create_future()
        self._waiting.setdefault(tenant_id, {})[turn] = None
        self._all_waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            # It may have come to its turn before it was cancelled.
            if turn.cancelled():
                self._withdraw(tenant_id, turn)
            else:
                self.leave(tenant_id)
            raise

    def leave(self, tenant_id: str) -> None:
        """Notes that a call has ended, and has others go on."""
        self._all_under_way -= 1
        self._under_way[tenant_id] -= 1
        if not self._under_way[tenant_id]:
            del self._under_way[tenant_id]
            # It has no call under way, so it need not wait.
            self._call_up(tenant_id)
        while self._waiting:
            next_one = min(self._waiting, key=self._under_way.__getitem__)
            if not self._may_go_on(next_one):
                return
            self._call_up(next_one)

    def _call_up(self, tenant_id: str) -> None:
        """Has the first of a tenant's waiting calls go on, if there is one."""
        while turns := self._waiting.get(tenant_id):
            turn = next(iter(turns))
            self._withdraw(tenant_id, turn)
            if not turn.done():
                self._go_on(tenant_id)
                turn.set_result(None)
                return

    def _withdraw(self, tenant_id: str, turn: asyncio.Future[None]) -> None:
        """Takes a call out of those that wait; the tenant comes behind others that have as many."""
        turns = self._waiting.get(tenant_id, {})
        if turn in turns:
            del turns[turn], self._waiting[tenant_id]
            self._all_waiting -= 1
            if turns:
                self._waiting[tenant_id] = turns

    def _may_go_on(self, tenant_id: str) -> bool:
        return (
            self._all_under_way < PLACES * self.slowness
            or tenant_id not in self._under_way
            or not self.is_contested
        )

    def _go_on(self, tenant_id: str) -> None:
        self._all_under_way += 1
        self._under_way[tenant_id] += 1


class One:
    """A call under way. A context manager of its own: every call enters one."""

    __slots__ = ("_admission", "_tenant_id")

    def __init__(self, admission: Admission, tenant_id: str) -> None:
        self._admission = admission
        self._tenant_id = tenant_id

    async def __aenter__(self) -> None:
        await self._admission.enter(self._tenant_id)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._admission.leave(self._tenant_id)
