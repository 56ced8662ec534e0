"""Calls of any service by its descriptor, without generated stubs."""

from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor


class Stub:
    """A client of one service: an attribute for each RPC, as gRPC's own stubs have."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            setattr(self, method.name, _callable(channel, method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"No such RPC: {name}")


def _callable(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
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
