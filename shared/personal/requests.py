"""What both services make of a request for keys."""

from shared.checks import check, id_violations, identifier
from shared.errors import FieldViolation
from shared.personal.sealing import Keys
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse, PersonalKey

MAX_KEYS = 1000
"""Of one request."""


def check_keys_request(request: GetKeysRequest) -> None:
    """Checks the shape of a request.

    Raises:
        InvalidFields: everything that is wrong.
    """
    check(request, identifier("aggregate_type"), _aggregate_ids)


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
