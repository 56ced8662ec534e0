"""Random messages and random bytes to every RPC: `make fuzz` has more of them, and new ones."""

import asyncio
import os
from collections.abc import Sequence

import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.answers import Allowed, complaints
from tests.fuzzing.cases import WAITING
from tests.fuzzing.contract import METHODS, TENANT_HEADER, is_ours, names, paths
from tests.fuzzing.random_messages import Request, damaged, noise, requests
from tests.fuzzing.target import Target

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
"""Of each kind; 0: a few, which are always the same."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0 if EXAMPLES else 60)]

fuzzed = settings(
    max_examples=EXAMPLES or 50,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
MAX_CALLS = 12
"""Of one example, all at once."""

ALLOWED = {
    method: Allowed(
        fields=names(method.input_type),
        may_wait=any(path[-1].name in WAITING for path in paths(method.input_type)),
        plain=frozenset() if is_ours(method) else frozenset({StatusCode.NOT_FOUND}),
    )
    for method in METHODS
}


async def assert_answered(services: Target, calls: Sequence[tuple[Request, str]]) -> None:
    async def tried(server: str, request: Request, tenant_id: str) -> list[str]:
        method, content = request
        allowed = ALLOWED[method]
        metadata = ((TENANT_HEADER, tenant_id),)
        answer = await services.call(
            server, method, content, metadata=metadata, may_wait=allowed.may_wait
        )
        return [f"{method.full_name}: {each}" for each in complaints(answer, allowed)]

    found = await asyncio.gather(
        *(
            tried(server, request, tenant_id)
            for request, tenant_id in calls
            for server in services.servers_of(request[0])
        )
    )
    wrong = [each for some in found for each in some]
    assert not wrong, "\n".join(wrong)


def calls_of(requests: st.SearchStrategy[Request]) -> st.SearchStrategy[list[tuple[Request, str]]]:
    tenants = st.sampled_from(["left", "right"])
    return st.lists(st.tuples(requests, tenants), min_size=1, max_size=MAX_CALLS)


@fuzzed
@given(calls=calls_of(requests()))
async def test_a_random_message_is_answered(
    services: Target, calls: list[tuple[Request, str]]
) -> None:
    await assert_answered(services, calls)


@fuzzed
@given(calls=calls_of(damaged()))
async def test_a_damaged_message_is_answered(
    services: Target, calls: list[tuple[Request, str]]
) -> None:
    await assert_answered(services, calls)


@fuzzed
@given(calls=calls_of(noise()))
async def test_random_bytes_are_answered(
    services: Target, calls: list[tuple[Request, str]]
) -> None:
    await assert_answered(services, calls)


async def test_all_that_was_accepted_is_in_the_log_and_nothing_else(services: Target) -> None:
    assert await services.settle() == []
    assert services.answers[StatusCode.OK] > fuzzed.max_examples, services.answers
    assert services.answers[StatusCode.INVALID_ARGUMENT] > fuzzed.max_examples, services.answers
