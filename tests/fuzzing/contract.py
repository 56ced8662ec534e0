"""All that both services serve: the contract's services, and those that come with gRPC."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    OneofDescriptor,
    ServiceDescriptor,
)

import tidemark.v1
from shared.grpc_services import HEALTH, REFLECTION
from tidemark.v1.command_pb2 import CommandReceipt

Path = tuple[FieldDescriptor, ...]
"""From a request to one of its fields, through the messages that it is in."""

TENANT_HEADER = "x-tenant-id"

LEAVES = {
    f"google.protobuf.{name}" for name in ("Any", "Duration", "Empty", "FieldMask", "Timestamp")
}
"""Messages that are one value: a service names them, not what is in them."""


def contract() -> Iterator[ServiceDescriptor]:
    """Every service of the contract."""
    for module in iter_modules(tidemark.v1.__path__):
        file = import_module(f"tidemark.v1.{module.name}").DESCRIPTOR
        yield from file.services_by_name.values()


OURS: tuple[ServiceDescriptor, ...] = tuple(contract())
LIBRARIES: tuple[ServiceDescriptor, ...] = (HEALTH, REFLECTION)
NOT_IMPLEMENTED = {"grpc.health.v1.Health.List"}
"""RPCs that gRPC has given its services lately, and not implemented."""

METHODS: tuple[MethodDescriptor, ...] = tuple(
    method
    for service in (*OURS, *LIBRARIES)
    for method in service.methods
    if method.full_name not in NOT_IMPLEMENTED
)
BULK = "tidemark.v1.BulkCommandService.Execute"
COMMANDS: tuple[MethodDescriptor, ...] = tuple(
    method for method in METHODS if method.output_type == CommandReceipt.DESCRIPTOR
)

OF_THE_SERVER = {"tidemark.v1.ProjectionService"}
"""Services that tell no tenant's data, and do not ask whose call it is."""

FOR_EVERY_TENANT = {"tidemark.v1.EventLogService.Subscribe"}
"""RPCs that can be asked for all tenants at once."""


def is_ours(method: MethodDescriptor) -> bool:
    """Whether the rules of the contract are the RPC's."""
    return method.containing_service in OURS


def is_of_a_tenant(method: MethodDescriptor) -> bool:
    """Whether the RPC has to know whose call it is."""
    return is_ours(method) and method.containing_service.full_name not in OF_THE_SERVER


def tenant_of(request: Descriptor) -> str:
    """The tenant for which an RPC is called: its own."""
    return request.full_name


def paths(message: Descriptor) -> Iterator[Path]:
    """Every field of a message, also of those in it; of one that has itself in it, once."""
    yield from _paths(message, (message,))


def _paths(message: Descriptor, within: tuple[Descriptor, ...]) -> Iterator[Path]:
    for field in message.fields:
        yield (field,)
        inner = field.message_type
        if inner is not None and not is_leaf(field) and inner not in within:
            yield from ((field, *rest) for rest in _paths(inner, (*within, inner)))


def name_of(path: Path) -> str:
    """As a service names a field that is wrong."""
    return ".".join(field.name for field in path)


def names(message: Descriptor) -> frozenset[str]:
    """All that can be wrong with a message or a command packed in it, as a service names it."""
    own = {name_of(path) for path in paths(message)}
    if any(is_packed(path[-1]) for path in paths(message)):
        own.update(*(names(method.input_type) for method in COMMANDS))
    return frozenset(own)


def is_packed(field: FieldDescriptor) -> bool:
    """Whether it is an Any. In a request it is for a command."""
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Any"


def is_leaf(field: FieldDescriptor) -> bool:
    """Whether a message in it is one value."""
    return field.message_type is None or field.message_type.full_name in LEAVES or is_map(field)


def is_map(field: FieldDescriptor) -> bool:
    """Whether it is a map, which on the wire is a list of entries."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def choices(message: Descriptor) -> Iterator[OneofDescriptor]:
    """Its oneofs, without those that only stand for `optional`."""
    for oneof in message.oneofs:
        if [f"_{field.name}" for field in oneof.fields] != [oneof.name]:
            yield oneof
