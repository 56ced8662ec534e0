"""An event filter, applied to records."""

from collections.abc import Callable

from shared.log.log import EventFilter
from tidemark.v1.event_pb2 import RecordedEvent

MAX_NEEDLES = 16
"""Values of one condition up to which looking for their bytes is cheaper than parsing."""


class Selection:
    """An event filter, made fast: by the bytes that a record has to contain before by its fields.

    Texts stand in a serialized event as they are, so where they are not, nothing has to be parsed.
    """

    def __init__(self, event_filter: EventFilter) -> None:
        self._tenant_id = event_filter.tenant_id
        self._is_tenant_all = event_filter == EventFilter(event_filter.tenant_id)
        tenant_ids = frozenset() if self._tenant_id is None else frozenset({self._tenant_id})
        conditions: list[tuple[Callable[[RecordedEvent], str], frozenset[str]]] = [
            (lambda event: event.aggregate_id, event_filter.aggregate_ids),
            (lambda event: event.correlation_id, event_filter.correlation_ids),
            (_event_type, event_filter.event_types),
            (lambda event: event.aggregate_type, event_filter.aggregate_types),
            (lambda event: event.tenant_id, tenant_ids),
        ]
        self._conditions = [each for each in conditions if each[1]]
        self._needles = [
            [value.encode() for value in values]
            for _, values in self._conditions
            if len(values) <= MAX_NEEDLES
        ]

    def has(self, record: bytes) -> bool:
        """Whether the record is selected."""
        event = RecordedEvent.FromString(record)
        return all(field(event) in values for field, values in self._conditions)

    def has_all_of(self, tenant_id: str | None) -> bool:
        """Whether all records of a tenant are selected; None: of several tenants."""
        return self._is_tenant_all and self._tenant_id in {None, tenant_id}

    def may_have(self, encoded: bytes) -> bool:
        """Whether a record may be selected that is somewhere in these bytes."""
        return all(any(needle in encoded for needle in each) for each in self._needles)


def _event_type(event: RecordedEvent) -> str:
    return event.payload.type_url.rpartition("/")[2]
