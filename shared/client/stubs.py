"""Calls of any service by its descriptor, without generated stubs."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from tidemark import v1
from tidemark.v1.command_pb2 import CommandReceipt


class Stub:
    """A client of one service: an attribute for each RPC, as gRPC's own stubs have."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            setattr(self, method.name, callable_of(channel, method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"No such RPC: {name}")


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the contract, by the names of their files."""
    for module in iter_modules(v1.__path__, f"{v1.__name__}."):
        yield from import_module(module.name).DESCRIPTOR.services_by_name.values()


def is_command(method: MethodDescriptor) -> bool:
    """Whether an RPC takes a command: it then answers with a receipt."""
    return bool(method.output_type.full_name == CommandReceipt.DESCRIPTOR.full_name)


def callable_of(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """What calls an RPC over a channel."""
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    return make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
