"""What has to have happened for a valid request to be accepted: found out by trying."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.descriptor import MethodDescriptor

from tests.fuzzing.cases import Metadata
from tests.fuzzing.contract import COMMANDS, METHODS, TENANT_HEADER, is_ours
from tests.fuzzing.target import Target
from tests.fuzzing.valid import valid
from tidemark.v1.command_pb2 import CommandReceipt

Given = tuple[MethodDescriptor, ...]


async def find_givens(services: Target) -> dict[MethodDescriptor, Given]:
    """For each RPC the shortest sequence of commands after which it accepts a valid request.

    An RPC for which there is none is missing.
    """
    found: dict[MethodDescriptor, Given] = {}
    sequences: list[Given] = [()]
    missing = [method for method in METHODS if is_ours(method)]
    while sequences:
        trials = await asyncio.gather(*(_first(services, sequences, each) for each in missing))
        new = {
            method: given
            for method, given in zip(missing, trials, strict=True)
            if given is not None
        }
        found.update(new)
        missing = [method for method in missing if method not in new]
        sequences = [(*given, method) for method, given in new.items() if method in COMMANDS]
    return found


async def _first(
    services: Target, sequences: Sequence[Given], method: MethodDescriptor
) -> Given | None:
    for given in sequences:
        if await _accepts(services, given, method):
            return given
    return None


async def give(services: Target, given: Sequence[MethodDescriptor], metadata: Metadata) -> int:
    """Executes a valid command of each kind; the position of the last."""
    position = 0
    for method in given:
        request = valid(method.input_type).SerializeToString()
        answer = await services.call("command_service", method, request, metadata=metadata)
        assert answer.code is grpc.StatusCode.OK, answer
        position = CommandReceipt.FromString(answer.responses[0]).position
    return position


async def _accepts(services: Target, given: Given, method: MethodDescriptor) -> bool:
    metadata = ((TENANT_HEADER, f"trial-{uuid4()}"),)
    position = await give(services, given, metadata)
    request: Any = valid(method.input_type)
    if position and "min_position" in method.input_type.fields_by_name:
        request.min_position = position
    server = services.servers_of(method)[0]
    answer = await services.call(server, method, request.SerializeToString(), metadata=metadata)
    return answer.code is grpc.StatusCode.OK
