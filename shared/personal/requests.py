"""What both services make of a request for keys."""

from collections.abc import Collection

from shared.checks import check, id_violations, identifier
from shared.errors import FieldViolation, invalid_field
from shared.log.log import AggregateKey
from shared.personal.sealing import Keys
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse, PersonalKey

MAX_KEYS = 1000
"""Of one request."""


def keys_wanted(
    request: GetKeysRequest, tenant_id: str, kinds: Collection[str]
) -> list[AggregateKey]:
    """Whose keys a request asks for.

    Args:
        request: of a caller.
        tenant_id: whose data it is about.
        kinds: the names of the aggregates that there are.

    Raises:
        InvalidFields: everything that is wrong.
    """
    check(request, identifier("aggregate_type"), _aggregate_ids)
    kind = request.aggregate_type
    if kind not in kinds:
        raise invalid_field("aggregate_type", f"is unknown; there are: {', '.join(kinds)}")
    return [AggregateKey(tenant_id, kind, each) for each in dict.fromkeys(request.aggregate_ids)]


def keys_response(keys: Keys) -> GetKeysResponse:
    """The response that has these keys."""
    return GetKeysResponse(
        keys=[PersonalKey(aggregate_id=each.aggregate_id, key=key) for each, key in keys.items()]
    )


def _aggregate_ids(request: GetKeysRequest) -> list[FieldViolation]:
    field = "aggregate_ids"
    if len(request.aggregate_ids) > MAX_KEYS:
        return [FieldViolation(field, f"must be at most {MAX_KEYS}")]
    for each in request.aggregate_ids:
        if not each:
            return [FieldViolation(field, "must not be empty")]
        if violations := id_violations(field, each):
            return violations
    return []
