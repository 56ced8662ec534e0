"""Each RPC with a valid request in which one thing is bad; the cases come from the descriptors."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from grpc import StatusCode

from shared.aggregates.aggregate import TYPE_URL_PREFIX
from tests.fuzzing.accepting import Given, find_givens, give
from tests.fuzzing.answers import Answer, complaints
from tests.fuzzing.cases import Case, cases, cases_of_fields
from tests.fuzzing.contract import (
    BULK,
    COMMANDS,
    METHODS,
    TENANT_HEADER,
    is_ours,
    tenant_of,
)
from tests.fuzzing.target import Target
from tidemark.v1.command_pb2 import ExecuteRequest, ExecuteResponse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

COMMANDS_PER_REQUEST = 250
"""Of which some have texts of 100,000 characters."""

Givens = dict[MethodDescriptor, Given]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def givens(services: Target) -> Givens:
    """What has to have happened before each RPC accepts a valid request."""
    return await find_givens(services)


async def test_what_is_tried_is_all_that_the_services_serve(services: Target) -> None:
    served = set.union(*services.served.values())
    assert served == {method.containing_service.full_name for method in METHODS}


async def test_every_rpc_accepts_a_valid_request(services: Target, givens: Givens) -> None:
    # One that never does needs a word in `tests.fuzzing.valid`, or has a bug.
    assert [each.full_name for each in METHODS if is_ours(each) and each not in givens] == []
    assert await services.settle() == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
async def test_what_is_bad_is_named_and_changes_nothing(
    services: Target, givens: Givens, method: MethodDescriptor
) -> None:
    metadata = ((TENANT_HEADER, tenant_of(method.input_type)),)
    await give(services, givens.get(method, ()), metadata)

    async def tried(server: str, case: Case) -> list[str]:
        answer = await services.call(
            server, method, case.request, metadata=case.metadata, may_wait=case.allowed.may_wait
        )
        return [f"{case}: {each}" for each in complaints(answer, case.allowed)]

    found = await asyncio.gather(
        *(tried(server, case) for server in services.servers_of(method) for case in cases(method))
    )

    wrong = [each for some in found for each in some]
    assert not wrong, "\n".join(wrong)
    assert await services.settle() == []


async def test_what_is_bad_in_one_of_many_commands_is_named_in_its_result(
    services: Target,
) -> None:
    [execute] = [method for method in METHODS if method.full_name == BULK]
    metadata = ((TENANT_HEADER, "many"),)
    wrong = []
    for some in bulks([case for method in COMMANDS for case in packed_cases(method)]):
        request = ExecuteRequest(commands=[command for command, _ in some])
        answer = await services.call(
            "command_service", execute, request.SerializeToString(), metadata=metadata
        )
        [response] = answer.responses
        results = ExecuteResponse.FromString(response).results
        for (_, case), result in zip(some, results, strict=True):
            errors = [result.error] if result.HasField("error") else []
            alone = Answer(StatusCode.OK, errors=errors)
            wrong += [f"{case}: {each}" for each in complaints(alone, case.allowed)]

    assert not wrong, "\n".join(wrong)
    assert await services.settle() == []


def packed_cases(method: MethodDescriptor) -> Iterator[tuple[AnyMessage, Case]]:
    """The command of an RPC, with each bad value, as one of many."""
    type_url = f"{TYPE_URL_PREFIX}{method.input_type.full_name}"
    for case in cases_of_fields(method.input_type):
        yield AnyMessage(type_url=type_url, value=case.request), case


def bulks(cases: Sequence[tuple[AnyMessage, Case]]) -> Iterator[Sequence[tuple[AnyMessage, Case]]]:
    """Pieces of a size that one request can have."""
    for start in range(0, len(cases), COMMANDS_PER_REQUEST):
        yield cases[start : start + COMMANDS_PER_REQUEST]
