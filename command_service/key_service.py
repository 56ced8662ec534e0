"""KeyService over the key store: for the query services that follow this one."""

from command_service.keys.store import KeyStore
from shared.call import Call
from shared.log.log import AggregateKey
from shared.personal.requests import check_keys_request, keys_response
from tidemark.v1.personal_pb2 import GetKeysRequest, GetKeysResponse


class KeyService:
    """Hands out keys.

    Args:
        keys: these.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    async def get_keys(self, request: GetKeysRequest, call: Call) -> GetKeysResponse:
        """See the contract."""
        tenant_id = call.tenant_id
        check_keys_request(request)
        wanted = {
            AggregateKey(tenant_id, request.aggregate_type, each) for each in request.aggregate_ids
        }
        return keys_response(await self._keys.find(wanted) if wanted else {})
