"""KeyService over the key store: for the query services that follow this one."""

from collections.abc import Iterable
from typing import Any

from command_service.keys.store import KeyStore
from shared.aggregates.aggregate import Aggregate
from shared.call import Call
from shared.personal.requests import keys_response, keys_wanted
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse


class KeyService:
    """Hands out keys.

    Args:
        keys: these.
        aggregates: the kinds that there are.
    """

    def __init__(self, keys: KeyStore, aggregates: Iterable[Aggregate[Any]]) -> None:
        self._keys = keys
        self._kinds = [aggregate.name for aggregate in aggregates]

    async def get_keys(self, request: GetKeysRequest, call: Call) -> GetKeysResponse:
        """See the contract."""
        wanted = keys_wanted(request, call.tenant_id, self._kinds)
        return keys_response(await self._keys.find(wanted) if wanted else {})
