"""Commands that are to be decided: those of each tenant in their order, the tenants by turns.

So a tenant who sends more than can be done waits for itself, and nobody else does (Nagle 1987, "On
packet switches with infinite storage": fair queueing).
"""

from collections import OrderedDict, deque
from collections.abc import Iterable

from command_service.calls import Pending


class Arrivals:
    """See the module's description."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Pending]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, pending: Pending) -> None:
        """Puts a command at the end of its tenant's queue."""
        tenant_id = pending.command.key.tenant_id
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = deque()
        queue.append(pending)

    def put_back(self, returned: Iterable[Pending]) -> None:
        """Puts commands where they were, so that those for one aggregate take effect in order."""
        tenants = set()
        for pending in returned:
            self.add(pending)
            tenants.add(pending.command.key.tenant_id)
        for tenant_id in tenants:
            in_order = sorted(self._queues[tenant_id], key=lambda each: each.sequence)
            self._queues[tenant_id] = deque(in_order)

    def take(self, count: int) -> list[Pending]:
        """The next commands, as many from each tenant as there is room for."""
        batch: list[Pending] = []
        while self._queues and len(batch) < count:
            share = max((count - len(batch)) // len(self._queues), 1)
            tenant_id, queue = self._queues.popitem(last=False)
            batch.extend(queue.popleft() for _ in range(min(share, len(queue))))
            if queue:
                self._queues[tenant_id] = queue
        return batch
