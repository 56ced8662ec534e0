"""Who is let in: every RPC with every kind of credentials, and nobody by a gap in the table."""

from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from shared.rpc import Calls, methods_of
from shared.security.authorization import DEMANDS
from shared.security.limits import LimitOptions
from tests.security import matrix
from tests.security.secured import secured
from tests.services.deployment import SHIP_QUERIES


async def test_every_rpc_lets_in_whom_it_has_to_and_nobody_else(tmp_path: Path) -> None:
    async with secured(tmp_path, "--channelz") as both:
        found = await matrix.outcomes(both)

    wrong = {cell: outcome for cell, outcome in found.items() if outcome[0] != outcome[1]}
    assert wrong == {}
    assert len(found) > 1200
    assert {rpc for _, rpc, _ in found} == set(DEMANDS), "a demand of an RPC that nobody serves"


async def test_an_rpc_that_the_table_does_not_have_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service: ServiceDescriptor = SHIP_QUERIES
    monkeypatch.delitem(DEMANDS, "tidemark.v1.ShipQueryService.ListPorts")

    with pytest.raises(LookupError, match=r"tidemark\.v1\.ShipQueryService\.ListPorts"):
        Calls(LimitOptions()).handler(service, methods_of(object()))
