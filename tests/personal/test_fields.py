from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message

from command_service.aggregates import RULES
from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES
from command_service.command import CommandTypes
from query_service.projections import PROJECTIONS
from shared.personal.fields import erasing_events, personal_fields
from shared.personal.sealing import is_sealed, new_key, seal, unseal_event
from tests.log.builders import user
from tidemark.v1 import personal_pb2
from tidemark.v1.ship_pb2 import ShipRegistered
from tidemark.v1.user_pb2 import CreateUser, DeleteUser, User, UserCreated

TEXT = FieldDescriptorProto.TYPE_STRING
files = count()


def message(**fields: FieldDescriptorProto) -> type[Message]:
    """A message of a contract that somebody may write one day."""
    number = next(files)
    file = FileDescriptorProto(
        name=f"new_{number}.proto",
        package=f"new_{number}",
        syntax="proto3",
        dependency=["tidemark/v1/personal.proto", "tidemark/v1/user.proto"],
    )
    described = DescriptorProto(name="New")
    for place, (name, field) in enumerate(fields.items(), 1):
        described.field.append(field)
        described.field[-1].name, described.field[-1].number = name, place
    file.message_type.append(described)
    Default().Add(file)
    return message_factory.GetMessageClass(Default().FindMessageTypeByName(f"new_{number}.New"))


def field(
    kind: FieldDescriptorProto.Type.ValueType = TEXT,
    *,
    is_personal: bool = True,
    many: bool = False,
) -> FieldDescriptorProto:
    label = FieldDescriptorProto.LABEL_REPEATED if many else FieldDescriptorProto.LABEL_OPTIONAL
    made = FieldDescriptorProto(type=kind, label=label)
    made.options.Extensions[personal_pb2.personal] = is_personal
    return made


def test_the_contract_says_which_fields_are_personal() -> None:
    assert personal_fields(UserCreated) == ("username",)
    assert personal_fields(User) == ("username",)
    assert personal_fields(CreateUser) == ("username",)
    assert personal_fields(DeleteUser) == ()
    assert personal_fields(ShipRegistered) == ()


def test_whatever_a_new_message_calls_personal_is_encrypted_and_nothing_else() -> None:
    new = message(full_name=field(), port=field(is_personal=False), address=field())
    assert personal_fields(new) == ("full_name", "address")
    key = new_key()
    event = seal(new(full_name="Ada", port="Oslo", address="1 Quay"), user(), 4, key)
    assert event.port == "Oslo"  # type: ignore[attr-defined]  # its own
    assert is_sealed(event.full_name)  # type: ignore[attr-defined]  # the same
    assert is_sealed(event.address)  # type: ignore[attr-defined]  # the same
    unseal_event(event, user(), 4, key)
    assert event == new(full_name="Ada", port="Oslo", address="1 Quay")


def test_what_cannot_be_encrypted_cannot_be_called_personal() -> None:
    within = field(FieldDescriptorProto.TYPE_MESSAGE, is_personal=False)
    within.type_name = ".tidemark.v1.User"
    for wrong in (field(FieldDescriptorProto.TYPE_INT64), field(many=True), within):
        with pytest.raises(TypeError, match="wrong"):
            personal_fields(message(wrong=wrong))


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.aggregate.name)
def test_every_message_of_every_aggregate_has_personal_fields_as_they_can_be(rules: object) -> None:
    assert isinstance(rules, type(USER_RULES))
    aggregate = rules.aggregate
    for each in (aggregate.state, *aggregate.events, *rules.commands):
        personal_fields(each)


def test_events_that_erase_are_known_by_their_aggregates() -> None:
    assert erasing_events(rules.aggregate for rules in RULES) == {"tidemark.v1.UserErased"}


def test_a_service_does_not_start_if_what_is_personal_cannot_be_erased() -> None:
    for wrong in (
        replace(USER_RULES, erase=None),
        replace(USER_RULES, aggregate=replace(USER_RULES.aggregate, erased_by=None)),
    ):
        with pytest.raises(TypeError, match="cannot be erased"):
            CommandTypes([SHIP_RULES, wrong])


def test_a_service_does_not_start_if_a_state_has_what_it_cannot_make_readable() -> None:
    state: Any = message(user_id=field(is_personal=False), username=field(is_personal=False))
    wrong = replace(USER_RULES, aggregate=replace(USER_RULES.aggregate, state=state))
    with pytest.raises(TypeError, match="other personal fields"):
        CommandTypes([SHIP_RULES, wrong])


def test_no_answer_of_a_query_has_anything_personal_but_in_states() -> None:
    # Whoever adds one has to make it readable, as queries do with states.
    for projection in PROJECTIONS:
        state = projection.aggregate.state.DESCRIPTOR
        for method in projection.service.methods:
            assert not _personal_beside(method.output_type, state), method.full_name


def _personal_beside(described: Descriptor, state: Descriptor) -> bool:
    return described != state and any(
        each.GetOptions().Extensions[personal_pb2.personal]
        or (
            each.message_type is not None
            and not each.message_type.full_name.startswith("google.")
            and _personal_beside(each.message_type, state)
        )
        for each in described.fields
    )
